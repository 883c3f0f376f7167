// Thread-local state.

static __thread long depth;
__thread long tls_global = 7;

long tls_enter(long by)
{
	depth += by;
#ifdef FIXED
	return depth * 100 + tls_global;
#else
	return depth + tls_global;
#endif
}
