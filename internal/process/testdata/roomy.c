// A target whose answer() has room for the longest jump, whose threads keep
// state of their own, and that may never gain privileges.
#include <pthread.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <unistd.h>

volatile long counter;
__thread volatile long before = 11, own = 100, after = 22;

__attribute__((noinline)) int answer(int x)
{
	__atomic_add_fetch(&counter, 1, __ATOMIC_RELAXED);
	own++;
	return x + 1;
}

static volatile int other;

static void *worker(void *arg)
{
	(void)arg;
	for (;;) {
		other = answer(1);
		usleep(200);
	}
	return 0;
}

int main(void)
{
	char line[80];
	pthread_t t;
	setvbuf(stdout, 0, _IOLBF, 0);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || pthread_create(&t, 0, worker, 0))
		return 1;
	puts("ready");
	while (fgets(line, sizeof line, stdin)) {
		int a = answer(1);
		printf("%d %ld %d\n", a, own, other * (before == 11) * (after == 22));
	}
	return 0;
}
