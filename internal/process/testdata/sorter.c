// A target that meets many kinds of instructions again and again.
#include <stdlib.h>
#include <unistd.h>

static int order(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

int main(void)
{
	int numbers[64];
	if (write(1, "ready\n", 6) != 6)
		return 1;
	for (;;) {
		for (int i = 0; i < 64; i++)
			numbers[i] = i * 37 % 64;
		qsort(numbers, 64, sizeof *numbers, order);
	}
}
