/* A static function of a header: each object that uses it has one, with its own count. */
static __attribute__((noinline)) int scale(int x)
{
	static int calls;
	return x + ++calls;
}
int work(int n);
int other(int n);
