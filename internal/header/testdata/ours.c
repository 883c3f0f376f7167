/* Everything that livepatch.h offers, once. */
#include <linux/compiler.h>
#include <linux/livepatch.h>
#include <linux/printk.h>
#include <linux/static_call.h>
#include <linux/syscalls.h>
#include "livepatch.h"

static int before(struct klp_object *obj) { return obj->mod ? -ENODEV : 0; }
static void after(struct klp_object *obj) { LIVEPATCH_PRINTK("%s\n", obj->mod ? obj->mod->name : "vmlinux"); }
static void going(struct klp_object *obj) { LIVEPATCH_PRINTK_DEFERRED("going\n"); }
static void gone(struct klp_object *obj) { LIVEPATCH_PRINTK("%d %s\n", 1, "gone"); }
LIVEPATCH_PRE_PATCH_CALLBACK(before);
LIVEPATCH_POST_PATCH_CALLBACK(after);
LIVEPATCH_PRE_UNPATCH_CALLBACK(going);
LIVEPATCH_POST_UNPATCH_CALLBACK(gone);

static noinline int ignored(int x) { return x + 1; }
LIVEPATCH_IGNORE_FUNCTION(ignored);
LIVEPATCH_IGNORE_SECTION(".data.first");
LIVEPATCH_IGNORE_SECTION(".data.second");

int helper(int, long);
DECLARE_STATIC_CALL(chosen, helper);
int use(int x) { return LIVEPATCH_STATIC_CALL(chosen)(ignored(x), 7L); }

LIVEPATCH_SYSCALL_DEFINE0(none) { return use(0); }
LIVEPATCH_SYSCALL_DEFINE1(one, char *, a) { return a[0]; }
LIVEPATCH_SYSCALL_DEFINE2(two, char *, a, int, b) { return a[b]; }
LIVEPATCH_SYSCALL_DEFINE3(three, char *, a, int, b, short, c) { return a[b] + c; }
LIVEPATCH_SYSCALL_DEFINE4(four, char *, a, int, b, short, c, long, d) { return a[b] + c + d; }
LIVEPATCH_SYSCALL_DEFINE5(five, char *, a, int, b, short, c, long, d, int, e) { return a[b] + c + d + e; }
LIVEPATCH_SYSCALL_DEFINE6(six, char *, a, int, b, short, c, long, d, int, e, int, f) { return a[b] + c + d + e + f; }
LIVEPATCH_COMPAT_SYSCALL_DEFINE0(cnone) { return use(0); }
LIVEPATCH_COMPAT_SYSCALL_DEFINE1(cone, char *, a) { return 1 + a[0]; }
LIVEPATCH_COMPAT_SYSCALL_DEFINE2(ctwo, char *, a, int, b) { return 1 + a[b]; }
LIVEPATCH_COMPAT_SYSCALL_DEFINE3(cthree, char *, a, int, b, short, c) { return 1 + a[b] + c; }
LIVEPATCH_COMPAT_SYSCALL_DEFINE4(cfour, char *, a, int, b, short, c, long, d) { return 1 + a[b] + c + d; }
LIVEPATCH_COMPAT_SYSCALL_DEFINE5(cfive, char *, a, int, b, short, c, long, d, int, e) { return 1 + a[b] + c + d + e; }
LIVEPATCH_COMPAT_SYSCALL_DEFINE6(csix, char *, a, int, b, short, c, long, d, int, e, int, f) { return 1 + a[b] + c + d + e + f; }
