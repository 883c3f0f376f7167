#include "scale.h"
static int total = 3;
static struct { int steps, last; } state;
static const char *const names[] = {"few", "some", "many"};
const char *name_of(int n) { return names[n > 9 ? 2 : n > 4]; }
static __attribute__((noinline)) int step(int by)
{
	state.steps++;
	state.last = by;
	return state.steps * by;
}
int work(int n)
{
	total += step(scale(n)) + *name_of(n) % 2;
	return total;
}
