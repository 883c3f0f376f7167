// A target whose threads keep known values in all their registers, look at them,
// and call two functions all the time. For each line of input it lets every
// thread go once around, then tells which results the functions have given since
// the last time (a bit for each version), how many calls there were, and how
// often something was not what it was.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "look.h"

// ROOM is instructions that any redirect may take the place of.
#ifdef __aarch64__
#define ROOM __asm__ volatile("nop\n\tnop")
#else
#define ROOM __asm__ volatile("nopl 0(%rax)\n\tnopl 0(%rax)")
#endif

#ifndef VERSION
#define VERSION 0
#endif

volatile long counter;
static volatile long wrong;
static volatile int seen[2];

enum { most = 64 };
static volatile long rounds[most];
static int threads;

__attribute__((noinline)) int answer(int x)
{
	__atomic_add_fetch(&counter, 1, __ATOMIC_RELAXED);
	ROOM;
	return x + 1 + 1000 * VERSION;
}

__attribute__((noinline)) int second(int x)
{
	__atomic_add_fetch(&counter, 1, __ATOMIC_RELAXED);
	ROOM;
	return x + 2 + 1000 * VERSION;
}

// note takes down a result: version v adds 1000 * v and what the original adds.
static void note(int which, int result)
{
	int version = result / 1000;
	if (result % 1000 != which + 2 || version > 30 || version < 0)
		__atomic_add_fetch(&wrong, 1, __ATOMIC_RELAXED);
	else
		__atomic_or_fetch(&seen[which], 1 << version, __ATOMIC_RELAXED);
}

static void *work(void *arg)
{
	for (volatile long *round = arg;; __atomic_add_fetch(round, 1, __ATOMIC_SEQ_CST)) {
		if (look())
			__atomic_add_fetch(&wrong, 1000, __ATOMIC_RELAXED);
		for (int i = 0; i < 10; i++) {
			note(0, answer(1));
			note(1, second(1));
		}
	}
}

// around waits until each thread has ended the round it is in, and one more.
static void around(void)
{
	long since[most];
	for (int i = 0; i < threads; i++)
		since[i] = rounds[i];
	for (int i = 0; i < threads; i++)
		while (rounds[i] < since[i] + 2)
			usleep(100);
}

int main(int argc, char **argv)
{
	char line[80];
	pthread_t thread;
	setvbuf(stdout, 0, _IOLBF, 0);
	threads = argc > 1 ? atoi(argv[1]) : 3;
	for (int i = 0; i < threads; i++)
		if (pthread_create(&thread, 0, work, (void *)&rounds[i]))
			return 1;
	puts("ready");
	while (fgets(line, sizeof line, stdin)) {
		if (line[0] == 'f') { // fork
			pid_t child = fork();
			if (!child)
				for (;;)
					usleep(1000);
			printf("%d\n", child);
			continue;
		}
		note(0, answer(1));
		note(1, second(1));
		around();
		int a = __atomic_exchange_n(&seen[0], 0, __ATOMIC_RELAXED);
		int b = __atomic_exchange_n(&seen[1], 0, __ATOMIC_RELAXED);
		printf("%d %d %ld %ld\n", a, b, counter, wrong);
	}
	return 0;
}
