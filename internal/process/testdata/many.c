// Calls functions in turn, by a chain of calls or through pointers, and tells the
// time of the processor for each call and what the chain returns.
#include <stdio.h>
#include <time.h>

long direct(long);
extern long (*volatile table[])(long);
extern int count;

static long indirect(long x)
{
	for (int i = 0; i < count; i++)
		x = table[i](x);
	return x;
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

int main(void)
{
	char how[80];
	int rounds;
	setvbuf(stdout, 0, _IOLBF, 0);
	puts("ready");
	while (scanf("%79s %d", how, &rounds) == 2) {
		long x = 1;
		double begin = now();
		for (int i = 0; i < rounds; i++)
			x = how[0] == 'd' ? direct(x) : indirect(x);
		printf("%f %ld\n", (now() - begin) / rounds / count, direct(1));
	}
	return 0;
}
