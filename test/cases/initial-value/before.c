static int limit = 10;
static int used;
int take(int n) { if (used + n > limit) return -1; used += n; return used; }
void raise_limit(int n) { limit += n; }
