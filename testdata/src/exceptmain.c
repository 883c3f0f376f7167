// A C++ program's main: one line per line, as main.c.

#include <stdio.h>
#include <string.h>

long except_plain(long), except_catch(long);
unsigned long except_count(void);

int main(void)
{
	char line[200], verb[20];

	while (fgets(line, sizeof line, stdin)) {
		long a = 0;

		if (sscanf(line, "%19s %ld", verb, &a) < 1)
			continue;
		if (!strcmp(verb, "plain"))
			printf("%ld\n", except_plain(a));
		else if (!strcmp(verb, "catch"))
			printf("%ld\n", except_catch(a));
		else
			printf("%lu\n", except_count());
		fflush(stdout);
	}
	return 0;
}
