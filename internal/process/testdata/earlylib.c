// A library whose constructor calls answer().
int answer_of_library;
static volatile long counter;

__attribute__((noinline)) int answer(int x)
{
	__atomic_add_fetch(&counter, 1, __ATOMIC_RELAXED);
	return x + 1;
}

__attribute__((constructor)) static void early(void) { answer_of_library = answer(1); }
