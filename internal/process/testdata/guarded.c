// The functions of guardedmain.c: a leaf, and one with a frame, that may wait inside
// for a line of input.
#include <stdio.h>

#ifndef VERSION
#define VERSION 0
#endif

int calls;
static char line[80];

__attribute__((noinline)) int leaf(int x)
{
	return x + 1 + 1000 * VERSION;
}

__attribute__((noinline)) int framed(int x, int wait)
{
	calls++;
	if (wait) {
		puts("waiting");
		if (!fgets(line, sizeof line, stdin))
			return -1;
	}
	return leaf(x) + leaf(x + 1) + 1000 * VERSION;
}
