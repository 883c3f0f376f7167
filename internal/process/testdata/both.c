// A target that uses answer() of a shared library and a function of its own.
#include <stdio.h>

int answer(int);
long answers(void);
static volatile long counter;

__attribute__((noinline)) int second(int x)
{
	__atomic_add_fetch(&counter, 1, __ATOMIC_RELAXED);
	return x + 2;
}

int main(void)
{
	char line[80];
	setvbuf(stdout, 0, _IOLBF, 0);
	puts("ready");
	while (fgets(line, sizeof line, stdin))
		printf("%d %d %ld\n", answer(1), second(1), answers() + counter);
	return 0;
}
