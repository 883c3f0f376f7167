/* Macros that leave in an object what those of the kernel leave. */
extern int _printk(const char *, ...);
extern void __might_sleep(const char *file, int line);
extern void lockdep_rcu_suspicious(const char *file, int line, const char *what);
extern void __fentry__(void);
extern int g;
#define noinline __attribute__((noinline))
#define __section(s) __attribute__((section(s)))
#define __init __section(".init.text") __attribute__((cold))
#define notrace __attribute__((no_instrument_function, patchable_function_entry(0, 0)))

#ifdef __x86_64__
#define TRAP "ud2"
#define C "c"
#else
#define TRAP "brk #0x800"
#define C "c"
#endif

#define BUG_FLAGS(flags) \
	asm volatile("1:\t" TRAP "\n\t.pushsection __bug_table,\"aw\"\n2:\t.long 1b - .\n\t.long %" C "0 - .\n" \
		     "\t.short %" C "1\n\t.short %" C "2\n\t.popsection" : : "i"(__FILE__), "i"(__LINE__), "i"(flags))
#define WARN_ON(c) do { if (__builtin_expect(!!(c), 0)) BUG_FLAGS(0x909); } while (0)

struct static_key { int enabled; };
#ifdef __x86_64__
#define NOP5 ".byte 0x0f, 0x1f, 0x44, 0, 0"
#else
#define NOP5 "nop"
#endif
#define BRANCH(key) ({ int on; asm goto("1:\t" NOP5 "\n\t.pushsection __jump_table,\"aw\"\n\t.balign 8\n\t.long 1b - ., %l[yes] - .\n" \
	"\t.quad %" C "0 - .\n\t.popsection" : : "i"(key) : : yes); on = 0; if (0) { yes: on = 1; } on; })

#ifdef __x86_64__
#define ALTERNATIVE(old, new, feature) \
	"661:\n\t" old "\n662:\n\t.skip -(((6651f-6641f)-(662b-661b)) > 0) * ((6651f-6641f)-(662b-661b)), 0x90\n663:\n" \
	"\t.pushsection .altinstructions,\"a\"\n\t.long 661b - .\n\t.long 6641f - .\n\t.4byte " #feature "\n\t.byte 663b - 661b\n\t.byte 6651f - 6641f\n\t.popsection\n" \
	"\t.pushsection .altinstr_replacement, \"ax\"\n6641:\n\t" new "\n6651:\n\t.popsection\n"
#else
#define ALTERNATIVE(old, new, feature) \
	"661:\n\t" old "\n662:\n" \
	"\t.pushsection .altinstructions,\"a\"\n\t.word 661b - .\n\t.word 663f - .\n\t.hword " #feature "\n\t.byte 662b - 661b\n\t.byte 664f - 663f\n\t.popsection\n" \
	"\t.subsection 1\n663:\n\t" new "\n664:\n\t.previous\n"
#endif
#define EXTABLE(insn, type) \
	"1:\t" insn "\n2:\n\t.pushsection __ex_table,\"a\"\n\t.balign 4\n\t.long 1b - ., 2b - .\n\t.long " #type "\n\t.popsection\n"
#ifdef __x86_64__
#define LOAD "movq (%1), %0"
#else
#define LOAD "ldr %0, [%1]"
#endif
