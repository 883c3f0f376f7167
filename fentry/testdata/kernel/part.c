/* A file like those of a kernel: functions with and without room for the
 * function tracer, and tables about their code. */

#define notrace __attribute__((no_instrument_function, patchable_function_entry(0, 0)))

#ifdef __x86_64__
#define INSN "nopl 0(%%rax,%%rax,1)"
#else
#define INSN "nop"
#endif

int counter;

/* Two static keys and a BUG entry of 12 bytes. */
static inline __attribute__((always_inline)) int key(void)
{
	asm volatile("1: " INSN "\n"
		     ".pushsection __jump_table, \"aw\"\n"
		     ".balign 8\n"
		     ".long 1b - .\n.long 1b - .\n.quad counter - .\n"
		     ".popsection" ::: "memory");
	return counter;
}

int traced(int x)
{
	return key() + key() + x;
}

__attribute__((noinline)) static int quiet(int x)
{
	asm volatile("1: nop\n"
		     ".pushsection __bug_table, \"aw\"\n"
		     ".long 1b - .\n.long 1b - .\n.short 7\n.short 1\n"
		     ".popsection" ::: "memory");
	return x * counter;
}

int calls_quiet(int x)
{
	return quiet(x) + 1;
}

notrace int not_traced(int x)
{
	return x * 3 + counter;
}

notrace int hidden(int x)
{
	return x * 5 + counter;
}

notrace __attribute__((section(".noinstr.text"))) int early_entry(int x)
{
	return x * 7 + counter;
}

__attribute__((section(".init.text"))) int start_up(int x)
{
	return x + 11;
}

/* NOKPROBE_SYMBOL, of a function with a site and of one without. */
__attribute__((used, section("_kprobe_blacklist"))) static void *refused[] = {
	(void *)calls_quiet, (void *)hidden,
};

/* Called by pointer, so that it gets a landing pad and a type hash. */
int (*hook)(int) = traced;
int (*other)(int) = calls_quiet;

int by_pointer(int x)
{
	return hook(x) + other(x) + 1;
}

#ifdef __x86_64__
notrace void __fentry__(void)
{
}
#endif

const char linux_banner[] = "Linux version 0.0.0";
