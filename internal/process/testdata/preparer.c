// Changes something that programs inherit and, when its input ends, starts one.
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	sigset_t trap;
	sigemptyset(&trap);
	sigaddset(&trap, SIGTRAP);
	if (!strcmp(argv[1], "block"))
		sigprocmask(SIG_BLOCK, &trap, 0);
	if (!strcmp(argv[1], "ignore"))
		signal(SIGTRAP, SIG_IGN);
	if (!strcmp(argv[1], "private"))
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	while (getchar() != EOF)
		;
	execl(argv[2], argv[2], (char *)0);
	return 1;
}
