#include "scale.h"
static int seen;
int other(int n)
{
	switch (n) {
	case -1: return -100;
	case 4: seen += 7; break;
	case 5: seen += 9; break;
	case 6: seen -= 2; break;
	case 7: seen *= 3; break;
	default: seen++;
	}
	return scale(seen);
}
