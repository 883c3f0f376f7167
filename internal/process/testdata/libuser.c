// A target that uses answer() of a shared library.
#include <stdio.h>

int answer(int);
long answers(void);

int main(void)
{
	char line[80];
	setvbuf(stdout, 0, _IOLBF, 0);
	puts("ready");
	while (fgets(line, sizeof line, stdin))
		printf("%d %ld 0\n", answer(1), answers());
	return 0;
}
