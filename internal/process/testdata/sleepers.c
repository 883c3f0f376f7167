// A target whose threads all sleep in calls with a time limit. SIGUSR1 makes it
// tell the answer, the counter, and how many sleeps were cut short.
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static volatile long counter, cut;

__attribute__((noinline)) int answer(int x)
{
	__atomic_add_fetch(&counter, 1, __ATOMIC_RELAXED);
	return x + 1;
}

static void tell(int sig)
{
	(void)sig;
	cut++;
}

static void *nap(void *arg)
{
	(void)arg;
	for (;;) {
		poll(0, 0, 1000000);
		cut += 100;
	}
	return 0;
}

int main(void)
{
	struct sigaction sa = { .sa_handler = tell };
	struct timespec rest = { 1000, 0 };
	pthread_t t;
	sigset_t set;
	setvbuf(stdout, 0, _IOLBF, 0);
	sigaction(SIGUSR1, &sa, 0);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &set, 0); // for the other threads
	for (int i = 0; i < 3; i++) {
		if (pthread_create(&t, 0, nap, 0))
			return 1;
	}
	pthread_sigmask(SIG_UNBLOCK, &set, 0);
	puts("ready");
	for (int turn = 0;; turn++) {
		nanosleep(&rest, 0);
		if (turn > 0)
			printf("%d %ld %ld\n", answer(1), counter, cut);
	}
}
