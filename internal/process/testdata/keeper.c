// A target whose only thread keeps known values in all its registers and looks
// at them all the time. On SIGUSR1 it tells the answer, how often it has looked
// and how often something was not what it was; SIGUSR2 stays blocked, the
// signal stack and the floating point mode must stay what they are.
#define _GNU_SOURCE
#include <fenv.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

static volatile long counter;
static volatile long wrong;
static char other[64 << 10];

__attribute__((noipa)) int answer(int x) // a replacement may change other registers
{
	__atomic_add_fetch(&counter, 1, __ATOMIC_RELAXED);
	return x + 1;
}

static void tell(int sig, siginfo_t *info, void *arg)
{
	char line[80];
	ucontext_t *uc = arg;
	(void)sig, (void)info;
	if (!sigismember(&uc->uc_sigmask, SIGUSR2) || sigismember(&uc->uc_sigmask, SIGUSR1))
		wrong += 1000000;
	if (uc->uc_stack.ss_sp != other || uc->uc_stack.ss_size != sizeof other || uc->uc_stack.ss_flags)
		wrong += 10000000;
	long calls = counter;
	int a = answer(1);
	int n = snprintf(line, sizeof line, "%d %ld %ld\n", a, calls, wrong);
	if (write(1, line, n) != n)
		_exit(1);
}

#include "look.h"

int main(void)
{
	struct sigaction sa = { .sa_sigaction = tell, .sa_flags = SA_SIGINFO };
	stack_t st = { .ss_sp = other, .ss_size = sizeof other };
	sigset_t set;
	sigaction(SIGUSR1, &sa, 0);
	sigaltstack(&st, 0);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, 0);
	fesetround(FE_UPWARD);
	if (write(1, "ready\n", 6) != 6)
		return 1;
	for (;;) {
		wrong += look();
		if (fegetround() != FE_UPWARD)
			wrong += 1000;
	}
}
