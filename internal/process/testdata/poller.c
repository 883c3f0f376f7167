// A target whose only thread waits in poll without time limit, which is a call
// with a restart block.
#include <poll.h>
#include <stdio.h>

static volatile long counter;

__attribute__((noinline)) int answer(int x)
{
	counter++;
	return x + 1;
}

int main(void)
{
	char line[80];
	struct pollfd p = { 0, POLLIN, 0 };
	int cut = 0;
	setvbuf(stdout, 0, _IOLBF, 0);
	puts("ready");
	for (;;) {
		if (poll(&p, 1, -1) < 0)
			cut++;
		else if (fgets(line, sizeof line, stdin))
			printf("%d %ld %d\n", answer(1), counter, cut);
		else
			return 0;
	}
}
