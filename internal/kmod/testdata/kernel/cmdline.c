/* A replacement of a function of the kernel: it calls exported functions, a
 * new function of another object, and refers to variables of the kernel that
 * are not exported and to new ones of its own. */
struct seq_file;
void seq_printf(struct seq_file *m, const char *f, ...);
extern char *saved_command_line; /* not exported */
int helper(struct seq_file *m);	 /* of helper.c */

static int calls;
int (*hook)(struct seq_file *m) = helper;
static const char *const words[] = { "zero", "one", "two" };

static __attribute__((noinline)) int local(struct seq_file *m)
{
	seq_printf(m, "%s %d\n", words[calls % 3], calls);
	return calls;
}

int new_cmdline(struct seq_file *m, void *v)
{
	calls++;
	seq_printf(m, "patched: %s\n", saved_command_line);
	local(m);
	return hook(m) + helper(m);
}
