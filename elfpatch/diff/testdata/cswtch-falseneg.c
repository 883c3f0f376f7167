#ifdef AFTER
#define V 36
#else
#define V 35
#endif
int perm_for_mode(unsigned x)
{
	switch (x) { case 0: return 10; case 1: return 20; case 2: return V; case 3: return 47; case 4: return 51; case 5: return 3; default: return 0; }
}
extern void sink(int *);
int other(int a) { int b = a; sink(&b); return b + 1; }
