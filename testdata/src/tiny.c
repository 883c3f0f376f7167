// The smallest program around counter.c: no C library, static. It exits with
// what the counters say.

unsigned long counter_tick(unsigned int), counter_tock(unsigned int);

static long leave(long status)
{
#if defined(__x86_64__)
	long n = 231; // exit_group

	__asm__ volatile("syscall" : "+a"(n) : "D"(status) : "rcx", "r11", "memory");
	return n;
#elif defined(__aarch64__)
	register long x0 __asm__("x0") = status;
	register long x8 __asm__("x8") = 94; // exit_group

	__asm__ volatile("svc #0" : "+r"(x0) : "r"(x8) : "memory");
	return x0;
#endif
}

__attribute__((noreturn)) void _start(void)
{
	for (;;)
		leave((counter_tick(1) + counter_tock(2)) & 0x7f);
}
