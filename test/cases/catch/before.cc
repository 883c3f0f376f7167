extern int risky(int);
int safe(int x) { return x * 2; }
int guarded(int x) { try { return risky(x); } catch (int e) { return e; } }
