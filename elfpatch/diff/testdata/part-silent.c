extern int heavy(int, const char *);
extern int g1, g2;
#ifdef AFTER
#define K 9
#else
#define K 7
#endif
int foo(int x)
{
	if (__builtin_expect(!x, 1))
		return 0;
	g1 = heavy(x, "one"); g2 = heavy(x + K, "two");
	for (int i = 0; i < x; i++) g1 += heavy(i, "three") * g2;
	heavy(g1, "four"); heavy(g2, "five"); heavy(g1 ^ g2, "six");
	return g1 + g2;
}
int c1(int a) { return foo(a) + 1; }
int c2(int a) { return foo(a * 3) + 2; }
int c3(int a) { return foo(a - 3) + 4; }
