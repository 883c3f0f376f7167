// A target that starts and ends threads all the time.
#include <pthread.h>
#include <stdio.h>

static volatile long counter;
static volatile long wrong;

__attribute__((noinline)) int answer(int x)
{
	__atomic_add_fetch(&counter, 1, __ATOMIC_RELAXED);
	return x + 1;
}

static void *once(void *arg)
{
	int r = answer(1);
	if (r != 2 && r != 1001)
		__atomic_add_fetch(&wrong, 1, __ATOMIC_RELAXED);
	return arg;
}

static void *starter(void *arg)
{
	for (;;) {
		pthread_t t[4];
		int n = 0;
		while (n < 4 && !pthread_create(&t[n], 0, once, 0))
			n++;
		while (n > 0)
			pthread_join(t[--n], 0);
	}
	return arg;
}

int main(void)
{
	char line[80];
	setvbuf(stdout, 0, _IOLBF, 0);
	for (int i = 0; i < 3; i++) {
		pthread_t t;
		pthread_create(&t, 0, starter, 0);
	}
	puts("ready");
	while (fgets(line, sizeof line, stdin))
		printf("%d %ld %ld\n", answer(1), counter, wrong);
	return 0;
}
