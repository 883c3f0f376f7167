// A program whose counters live in libcounter.so: one line per line, as main.c.

#include <stdio.h>
#include <string.h>

unsigned long counter_tick(unsigned int), counter_tock(unsigned int), counter_ticks(void);
const char *counter_mood(unsigned long);

int main(void)
{
	char line[200], verb[20];

	while (fgets(line, sizeof line, stdin)) {
		long a = 0;

		if (sscanf(line, "%19s %ld", verb, &a) < 1)
			continue;
		if (!strcmp(verb, "tick"))
			printf("%lu\n", counter_tick(a));
		else if (!strcmp(verb, "tock"))
			printf("%lu\n", counter_tock(a));
		else if (!strcmp(verb, "mood"))
			printf("%s\n", counter_mood(a));
		else
			printf("%lu\n", counter_ticks());
		fflush(stdout);
	}
	return 0;
}
