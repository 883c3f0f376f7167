// Version VERSION of the functions of steady.c.
extern volatile long counter __attribute__((visibility("hidden")));

int answer_new(int x)
{
	__atomic_add_fetch(&counter, 1, __ATOMIC_RELAXED);
	return x + 1 + 1000 * VERSION;
}

int second_new(int x)
{
	__atomic_add_fetch(&counter, 1, __ATOMIC_RELAXED);
	return x + 2 + 1000 * VERSION;
}
