// A target for profilers: burns half of its time in a function that another one calls,
// which a third calls. With FIXED the one between does something else.
#include <stdio.h>

static volatile long counter;

// A function that calls none has no frame: frame pointers skip who has called it.
__attribute__((noipa)) void tick(void)
{
	counter++;
}

__attribute__((noipa)) int burn(int x)
{
	for (int i = 0; i < 10000; i++)
		tick();
	return x;
}

__attribute__((noipa)) int answer(int x)
{
#ifdef FIXED
	counter += 1000;
#endif
	return burn(x) + burn(1);
}

__attribute__((noipa)) int work(int x)
{
	return burn(x) + burn(2) + answer(x);
}

int main(void)
{
	setvbuf(stdout, 0, _IOLBF, 0);
	puts("ready");
	for (;;)
		work(1);
}
