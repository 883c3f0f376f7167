// A target whose answers have no room for a jump at their entries, but filler
// before them: small() is four bytes and the next function follows at once;
// padded() begins with a landing pad.
#include <stdio.h>

int small(int x), padded(int x), next(int x);

int main(void)
{
	char line[80];
	setvbuf(stdout, 0, _IOLBF, 0);
	puts("ready");
	while (fgets(line, sizeof line, stdin))
		printf("%d %d %d\n", small(1), padded(1), next(1));
	return 0;
}
