// A target whose only thread sleeps nearly always, in a call with a restart
// block. A line tells after each sleep: the answer, the counter, and how many
// sleeps were cut short.
#include <errno.h>
#include <stdio.h>
#include <time.h>

static volatile long counter;

__attribute__((noinline)) int answer(int x)
{
	__atomic_add_fetch(&counter, 1, __ATOMIC_RELAXED);
	return x + 1;
}

int main(void)
{
	struct timespec from, to, rest = { 0, 200000000 };
	long cut = 0;
	setvbuf(stdout, 0, _IOLBF, 0);
	puts("ready");
	for (;;) {
		clock_gettime(CLOCK_MONOTONIC, &from);
		if (nanosleep(&rest, 0))
			cut++;
		clock_gettime(CLOCK_MONOTONIC, &to);
		if ((to.tv_sec - from.tv_sec) * 1000000000L + to.tv_nsec - from.tv_nsec < rest.tv_nsec)
			cut++;
		printf("%d %ld %ld\n", answer(1), counter, cut);
	}
}
