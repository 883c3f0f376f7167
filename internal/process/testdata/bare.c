// A static target without a C library: no code to return from a signal in it.
static long call(long nr, long a, long b, long c)
{
	long r;
	__asm__ volatile("syscall\n\tnop" : "=a"(r) : "a"(nr), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return r;
}

static volatile long counter;

__attribute__((noinline)) int answer(int x)
{
	counter++;
	return x + 1;
}

static char *number(char *p, long v)
{
	char digits[24];
	int n = 0;
	do
		digits[n++] = '0' + v % 10;
	while (v /= 10);
	while (n)
		*p++ = digits[--n];
	*p++ = ' ';
	return p;
}

__attribute__((force_align_arg_pointer)) void _start(void)
{
	char line[80];
	call(1, 1, (long)"ready\n", 6);
	while (call(0, 0, (long)line, sizeof line) > 0) {
		char *p = number(line, answer(1));
		p = number(number(p, counter), 0);
		p[-1] = '\n';
		call(1, 1, (long)line, p - line);
	}
	call(60, 0, 0, 0);
}
