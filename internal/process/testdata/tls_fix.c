// A replacement of answer() in roomy.c that counts in the thread's own variable.
extern volatile long counter __attribute__((visibility("hidden")));
extern __thread volatile long own __attribute__((visibility("hidden"), tls_model("local-exec")));

int answer_new(int x)
{
	__atomic_add_fetch(&counter, 1, __ATOMIC_RELAXED);
	own += 1000;
	return x + 1000;
}
