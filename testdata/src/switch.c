// Switches that compile to jump tables and to tables of values, and computed
// gotos.

static unsigned long steps;

int switch_jump(int op, int a, int b)
{
	steps++;
	switch (op) {
	case 0: return a + b;
	case 1: return a - b;
	case 2: return a * b;
	case 3: return b ? a / b : 0;
	case 4: return a << (b & 31);
	case 5: return a >> (b & 31);
	case 6: return a & b;
	case 7: return a | b;
#ifdef FIXED
	case 8: return a ^ b;
	case 9: return ~a;
#else
	case 8: return a + 1;
#endif
	}
	return -1;
}

const char *switch_name(int op)
{
	switch (op) {
	case 0: return "add";
	case 1: return "sub";
	case 2: return "mul";
	case 3: return "div";
	case 4: return "shl";
	case 5: return "shr";
	case 6: return "and";
	case 7: return "or";
#ifdef FIXED
	case 8: return "xor";
	case 9: return "not";
#else
	case 8: return "inc";
#endif
	}
	return "?";
}

int switch_value(unsigned int day)
{
	switch (day) {
	case 0: return 31;
#ifdef FIXED
	case 1: return 29;
#else
	case 1: return 28;
#endif
	case 2: return 31;
	case 3: return 30;
	case 4: return 31;
	case 5: return 30;
	case 6: return 31;
	case 7: return 31;
	}
	return 0;
}

long switch_goto(const unsigned char *code, long acc)
{
	static const void *const ops[] = {&&stop, &&inc, &&dbl, &&neg};

next:
	steps++;
	goto *ops[*code++ & 3];
inc:
#ifdef FIXED
	acc += 1;
#else
	acc += 2;
#endif
	goto next;
dbl:
	acc *= 2;
	goto next;
neg:
	acc = -acc;
	goto next;
stop:
	return acc;
}

unsigned long switch_steps(void)
{
	return steps;
}
