// A target that forks all the time, argv[1] microseconds after one child the next,
// and keeps argv[2] of them. Each child calls answer() all the time. A line holds
// what all of them have to be told from then on, 0 if that is about to change; it is
// answered with the parent's own answer, the number of children so far and of
// answers that were wrong.
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile long counter;

__attribute__((noinline)) int answer(int x)
{
	__atomic_add_fetch(&counter, 1, __ATOMIC_RELAXED);
	return x + 1;
}

static struct { long born, wrong, due; } *shared;
static int pause_us, keep;

static void child(pid_t parent)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (getppid() == parent) {
		long due = __atomic_load_n(&shared->due, __ATOMIC_SEQ_CST);
		int a = answer(1);
		if (due ? a != due : a != 2 && a != 1001)
			__atomic_add_fetch(&shared->wrong, 1, __ATOMIC_RELAXED);
		usleep(200);
	}
	_exit(0);
}

static void *breed(void *arg)
{
	static pid_t kept[256];
	pid_t self = getpid();
	for (int i = 0;; i = (i + 1) % keep) {
		if (kept[i]) {
			kill(kept[i], SIGKILL);
			waitpid(kept[i], 0, 0);
		}
		if ((kept[i] = fork()) == 0)
			child(self);
		if (kept[i] < 0)
			__atomic_add_fetch(&shared->wrong, 1, __ATOMIC_RELAXED);
		shared->born++;
		usleep(pause_us);
	}
	return arg;
}

int main(int argc, char **argv)
{
	char line[80];
	pthread_t t;
	if (argc < 3 || (keep = atoi(argv[2])) < 1 || keep > 256)
		return 1;
	pause_us = atoi(argv[1]);
	setvbuf(stdout, 0, _IOLBF, 0);
	shared = mmap(0, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED || pthread_create(&t, 0, breed, 0))
		return 1;
	puts("ready");
	while (fgets(line, sizeof line, stdin)) {
		__atomic_store_n(&shared->due, atoi(line), __ATOMIC_SEQ_CST);
		printf("%d %ld %ld\n", answer(1), shared->born, shared->wrong);
	}
	return 0;
}
