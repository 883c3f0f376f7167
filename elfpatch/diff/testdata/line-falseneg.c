extern int _printk(const char *, ...);
extern void __warn_printk(const char *, ...);
#ifdef AFTER
#define LIM 4096
#else
#define LIM 16
#endif
int set_limit(int *p)
{
	_printk("limit %d\n", LIM);
	return 0;
}
/* edx holds a value stored to memory; the next relocation is the printk call */
void fill(unsigned char *p, unsigned long n)
{
	int v = LIM;
	asm volatile("" : "+d"(v));
	p[n] = v; p[n + 1] = v;
	_printk("done\n");
}
