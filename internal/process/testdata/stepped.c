// A target that is executed instruction by instruction: functions that begin in
// different ways, called by one that keeps values in registers. With FIXED they
// return other values, and one calls a function of the C library that the target
// does not use otherwise.
#include <stdio.h>
#include <unistd.h>

#ifdef FIXED
enum { side = 1000 };
#else
enum { side = 0 };
#endif

#define FUNCTION __attribute__((noipa)) int

FUNCTION callee(int x)
{
	return x * 3;
}

// Begins with pushes.
FUNCTION pushes(int x)
{
	int a = callee(x), b = callee(a + 1);
#ifdef FIXED
	b += getppid() > 0;
#endif
	return a * b + x + side;
}

// A call is among the first instructions.
FUNCTION calls(int x)
{
	return callee(x) + side;
}

// Has a frame pointer.
__attribute__((optimize("no-omit-frame-pointer"))) FUNCTION pointed(int x)
{
	return callee(x + 1) + callee(x) + side;
}

// Aligns its stack.
FUNCTION aligned(int x)
{
	_Alignas(64) volatile int array[16];
	array[x & 15] = callee(x) + side;
	return array[x & 15];
}

FUNCTION caller(int which, int x)
{
	int a = x + 1, b = x + 2, c = x + 3, d = x + 4, r;
	__asm__ volatile("" : "+r"(a), "+r"(b), "+r"(c), "+r"(d));
	switch (which) {
	case 0:
		r = pushes(x);
		break;
	case 1:
		r = calls(x);
		break;
	case 2:
		r = pointed(x);
		break;
	default:
		r = aligned(x);
	}
	__asm__ volatile("" : "+r"(a), "+r"(b), "+r"(c), "+r"(d));
	return r + a + b + c + d;
}

int main(void)
{
	char line[80];
	setvbuf(stdout, 0, _IOLBF, 0);
	puts("ready");
	while (fgets(line, sizeof line, stdin))
		printf("%d 0 0\n", caller(line[0] - '0', 5));
	return 0;
}
