// A target for changes under fire: argv[1] threads call 64 small functions, one at
// each place in a line of 64 bytes, all the time and look at every result. A line
// is answered with the last answer of at_0, the number of calls, and of those that
// were neither old, nor new, nor a second version's. After "int3" it executes that
// instruction before, after "fork" it tells the number of a child that calls all
// functions until it is killed, or ends when something goes wrong. Whoever handles SIGTRAP itself says so with argv[2]:
//
//	handler   a function that counts what is raised; "int3" on a line raises one
//	ignore    SIG_IGN
//	blocked   blocked in every thread
//	masked    blocked while SIGUSR1 is handled
//	toggling  all signals blocked in every thread for every second round of calls
//	stacks    every thread has a signal stack, and SIGUSR1 is sent around all the time
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

// at_K adds one to its argument, in instructions shorter than the jump.
__asm__(".text\n.balign 64\n"
	".altmacro\n"
	".macro one k\n"
	".balign 64\n.skip \\k,0x90\n"
	".globl at_\\k\n.type at_\\k,@function\n"
	"at_\\k: push %rbx\npush %rbp\nmov %edi,%ebx\nlea 1(%rbx),%eax\npop %rbp\npop %rbx\nret\n.size at_\\k,.-at_\\k\n"
	".endm\n"
	".set i,0\n.rept 64\none %i\n.set i,i+1\n.endr\n"
	".section .data.rel.ro,\"aw\"\n.balign 8\ntable:\n"
	".macro entry k\n.quad at_\\k\n.endm\n"
	".set i,0\n.rept 64\nentry %i\n.set i,i+1\n.endr\n"
	".previous\n");
extern int (*const table[64])(int);
extern int at_0(int);

static long calls, wrong, traps;
static int stacks, toggling;
static pid_t tids[4096];

static void *worker(void *arg)
{
	*(pid_t *)arg = gettid();
	if (stacks) {
		stack_t st = { .ss_sp = malloc(64 << 10), .ss_size = 64 << 10 };
		sigaltstack(&st, 0);
	}
	sigset_t set[2];
	sigemptyset(&set[0]);
	sigfillset(&set[1]);
	for (unsigned round = 0;; round++) {
		long bad = 0;
		if (toggling)
			pthread_sigmask(SIG_SETMASK, &set[round & 1], 0);
		for (int i = 0; i < 64; i++) {
			int r = table[i](i);
			bad += r != i + 1 && r != i + 1000 && r != i + 2000;
		}
		__atomic_add_fetch(&calls, 64, __ATOMIC_RELAXED);
		if (bad)
			__atomic_add_fetch(&wrong, bad, __ATOMIC_RELAXED);
	}
	return 0;
}

// sum calls all functions once; -1 if a result is wrong.
static int sum(void)
{
	int all = 0;
	for (int i = 0; i < 64; i++) {
		int r = table[i](i);
		if (r != i + 1 && r != i + 1000 && r != i + 2000)
			return -1;
		all += r;
	}
	return all;
}

static void count(int sig, siginfo_t *info, void *arg)
{
	(void)sig, (void)arg;
	if (info->si_code == 0x80)
		traps++;
}

static void usr1(int sig)
{
	int r = table[3](sig);
	if (r != sig + 1 && r != sig + 1000 && r != sig + 2000)
		__atomic_add_fetch(&wrong, 1, __ATOMIC_RELAXED);
}

static void *sender(void *arg)
{
	(void)arg;
	for (;;)
		for (int i = 0; tids[i]; i++) {
			tgkill(getpid(), tids[i], SIGUSR1); // pthread_kill blocks signals while it sends
			usleep(100);
		}
	return 0;
}

int main(int argc, char **argv)
{
	int n = argc > 1 ? atoi(argv[1]) : 0;
	const char *how = argc > 2 ? argv[2] : "";
	
	char line[80];
	pthread_t t;
	sigset_t set;
	struct sigaction sa = { .sa_sigaction = count, .sa_flags = SA_SIGINFO };
	struct sigaction other = { .sa_handler = usr1, .sa_flags = SA_ONSTACK | SA_RESTART };
	sigemptyset(&set);
	sigaddset(&set, SIGTRAP);
	stacks = !strcmp(how, "stacks");
	toggling = !strcmp(how, "toggling");
	if (!strcmp(how, "handler"))
		sigaction(SIGTRAP, &sa, 0);
	if (!strcmp(how, "ignore"))
		signal(SIGTRAP, SIG_IGN);
	if (!strcmp(how, "blocked"))
		sigprocmask(SIG_BLOCK, &set, 0);
	if (!strcmp(how, "masked"))
		other.sa_mask = set;
	sigaction(SIGUSR1, &other, 0);
	setvbuf(stdout, 0, _IOLBF, 0);
	pthread_attr_t attr;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 128 << 10);
	for (int i = 0; i < n; i++)
		if (pthread_create(&t, &attr, worker, &tids[i]))
			return 1;
	if (stacks && pthread_create(&t, &attr, sender, 0))
		return 1;
	puts("ready");
	while (fgets(line, sizeof line, stdin)) {
		if (!strcmp(line, "int3\n"))
			__asm__ volatile("int3");
		if (!strcmp(line, "fork\n")) {
			pid_t pid = fork();
			while (pid == 0)
				if (sum() < 0)
					_exit(1);
			printf("%d\n", pid);
		}
		printf("%d %ld %ld\n", at_0(1), calls, wrong);
		if (!strcmp(line, "traps\n"))
			printf("%ld\n", traps);
	}
	return 0;
}
