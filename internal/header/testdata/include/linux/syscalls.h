#pragma once
/* Definitions of system calls have this shape on all machines and versions. */
#define __MAP0(m, ...)
#define __MAP1(m, t, a, ...) m(t, a)
#define __MAP2(m, t, a, ...) m(t, a), __MAP1(m, __VA_ARGS__)
#define __MAP3(m, t, a, ...) m(t, a), __MAP2(m, __VA_ARGS__)
#define __MAP4(m, t, a, ...) m(t, a), __MAP3(m, __VA_ARGS__)
#define __MAP5(m, t, a, ...) m(t, a), __MAP4(m, __VA_ARGS__)
#define __MAP6(m, t, a, ...) m(t, a), __MAP5(m, __VA_ARGS__)
#define __MAP(n, ...) __MAP##n(__VA_ARGS__)
#define __SC_DECL(t, a) t a
#define __SC_LONG(t, a) long a
#define __SC_CAST(t, a) (t)a
#define __SC_ARGS(t, a) a
#define __DEFINE(se, do, x, name, ...) \
	long se##name(__MAP(x, __SC_LONG, __VA_ARGS__)); \
	static inline notrace long do##name(__MAP(x, __SC_DECL, __VA_ARGS__)); \
	long se##name(__MAP(x, __SC_LONG, __VA_ARGS__)) \
	{ \
		return do##name(__MAP(x, __SC_CAST, __VA_ARGS__)); \
	} \
	static inline notrace long do##name(__MAP(x, __SC_DECL, __VA_ARGS__))
#define SYSCALL_DEFINEx(x, name, ...) __DEFINE(__se_sys, __do_sys, x, name, __VA_ARGS__)
#define SYSCALL_DEFINE0(name) long sys_##name(void); long sys_##name(void)
#define COMPAT_SYSCALL_DEFINEx(x, name, ...) __DEFINE(__se_compat_sys, __do_compat_sys, x, name, __VA_ARGS__)
#define COMPAT_SYSCALL_DEFINE0(name) long compat_sys_##name(void); long compat_sys_##name(void)
