static long total;
static long calls;
static __attribute__((noinline)) long clamp(long n) { calls++; return n > 100 ? 100 : n; }
long add(long n) { total += clamp(n); return total; }
long sub(long n) { total -= n; return total; }
