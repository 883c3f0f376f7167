/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * kpatch-macros.h: the names under which sources written for kpatch ask for
 * what livepatch.h offers, so that they build as they are.
 */
#ifndef LIVEPATCH_KPATCH_MACROS_H
#define LIVEPATCH_KPATCH_MACROS_H

#include "livepatch.h"

typedef struct klp_object patch_object;

/* Used with and without a semicolon behind them. */
#define KPATCH_PRE_PATCH_CALLBACK(fn)    LIVEPATCH_PRE_PATCH_CALLBACK(fn);
#define KPATCH_POST_PATCH_CALLBACK(fn)   LIVEPATCH_POST_PATCH_CALLBACK(fn);
#define KPATCH_PRE_UNPATCH_CALLBACK(fn)  LIVEPATCH_PRE_UNPATCH_CALLBACK(fn);
#define KPATCH_POST_UNPATCH_CALLBACK(fn) LIVEPATCH_POST_UNPATCH_CALLBACK(fn);
#define KPATCH_IGNORE_FUNCTION(fn)       LIVEPATCH_IGNORE_FUNCTION(fn);
#define KPATCH_IGNORE_SECTION(name)      LIVEPATCH_IGNORE_SECTION(name);

/*
 * Replacing a function that tasks may be running in. The kernel's livepatch
 * core cannot do that for one function, and livepatch refuses objects that ask
 * for it.
 */
#define KPATCH_FORCE_UNSAFE(fn) \
	static void *__kpatch_force_func_##fn \
	__livepatch_record(".kpatch.force") = (void *)fn;

#define KPATCH_STATIC_CALL(name)         LIVEPATCH_STATIC_CALL(name)
#define KPATCH_PRINTK(fmt, ...)          LIVEPATCH_PRINTK(fmt, ##__VA_ARGS__)
#define KPATCH_PRINTK_DEFERRED(fmt, ...) LIVEPATCH_PRINTK_DEFERRED(fmt, ##__VA_ARGS__)

#define KPATCH_SYSCALL_DEFINE0(...)  LIVEPATCH_SYSCALL_DEFINE0(__VA_ARGS__)
#define KPATCH_SYSCALL_DEFINE1(...)  LIVEPATCH_SYSCALL_DEFINE1(__VA_ARGS__)
#define KPATCH_SYSCALL_DEFINE2(...)  LIVEPATCH_SYSCALL_DEFINE2(__VA_ARGS__)
#define KPATCH_SYSCALL_DEFINE3(...)  LIVEPATCH_SYSCALL_DEFINE3(__VA_ARGS__)
#define KPATCH_SYSCALL_DEFINE4(...)  LIVEPATCH_SYSCALL_DEFINE4(__VA_ARGS__)
#define KPATCH_SYSCALL_DEFINE5(...)  LIVEPATCH_SYSCALL_DEFINE5(__VA_ARGS__)
#define KPATCH_SYSCALL_DEFINE6(...)  LIVEPATCH_SYSCALL_DEFINE6(__VA_ARGS__)
#define KPATCH_SYSCALL_DEFINEx(x, name, ...) LIVEPATCH_SYSCALL_DEFINEx(x, name, __VA_ARGS__)

#endif
