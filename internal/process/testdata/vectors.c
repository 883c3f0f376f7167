// A target for arm64 whose only thread keeps known values in vector and predicate
// registers of SVE, with vectors of as many bytes as it is told, and looks at them
// all the time. On SIGUSR1 it tells the answer, how often it was asked and how
// often something was not what it was.
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

static volatile long counter;
static volatile long wrong;

__attribute__((noinline)) int answer(int x)
{
	__atomic_add_fetch(&counter, 1, __ATOMIC_RELAXED);
	return x + 1;
}

static void tell(int sig)
{
	char text[80];
	(void)sig;
	int n = snprintf(text, sizeof text, "%d %ld %ld\n", answer(1), counter, wrong);
	if (write(1, text, n) != n)
		_exit(1);
}

static long look(void)
{
	long bad;
	__asm__ volatile(
		"ptrue p0.b\n ptrue p1.d\n ptrue p15.s\n"
		"mov z0.d, #11\n mov z7.d, #22\n mov z16.d, #33\n mov z31.d, #44\n"
		"mov x1, #30000\n"
		"1: sub x1, x1, #1\n cbnz x1, 1b\n"
		"cmpne p2.d, p0/z, z0.d, #11\n cntp x2, p0, p2.d\n mov %0, x2\n"
		"mov z1.d, #22\n cmpne p2.d, p0/z, z7.d, z1.d\n cntp x2, p0, p2.d\n add %0, %0, x2\n"
		"mov z1.d, #33\n cmpne p2.d, p0/z, z16.d, z1.d\n cntp x2, p0, p2.d\n add %0, %0, x2\n"
		"mov z1.d, #44\n cmpne p2.d, p0/z, z31.d, z1.d\n cntp x2, p0, p2.d\n add %0, %0, x2\n"
		"cntp x2, p0, p1.d\n cntd x1\n sub x2, x2, x1\n orr %0, %0, x2\n"
		"cntp x2, p0, p15.s\n cntw x1\n sub x2, x2, x1\n orr %0, %0, x2\n"
		: "=&r"(bad) : : "x1", "x2", "cc", "memory", "v0", "v1", "v7", "v16", "v31");
	return bad;
}

int main(int argc, char **argv)
{
	int want = argc > 1 ? atoi(argv[1]) : 16;
	if ((prctl(PR_SVE_SET_VL, want) & 0xffff) != want)
		return 1;
	signal(SIGUSR1, tell);
	if (write(1, "ready\n", 6) != 6)
		return 1;
	for (;;)
		wrong += look() != 0;
}
