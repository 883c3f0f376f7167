// The library of libuser.c.
static volatile long counter;

__attribute__((noinline)) int answer(int x)
{
	__atomic_add_fetch(&counter, 1, __ATOMIC_RELAXED);
	return x + 1;
}

long answers(void) { return counter; }
