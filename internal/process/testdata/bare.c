// A static target without a C library: no code to return from a signal in it.
#ifdef __aarch64__
enum { READ = 63, WRITE = 64, EXIT = 93 };

static long call(long nr, long a, long b, long c)
{
	register long x8 __asm__("x8") = nr;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	__asm__ volatile("svc #0\n\tnop" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
	return x0;
}
#else
enum { READ = 0, WRITE = 1, EXIT = 60 };

static long call(long nr, long a, long b, long c)
{
	long r;
	__asm__ volatile("syscall\n\tnop" : "=a"(r) : "a"(nr), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return r;
}
#endif

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

#ifdef __x86_64__
__attribute__((force_align_arg_pointer))
#endif
void _start(void)
{
	char line[80];
	call(WRITE, 1, (long)"ready\n", 6);
	while (call(READ, 0, (long)line, sizeof line) > 0) {
		char *p = number(line, answer(1));
		p = number(number(p, counter), 0);
		p[-1] = '\n';
		call(WRITE, 1, (long)line, p - line);
	}
	call(EXIT, 0, 0, 0);
}
