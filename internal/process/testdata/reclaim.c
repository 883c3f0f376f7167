// A target whose functions can be made to leave things behind: with 'k' answer()
// keeps an address of itself, 'c' clears that, 'w' lets a thread wait in answer()
// until 'g', 'v' starts a process that shares all memory, until 'e'.
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

volatile long counter;
void *volatile kept;
volatile int gate, waiting;

__attribute__((noinline)) int answer(int x)
{
	counter++;
	return x + 1;
}

__attribute__((noinline)) void rest(void)
{
	usleep(1000);
	__asm__ volatile("" ::: "memory");
}

static void *wait_inside(void *arg)
{
	answer(-1);
	waiting = 0;
	return arg;
}

static int share(void *arg)
{
	(void)arg;
	for (;;)
		pause();
}

static void *calls(void *arg)
{
	for (;;) {
		answer(1);
		rest();
	}
	return arg;
}

int main(void)
{
	char line[80];
	static char stack[64 << 10];
	pid_t sharer = 0;
	pthread_t t;
	setvbuf(stdout, 0, _IOLBF, 0);
	for (int i = 0; i < 3; i++)
		pthread_create(&t, 0, calls, 0);
	puts("ready");
	while (fgets(line, sizeof line, stdin)) {
		int a = line[0] == 'k' ? answer(-2) : answer(1);
		if (line[0] == 'c')
			kept = 0;
		if (line[0] == 'w') {
			pthread_create(&t, 0, wait_inside, 0);
			while (!waiting)
				usleep(1000);
		}
		if (line[0] == 'v' && (sharer = clone(share, stack + sizeof stack, CLONE_VM | SIGCHLD, 0)) < 0)
			return 1;
		if (line[0] == 'e') {
			kill(sharer, SIGKILL);
			waitpid(sharer, 0, 0);
		}
		if (line[0] == 'g') {
			gate = 1;
			while (waiting)
				usleep(1000);
		}
		printf("%d %ld 0\n", a, counter);
	}
	return 0;
}
