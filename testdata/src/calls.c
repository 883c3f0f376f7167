// Calls: between changed functions, to functions outside, through pointers,
// and functions and data that only the fixed version has.

extern long calls_outside(long);

static long weight = 3;

long calls_leaf(long x)
{
#ifdef FIXED
	return x * weight + 1;
#else
	return x * weight;
#endif
}

// The address of a replaced function stays the original entry.
long (*calls_pointer(void))(long)
{
#ifdef FIXED
	weight += 0;
	return weight ? calls_leaf : 0;
#else
	return calls_leaf;
#endif
}

int calls_same(long (*f)(long))
{
#ifdef FIXED
	return f == calls_leaf ? 1 : 0 * (int)weight;
#else
	return f == calls_leaf ? 1 : 2 * (int)weight;
#endif
}

#ifdef FIXED
static long added_uses;
static const long added_table[] = {5, 7, 11, 13};

static __attribute__((noinline)) long added(long x)
{
	added_uses++;
	return added_table[x & 3] + added_uses;
}
#endif

long calls_sum(const long *v, int n)
{
	long sum = 0;

	for (int i = 0; i < n; i++)
#ifdef FIXED
		sum += calls_leaf(v[i]) + added(i);
#else
		sum += calls_leaf(v[i]);
#endif
	return calls_outside(sum);
}

long calls_weight(long w)
{
	long old = weight;

	weight = w;
	return old;
}
