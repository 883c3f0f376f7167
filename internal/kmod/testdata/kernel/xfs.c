/* A replacement of a function of a module: it refers to a variable of that
 * module, and to one of the kernel that is not exported. */
struct seq_file;
void seq_printf(struct seq_file *m, const char *f, ...);
extern char *saved_command_line;
struct tunable { int min, val, max; };
extern struct tunable xfs_params[2];
static struct tunable *const table[] = { xfs_params, xfs_params + 1 };

int new_xqm(struct seq_file *m, void *v)
{
	seq_printf(m, "xfs patched %d %d %d\n", xfs_params[0].max, table[1]->val, saved_command_line != 0);
	return 0;
}

static int loads;
int pre_patch(void *obj) { loads++; return 0; }
