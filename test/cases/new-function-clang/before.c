static long total;
long add(long n) { total += n; return total; }
long sub(long n) { total -= n; return total; }
