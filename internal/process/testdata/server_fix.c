// The replacement of answer() in server.c, using the target's own counter.
extern volatile long counter __attribute__((visibility("hidden")));

int answer_new(int x)
{
	__atomic_add_fetch(&counter, 1, __ATOMIC_RELAXED);
	return x + 1000;
}
