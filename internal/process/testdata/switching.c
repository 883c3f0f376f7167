// A target whose threads call three functions and judge every answer: once one
// call has reached the side that is being switched to, no call that begins later
// may reach the other. REST is microseconds between rounds. FIXED is the
// replacement.
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#ifdef FIXED
#define SIDE 1
#else
#define SIDE 0
#endif
#ifndef REST
#define REST 0
#endif
#ifndef STAYS
#define STAYS 1
#endif

static volatile long calls, wrong, switched;
static volatile int toward;

// Every register that takes arguments counts, and what they hold is added up.
__attribute__((noinline)) long many(long a, long b, long c, long d, long e, long f, long g, double x, double y)
{
	return a + 10 * b + 100 * c + 1000 * d + 10000 * e + 100000 * f + 1000000 * g + (long)(x * 4 + y * 8) + 7777777777 * SIDE;
}

__attribute__((noinline)) long sum(int n, ...)
{
	va_list list;
	double s = 0;
	va_start(list, n);
	for (int i = 0; i < n; i++)
		s += va_arg(list, double);
	va_end(list);
	return (long)s + 7777777777 * SIDE;
}

__attribute__((noinline)) long few(long a)
{
	__atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED);
	return a + 7777777777 * SIDE;
}

__attribute__((noinline)) static void judge(long got, long want, int goal, int before)
{
	int side = got == want ? 0 : got == want + 7777777777 ? 1 : 2;
	if (side == 2)
		__atomic_add_fetch(&wrong, 1, __ATOMIC_RELAXED);
	if (goal == 2 || goal != toward)
		return; // it was asked for something else meanwhile
	if (side == goal)
		__atomic_store_n(&switched, 1, __ATOMIC_SEQ_CST);
	else if (before)
		__atomic_add_fetch(&wrong, 1, __ATOMIC_RELAXED);
}

#define TRY(call, want) \
	do { \
		int goal = toward, before = __atomic_load_n(&switched, __ATOMIC_SEQ_CST); \
		judge(call, want, goal, before); \
	} while (0)

// Never returns. It is replaced too where STAYS is 0.
__attribute__((noinline)) static void *worker(void *arg)
{
	long n = (long)arg;
	for (;;) {
		TRY(many(n, 2, 3, 4, 5, 6, 7, 1.5, 2.5), n + 7654320 + 26);
		TRY(sum(3, 1.0, 2.0, 3.5), 6);
		TRY(few(n), n);
		if (REST)
			usleep(REST + (STAYS ? 0 : SIDE));
	}
	return 0;
}

int main(int argc, char **argv)
{
	int n = argc > 1 ? atoi(argv[1]) : 0;
	char line[80];
	setvbuf(stdout, 0, _IOLBF, 0);
	for (long i = 0; i < n; i++) {
		pthread_t t;
		if (pthread_create(&t, 0, worker, (void *)i))
			return 1;
	}
	puts("ready");
	while (fgets(line, sizeof line, stdin)) {
		if (line[0] != '?') {
			toward = 2; // whatever is under way is not judged
			usleep(50000);
			switched = 0;
			toward = line[0] - '0';
		}
		printf("%d %ld %ld\n", few(0) != 0, calls, wrong);
	}
	return 0;
}
