// A target that starts itself anew: on a line, or with an argument all the time
// by a thread that is not the first.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static volatile long counter;
static char **args;

__attribute__((noinline)) int answer(int x)
{
	__atomic_add_fetch(&counter, 1, __ATOMIC_RELAXED);
	return x + 1;
}

static void *idle(void *arg)
{
	(void)arg;
	for (;;)
		pause();
}

static void *again(void *arg)
{
	(void)arg;
	usleep(8000);
	execv("/proc/self/exe", args);
	_exit(1);
}

int main(int argc, char **argv)
{
	char line[80];
	pthread_t t;
	args = argv;
	setvbuf(stdout, 0, _IOLBF, 0);
	if (argc > 1 && !getenv("CHANGING"))
		puts("ready");
	setenv("CHANGING", "1", 1);
	for (int i = 0; argc > 1 && i < 4; i++) {
		if (pthread_create(&t, 0, idle, 0))
			return 1;
	}
	if (argc > 1 && pthread_create(&t, 0, again, 0))
		return 1;
	if (argc == 1)
		puts("ready");
	while (fgets(line, sizeof line, stdin)) {
		if (line[0] == '!')
			execv("/proc/self/exe", args);
		printf("%d %ld 0\n", answer(1), counter);
	}
	return 0;
}
