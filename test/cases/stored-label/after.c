static void *resume;
extern int step(int);
int machine(int x) { if (resume) goto *resume; again: x = step(x); if (x & 1) { resume = &&again; return x; } resume = &&done; done: return x + 2; }
