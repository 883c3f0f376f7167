/* What a patch does to a source of the kernel. */
#include <linux/module.h>
#include <linux/static_call.h>
#include <linux/syscalls.h>
#include <linux/compat.h>
#include "kpatch-macros.h"

static int before(patch_object *obj) { return obj->mod ? -ENODEV : 0; }
static void after(patch_object *obj) { pr_info("%s\n", obj->mod ? obj->mod->name : "vmlinux"); }
KPATCH_PRE_PATCH_CALLBACK(before);
KPATCH_POST_PATCH_CALLBACK(after);
KPATCH_PRE_UNPATCH_CALLBACK(after);
KPATCH_POST_UNPATCH_CALLBACK(after);

static noinline int ignored(int x) { return x + 1; }
KPATCH_IGNORE_FUNCTION(ignored);
KPATCH_IGNORE_SECTION(".init.text");

int helper(int, long);
DECLARE_STATIC_CALL(chosen, helper);
int use(int x)
{
	KPATCH_PRINTK("use\n");
	KPATCH_PRINTK_DEFERRED("later %d\n", x);
	return KPATCH_STATIC_CALL(chosen)(ignored(x), 7L);
}

KPATCH_SYSCALL_DEFINE1(one, char __user *, a) { return use((long)a); }
KPATCH_SYSCALL_DEFINE2(two, char __user *, a, int, b) { return use((long)a + b); }
KPATCH_SYSCALL_DEFINE3(three, char __user *, a, int, b, short, c) { return use((long)a + b * c); }
KPATCH_SYSCALL_DEFINE4(four, char __user *, a, int, b, short, c, long, d) { return use((long)a + b * c + d); }
KPATCH_SYSCALL_DEFINE5(five, char __user *, a, int, b, short, c, long, d, int, e) { return use((long)a + b * c + d + e); }
KPATCH_SYSCALL_DEFINE6(six, char __user *, a, int, b, short, c, long, d, int, e, int, f) { return use((long)a + b * c + d + e + f); }
#ifdef CONFIG_COMPAT
LIVEPATCH_COMPAT_SYSCALL_DEFINE3(cthree, char __user *, a, int, b, short, c) { return use((long)a + b * c); }
#endif

/* Shadow variables are the kernel's. */
#define ID 0x6c700001

int counted(void *obj)
{
	int *count = klp_shadow_get_or_alloc(obj, ID, sizeof(*count), GFP_KERNEL, NULL, NULL);

	if (!count)
		return -ENOMEM;
	count = klp_shadow_get(obj, ID);
	return ++*count;
}

void freed(void *obj)
{
	klp_shadow_free(obj, ID, NULL);
	klp_shadow_free_all(ID, NULL);
}

DEFINE_STATIC_KEY_FALSE(key);
int keyed(void) { return static_key_enabled(&key); }
