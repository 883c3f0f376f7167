// A target with a thread that waits for ever at the same depth, in one of several
// ways, with or without a frame of answer() on its stack.
#define _GNU_SOURCE
#include <execinfo.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static volatile long counter;
static const char *way;
static void *trace[64];
static volatile int depth, ready;

__attribute__((noinline)) static void count(void)
{
	counter++;
	__asm__ volatile("" ::: "memory");
}

// touch keeps on its stack what it returns to, on every machine.
__attribute__((noinline)) static void touch(void)
{
	count();
	__asm__ volatile("" ::: "memory");
}

// wait_here never returns. It has room on the stack in which old words stay.
__attribute__((noinline)) static void wait_here(void)
{
	volatile char room[4096];
	room[0] = 0;
	depth = backtrace(trace, 64);
	ready = 1;
	for (;;)
		pause();
}

// wait_bare is not described by any table of frames.
void wait_bare(void);
__asm__(
	".text\n.type wait_bare,@function\nwait_bare:\n"
#ifdef __aarch64__
	"sub sp,sp,#32\n1: bl pause\nb 1b\n"
#else
	"sub $24,%rsp\n1: call pause\njmp 1b\n"
#endif
	".size wait_bare,.-wait_bare\n");

static void on_signal(int sig)
{
	(void)sig;
	wait_here();
}

__attribute__((noinline)) int answer(int x)
{
	touch();
	if (x >= 0)
		return x + 1;
	if (!strcmp(way, "bare")) {
		ready = 1;
		wait_bare();
	} else if (!strcmp(way, "signal") || !strcmp(way, "inside")) {
		raise(SIGUSR1);
	} else if (!strcmp(way, "spin")) {
		ready = 1;
		for (;;)
			counter++;
	} else {
		wait_here();
	}
	touch();
	return 0;
}

// stale leaves an address in answer() behind where wait_here has its room.
__attribute__((noinline)) static void stale(void)
{
	volatile char room[1024];
	room[0] = 0;
	answer(1);
	room[1] = 0;
}

// spin runs for ever with room on the stack in which old words stay.
__attribute__((noinline)) static void spin(void)
{
	volatile char room[4096];
	room[0] = 0;
	ready = 1;
	for (;;)
		room[0]++;
}

static void *work(void *arg)
{
	char inside[16384];
	if (!strcmp(way, "inside")) {
		stack_t st = { .ss_sp = inside, .ss_size = sizeof inside };
		sigaltstack(&st, 0);
	}
	if (!strncmp(way, "stale", 5)) {
		stale();
		if (!strcmp(way, "stale-spin"))
			spin();
		volatile char *room = __builtin_alloca(4096);
		room[0] = 0;
		if (!strcmp(way, "stale-signal"))
			raise(SIGUSR1);
		if (!strcmp(way, "stale-bare")) {
			ready = 1;
			wait_bare();
		}
		wait_here();
	}
	answer(-1);
	return arg;
}

int main(int argc, char **argv)
{
	char line[80];
	pthread_t t;
	struct sigaction sa = { .sa_handler = on_signal };
	way = argc > 1 ? argv[1] : "frame";
	if (!strcmp(way, "inside"))
		sa.sa_flags = SA_ONSTACK;
	sigaction(SIGUSR1, &sa, 0);
	setvbuf(stdout, 0, _IOLBF, 0);
	backtrace(trace, 64); // loads what it needs
	pthread_create(&t, 0, work, 0);
	while (!ready)
		usleep(1000);
	puts("ready");
	while (fgets(line, sizeof line, stdin)) {
		if (line[0] != 't') {
			printf("%d %ld 0\n", answer(1), counter);
			continue;
		}
		for (int i = 0; i < depth; i++)
			printf("%lu ", (unsigned long)trace[i]);
		printf("\n");
	}
	return 0;
}
