// A target that calls answer() in a constructor and as the first thing in main.
#include <stdio.h>
#include <string.h>

static volatile long counter;

__attribute__((noinline)) int answer(int x)
{
	__atomic_add_fetch(&counter, 1, __ATOMIC_RELAXED);
	return x + 1;
}

static int first;

__attribute__((constructor)) static void early(void) { first = answer(1); }

int main(void)
{
	int second = answer(1);
	unsigned long ignored = 0, blocked = 0;
	int traced = -1;
	char line[256];
	FILE *f = fopen("/proc/self/status", "r");
	while (f && fgets(line, sizeof line, f)) {
		sscanf(line, "TracerPid: %d", &traced);
		sscanf(line, "SigBlk: %lx", &blocked);
		sscanf(line, "SigIgn: %lx", &ignored);
	}
	printf("constructor %d\nmain %d\nignored %lx blocked %lx traced %d\n", first, second, ignored, blocked, traced);
	return 0;
}
