// A target in which a thread never leaves the function to replace: answer()
// calls what never returns.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

static volatile long counter;

__attribute__((noinline)) int answer(int x)
{
	counter++;
	if (x < 0)
		for (;;)
			pause();
	return x + 1;
}

static void *forever(void *arg)
{
	pthread_setname_np(pthread_self(), "stuck thread");
	answer(-1);
	return arg;
}

int main(void)
{
	char line[80];
	pthread_t t;
	setvbuf(stdout, 0, _IOLBF, 0);
	pthread_create(&t, 0, forever, 0);
	while (!counter)
		usleep(1000);
	puts("ready");
	while (fgets(line, sizeof line, stdin))
		printf("%d %ld 0\n", answer(1), counter);
	return 0;
}
