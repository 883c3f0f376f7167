/* A new function that cmdline.c calls; its static names are the same. */
struct seq_file;
void seq_printf(struct seq_file *m, const char *f, ...);

static int calls;
static __attribute__((noinline)) void local(struct seq_file *m) { seq_printf(m, calls > 1 ? "helper again\n" : "helper\n"); }

int helper(struct seq_file *m)
{
	calls++;
	local(m);
	return 0;
}
