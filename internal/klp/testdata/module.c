/*
 * Modules for tests of the loader, compiled without the kernel's headers: the
 * layouts are those of Debian's 6.12 and 6.1 kernels for x86-64, given with -D.
 *
 * With KPROBE it is a module that puts a kprobe with a post handler on the
 * function FUNC, else a livepatch that replaces FUNC.
 */
#define STR2(x) #x
#define STR(x) STR2(x)
#define INFO(n, s) static const char info_##n[] __attribute__((section(".modinfo"), used, aligned(1))) = s

typedef unsigned long u64;
struct seq_file;
extern void seq_printf(struct seq_file *, const char *, ...);
extern void msleep(unsigned);

INFO(license, "license=GPL");
INFO(name, "name=" STR(NAME));
INFO(retpoline, "retpoline=Y");
INFO(vermagic, "vermagic=" VERMAGIC);

struct version { u64 crc; char name[56]; };
#define VERSION(n, c) static const struct version version_##n __attribute__((section("__versions"), used)) = { c, #n }
VERSION(module_layout, CRC_module_layout);

extern char __this_module[];

#ifdef KPROBE
VERSION(register_kprobe, CRC_register_kprobe);
VERSION(unregister_kprobe, CRC_unregister_kprobe);
struct kprobe {
	char lists[48];
	const char *symbol;
	unsigned offset;
	void *pre, *post;
	char rest[256];
};
extern int register_kprobe(struct kprobe *);
extern void unregister_kprobe(struct kprobe *);
static void post(struct kprobe *p, void *regs, u64 flags) {}
static struct kprobe probe = { .symbol = STR(FUNC), .post = post };
static int start(void) { return register_kprobe(&probe); }
static void end(void) { unregister_kprobe(&probe); }
#else
INFO(livepatch, "livepatch=Y");
#ifdef BAD_VERSION
VERSION(klp_enable_patch, 1);
#else
VERSION(klp_enable_patch, CRC_klp_enable_patch);
#endif
VERSION(seq_printf, CRC_seq_printf);
VERSION(msleep, CRC_msleep);

struct func { const char *name; void *replacement; u64 position; char rest[128]; };
struct object { const char *name; struct func *funcs; char rest[152]; };
struct patch { void *module; struct object *objects; void *states; char replace; char rest[175]; };
extern int klp_enable_patch(struct patch *);

static int show(struct seq_file *m, void *v)
{
	seq_printf(m, "%s\n", TEXT);
	return 0;
}

/* Stands in for a function that sleeps long, and fails. */
static int sleeper(void *inode, void *file)
{
	msleep(1000 * SLEEP);
	return -5;
}

__attribute__((used)) static void *const both[] = { show, sleeper };
static struct func funcs[2] = { { STR(FUNC), REPLACEMENT } };
static struct object objects[2] = { { 0, funcs } };
static struct patch patch = { __this_module, objects, 0, REPLACE };
static int start(void) { return klp_enable_patch(&patch); }
static void end(void) {}
#endif

struct module {
	char before_name[AT_NAME];
	char name[56];
	char before_init[AT_INIT - AT_NAME - 56];
	int (*init)(void);
	char before_exit[AT_EXIT - AT_INIT - 8];
	void (*exit)(void);
	char rest[SIZE - AT_EXIT - 8];
};
static struct module this_module __asm__("__this_module")
	__attribute__((section(".gnu.linkonce.this_module"), used, aligned(64))) = {
	.name = STR(NAME), .init = start, .exit = end,
};
