// A long-lived program that is patched while it runs: it calls answer() until
// the answer changes and tells how many microseconds after the beginning of main
// that was. With -DLIBRARY answer() is in a library.
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static volatile long counter;

#ifdef LIBRARY
int answer(int x);
#else
__attribute__((noinline)) int answer(int x)
{
	counter++;
#ifdef AFTER
	return x + 1000;
#else
	return x + 1;
#endif
}
#endif

static long now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

int main(void)
{
	long start = now();
	while (answer(1) == 2)
		usleep(100);
	printf("%ld\n", now() - start);
	fflush(stdout);
	while (getchar() != EOF)
		;
	return 0;
}
