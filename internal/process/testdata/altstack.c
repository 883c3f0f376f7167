// A target that stays in a signal handler on its own stack.
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static volatile long counter;
static char other[64 << 10];

__attribute__((noinline)) int answer(int x)
{
	counter++;
	return x + 1;
}

static void serve(int sig)
{
	char line[80];
	(void)sig;
	puts("ready");
	while (fgets(line, sizeof line, stdin))
		printf("%d %ld 0\n", answer(1), counter);
	_exit(0);
}

int main(void)
{
	struct sigaction sa = { .sa_handler = serve, .sa_flags = SA_ONSTACK };
	stack_t st = { .ss_sp = other, .ss_size = sizeof other };
	setvbuf(stdout, 0, _IOLBF, 0);
	sigaltstack(&st, 0);
	sigaction(SIGUSR1, &sa, 0);
	raise(SIGUSR1);
	return 0;
}
