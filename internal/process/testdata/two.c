// A target with two functions to replace.
#include <stdio.h>

static volatile long counter;

__attribute__((noinline)) int answer(int x)
{
	__atomic_add_fetch(&counter, 1, __ATOMIC_RELAXED);
	return x + 1;
}

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
	while (fgets(line, sizeof line, stdin)) {
		int a = answer(1), b = second(1);
		printf("%d %d %ld\n", a, b, counter);
	}
	return 0;
}
