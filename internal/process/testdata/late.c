// A target whose threads wake up at times of their own and call a function: how
// long after its time a call has returned is what a stop costs the thread. A line
// of input is answered by the longest such delay since the last one, and the
// number of calls.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static long period; // nanoseconds
static int threads;
static long longest, calls;
volatile long counter; // of the replacement

__attribute__((noinline)) int answer(int x)
{
	__asm__ volatile("" : "+r"(x));
	return x + 1;
}

static long since(const struct timespec *then)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (now.tv_sec - then->tv_sec) * 1000000000L + now.tv_nsec - then->tv_nsec;
}

static void *work(void *arg)
{
	struct timespec next;
	clock_gettime(CLOCK_MONOTONIC, &next);
	long step = period / threads * (long)arg;
	for (;; step = period) {
		next.tv_nsec += step;
		next.tv_sec += next.tv_nsec / 1000000000;
		next.tv_nsec %= 1000000000;
		while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, 0))
			;
		answer(1);
		long late = since(&next), old = __atomic_load_n(&longest, __ATOMIC_RELAXED);
		while (late > old && !__atomic_compare_exchange_n(&longest, &old, late, 1, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
			;
		__atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED);
		if (late > period)
			clock_gettime(CLOCK_MONOTONIC, &next); // what was missed is not made up for
	}
}

int main(int argc, char **argv)
{
	char line[80];
	pthread_attr_t small;
	setvbuf(stdout, 0, _IOLBF, 0);
	threads = argc > 1 ? atoi(argv[1]) : 1;
	period = 1000000L * (threads > 200 ? threads / 20 : 10);
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 1 << 17);
	for (long i = 0; i < threads; i++) {
		pthread_t t;
		if (pthread_create(&t, &small, work, (void *)i))
			return 1;
	}
	puts("ready");
	while (fgets(line, sizeof line, stdin))
		printf("%ld %ld\n", __atomic_exchange_n(&longest, 0, __ATOMIC_RELAXED), __atomic_exchange_n(&calls, 0, __ATOMIC_RELAXED));
	return 0;
}
