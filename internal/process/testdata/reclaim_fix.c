// The replacement of answer() in reclaim.c. With TAKEN it gives away the address
// of a function of its own, with VARIABLE that of a variable.
extern volatile long counter __attribute__((visibility("hidden")));
void rest(void);
extern void *volatile kept __attribute__((visibility("hidden")));
extern volatile int gate __attribute__((visibility("hidden"))), waiting __attribute__((visibility("hidden")));

#ifdef TAKEN
static void helper(void) { counter++; }
#endif
static long calls;

int answer_new(int x)
{
	counter++;
	calls++;
	if (x == -1) {
		waiting = 1;
		while (!gate)
			rest();
	}
	if (x == -2)
#ifdef __aarch64__
		__asm__ volatile("bl 1f\n1: adrp x1, kept\nstr x30, [x1, :lo12:kept]" ::: "x1", "x30", "memory");
#else
		__asm__ volatile("call 1f\n1: pop %%rax\nmov %%rax, kept(%%rip)" ::: "rax", "memory");
#endif
#ifdef TAKEN
	kept = helper;
	kept = 0;
#endif
#ifdef VARIABLE
	kept = &calls;
	kept = 0;
#endif
	return x + 1000;
}
