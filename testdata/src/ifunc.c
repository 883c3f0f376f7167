// A function that is chosen when the program starts.

static long plain(long x) { return x + 1; }
static long fancy(long x) { return x + 2; }

static long (*choose(void))(long)
{
#ifdef FIXED
	return fancy;
#else
	return sizeof(long) == 8 ? fancy : plain;
#endif
}

long ifunc_pick(long) __attribute__((ifunc("choose")));

long ifunc_use(long x)
{
#ifdef FIXED
	return ifunc_pick(x) * 3;
#else
	return ifunc_pick(x) * 2 + (x > 1000 ? plain(x) : 0);
#endif
}
