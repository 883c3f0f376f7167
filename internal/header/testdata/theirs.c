/* A source as it is written for kpatch: with and without semicolons. */
#include <linux/compiler.h>
#include <linux/static_call.h>
#include <linux/syscalls.h>
#include "kpatch-macros.h"
#include "kpatch-syscall.h"

static int before(patch_object *obj) { return obj->mod ? -ENODEV : 0; }
static void after(patch_object *obj) { KPATCH_PRINTK("%s\n", obj->mod ? obj->mod->name : "vmlinux"); }
KPATCH_PRE_PATCH_CALLBACK(before);
KPATCH_POST_PATCH_CALLBACK(after);
KPATCH_PRE_UNPATCH_CALLBACK(after)
KPATCH_POST_UNPATCH_CALLBACK(after)

static noinline int ignored(int x) { return x + 1; }
static noinline int forced(int x) { return x + 2; }
KPATCH_IGNORE_FUNCTION(ignored);
KPATCH_IGNORE_SECTION(".init.text");
KPATCH_FORCE_UNSAFE(forced);

int helper(int, long);
DECLARE_STATIC_CALL(chosen, helper);
int use(int x)
{
	KPATCH_PRINTK_DEFERRED("use\n");
	return KPATCH_STATIC_CALL(chosen)(ignored(forced(x)), 7L);
}

KPATCH_SYSCALL_DEFINE1(one, char *, a) { return a[0]; }
KPATCH_SYSCALL_DEFINE2(two, char *, a, int, b) { return a[b]; }
KPATCH_SYSCALL_DEFINE3(three, char *, a, int, b, short, c) { return a[b] + c; }
KPATCH_SYSCALL_DEFINE4(four, char *, a, int, b, short, c, long, d) { return a[b] + c + d; }
KPATCH_SYSCALL_DEFINE5(five, char *, a, int, b, short, c, long, d, int, e) { return a[b] + c + d + e; }
KPATCH_SYSCALL_DEFINE6(six, char *, a, int, b, short, c, long, d, int, e, int, f) { return a[b] + c + d + e + f; }
