// A target: threads call answer() as fast as they can, or rest for REST
// microseconds in between; the main thread tells about it on request.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef REST
#define REST 0
#endif

static volatile long counter;
static volatile long wrong;

__attribute__((noinline)) int answer(int x)
{
	__atomic_add_fetch(&counter, 1, __ATOMIC_RELAXED);
	return x + 1;
}

static void *worker(void *arg)
{
	(void)arg;
	for (;;) {
		int r = answer(1);
		if (r != 2 && r != 1001)
			__atomic_add_fetch(&wrong, 1, __ATOMIC_RELAXED);
		if (REST)
			usleep(REST);
	}
	return 0;
}

int main(int argc, char **argv)
{
	int n = argc > 1 ? atoi(argv[1]) : 0;
	char line[80];
	setvbuf(stdout, 0, _IOLBF, 0);
	pthread_attr_t attr;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 128 << 10);
	for (int i = 0; i < n; i++) {
		pthread_t t;
		if (pthread_create(&t, &attr, worker, 0))
			return 1;
	}
	puts("ready");
	while (fgets(line, sizeof line, stdin))
		printf("%d %ld %ld\n", answer(1), counter, wrong);
	return 0;
}
