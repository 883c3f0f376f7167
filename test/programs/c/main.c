#include <stdio.h>
#include <stdlib.h>
int work(int n), other(int n);
int main(void)
{
	char line[64];
	while (fgets(line, sizeof line, stdin)) {
		int n = atoi(line), a = work(n), b = other(n);
		printf("%d %d\n", a, b);
		fflush(stdout);
	}
	return 0;
}
