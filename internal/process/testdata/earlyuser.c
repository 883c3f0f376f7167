// A target that uses answer() of a shared library from its start.
#include <stdio.h>
#include <unistd.h>

extern int answer_of_library;
int answer(int);
static int first;

__attribute__((constructor)) static void early(void) { first = answer(1); }

int main(int argc, char **argv)
{
	int second = answer(1);
	printf("library %d\nconstructor %d\nmain %d\n", answer_of_library, first, second);
	fflush(stdout);
	if (argc > 1)
		execl(argv[0], argv[0], (char *)0);
	return 0;
}
