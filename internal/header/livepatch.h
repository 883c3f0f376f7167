/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * livepatch.h: what the author of a kernel patch may put into the source.
 *
 * Everything here leaves records in sections of the object, which livepatch
 * reads and does not copy into the module, or is plain C. Include it behind the
 * kernel's own headers, with this directory on the include path (-I).
 *
 *   LIVEPATCH_PRE_PATCH_CALLBACK(fn)     fn runs before the patch is applied to
 *                                        the kernel or module that this file is
 *                                        part of; a value other than 0 refuses it
 *   LIVEPATCH_POST_PATCH_CALLBACK(fn)    after every task has switched
 *   LIVEPATCH_PRE_UNPATCH_CALLBACK(fn)   before the patch is reverted
 *   LIVEPATCH_POST_UNPATCH_CALLBACK(fn)  after every task has switched back
 *   LIVEPATCH_IGNORE_FUNCTION(fn)        fn counts as not changed
 *   LIVEPATCH_IGNORE_SECTION(name)       so does this section
 *   LIVEPATCH_STATIC_CALL(name)(args)    a static call as a call by pointer, for
 *                                        keys that belong to a module
 *   LIVEPATCH_SYSCALL_DEFINE1..6(…)      SYSCALL_DEFINE1..6 whose body is a
 *                                        function that can be patched
 *   LIVEPATCH_PRINTK(fmt, …)             printk that does not make the compiler
 *                                        move the code around it elsewhere
 */
#ifndef LIVEPATCH_AUTHOR_H
#define LIVEPATCH_AUTHOR_H

#include <linux/compiler.h>
#include <linux/livepatch.h>
#include <linux/printk.h>

/* A record stays in the object although nothing refers to it. */
#define __livepatch_record(section_name) \
	__attribute__((__used__, __section__(section_name)))

#define __livepatch_paste(a, b)  a##b
#define __livepatch_name(a, b)   __livepatch_paste(a, b)

/* Callbacks: one of each kind for the kernel and for each module. */

#define LIVEPATCH_PRE_PATCH_CALLBACK(fn) \
	static int (*__livepatch_pre_patch)(struct klp_object *) \
	__livepatch_record(".livepatch.callbacks.pre_patch") = fn

#define LIVEPATCH_POST_PATCH_CALLBACK(fn) \
	static void (*__livepatch_post_patch)(struct klp_object *) \
	__livepatch_record(".livepatch.callbacks.post_patch") = fn

#define LIVEPATCH_PRE_UNPATCH_CALLBACK(fn) \
	static void (*__livepatch_pre_unpatch)(struct klp_object *) \
	__livepatch_record(".livepatch.callbacks.pre_unpatch") = fn

#define LIVEPATCH_POST_UNPATCH_CALLBACK(fn) \
	static void (*__livepatch_post_unpatch)(struct klp_object *) \
	__livepatch_record(".livepatch.callbacks.post_unpatch") = fn

/* What counts as not changed although it did. */

#define LIVEPATCH_IGNORE_FUNCTION(fn) \
	static void *__livepatch_ignore_func_##fn \
	__livepatch_record(".livepatch.ignore.functions") = (void *)fn

#define LIVEPATCH_IGNORE_SECTION(name) \
	static const char *__livepatch_name(__livepatch_ignore_section_, __LINE__) \
	__livepatch_record(".livepatch.ignore.sections") = name

/*
 * A static call is an instruction that the kernel rewrites. A module's keys do
 * not exist yet when the patch is loaded, so the patch reads the pointer
 * instead.
 */
#define LIVEPATCH_STATIC_CALL(name) \
	((typeof(&STATIC_CALL_TRAMP(name)))READ_ONCE(STATIC_CALL_KEY(name).func))

/*
 * printk is marked cold, so that the compiler takes a path that ends in it for
 * unlikely and may outline it or inline less. Behind a condition that it cannot
 * see through and that is said to hold, the path stays as it was.
 */
#define __livepatch_likely() \
({ \
	int __livepatch_one; \
	__asm__ volatile("" : "=r" (__livepatch_one) : "0" (1)); \
	__builtin_expect(__livepatch_one, 1); \
})

#define LIVEPATCH_PRINTK(fmt, ...) \
({ \
	if (__livepatch_likely()) \
		printk(fmt, ##__VA_ARGS__); \
})

#define LIVEPATCH_PRINTK_DEFERRED(fmt, ...) \
({ \
	if (__livepatch_likely()) \
		printk_deferred(fmt, ##__VA_ARGS__); \
})

/*
 * The kernel makes the body of a system call an inline function, and inline
 * functions cannot be traced. Here that function only calls one that can. The
 * kernel's own macro makes the entry points, so that this fits every machine
 * and version.
 */
#define __LIVEPATCH_SYSCALL(define, prefix, x, name, ...) \
	static long prefix##name(__MAP(x, __SC_DECL, __VA_ARGS__)); \
	define(x, name, __VA_ARGS__) \
	{ \
		return prefix##name(__MAP(x, __SC_ARGS, __VA_ARGS__)); \
	} \
	static long prefix##name(__MAP(x, __SC_DECL, __VA_ARGS__))

#define LIVEPATCH_SYSCALL_DEFINE0(name)      SYSCALL_DEFINE0(name)
#define LIVEPATCH_SYSCALL_DEFINE1(name, ...) LIVEPATCH_SYSCALL_DEFINEx(1, _##name, __VA_ARGS__)
#define LIVEPATCH_SYSCALL_DEFINE2(name, ...) LIVEPATCH_SYSCALL_DEFINEx(2, _##name, __VA_ARGS__)
#define LIVEPATCH_SYSCALL_DEFINE3(name, ...) LIVEPATCH_SYSCALL_DEFINEx(3, _##name, __VA_ARGS__)
#define LIVEPATCH_SYSCALL_DEFINE4(name, ...) LIVEPATCH_SYSCALL_DEFINEx(4, _##name, __VA_ARGS__)
#define LIVEPATCH_SYSCALL_DEFINE5(name, ...) LIVEPATCH_SYSCALL_DEFINEx(5, _##name, __VA_ARGS__)
#define LIVEPATCH_SYSCALL_DEFINE6(name, ...) LIVEPATCH_SYSCALL_DEFINEx(6, _##name, __VA_ARGS__)
#define LIVEPATCH_SYSCALL_DEFINEx(x, name, ...) \
	__LIVEPATCH_SYSCALL(SYSCALL_DEFINEx, __livepatch_do_sys, x, name, __VA_ARGS__)

/* The same for system calls of 32-bit programs; needs <linux/compat.h>. */
#define LIVEPATCH_COMPAT_SYSCALL_DEFINE0(name)      COMPAT_SYSCALL_DEFINE0(name)
#define LIVEPATCH_COMPAT_SYSCALL_DEFINE1(name, ...) LIVEPATCH_COMPAT_SYSCALL_DEFINEx(1, _##name, __VA_ARGS__)
#define LIVEPATCH_COMPAT_SYSCALL_DEFINE2(name, ...) LIVEPATCH_COMPAT_SYSCALL_DEFINEx(2, _##name, __VA_ARGS__)
#define LIVEPATCH_COMPAT_SYSCALL_DEFINE3(name, ...) LIVEPATCH_COMPAT_SYSCALL_DEFINEx(3, _##name, __VA_ARGS__)
#define LIVEPATCH_COMPAT_SYSCALL_DEFINE4(name, ...) LIVEPATCH_COMPAT_SYSCALL_DEFINEx(4, _##name, __VA_ARGS__)
#define LIVEPATCH_COMPAT_SYSCALL_DEFINE5(name, ...) LIVEPATCH_COMPAT_SYSCALL_DEFINEx(5, _##name, __VA_ARGS__)
#define LIVEPATCH_COMPAT_SYSCALL_DEFINE6(name, ...) LIVEPATCH_COMPAT_SYSCALL_DEFINEx(6, _##name, __VA_ARGS__)
#define LIVEPATCH_COMPAT_SYSCALL_DEFINEx(x, name, ...) \
	__LIVEPATCH_SYSCALL(COMPAT_SYSCALL_DEFINEx, __livepatch_do_compat_sys, x, name, __VA_ARGS__)

#endif
