// The library of watched.c.
static volatile long counter;

__attribute__((noinline)) int answer(int x)
{
	counter++;
#ifdef AFTER
	return x + 1000;
#else
	return x + 1;
#endif
}
