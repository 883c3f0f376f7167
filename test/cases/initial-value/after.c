static int limit = 20;
static int used;
int take(int n) { if (used + n > limit) return -2; used += n; return used; }
void raise_limit(int n) { limit += n; }
