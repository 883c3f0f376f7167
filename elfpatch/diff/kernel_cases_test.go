package diff

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"livepatch/elfpatch"
)

// move is a directive that moves the lines behind it in the patched source.
const move = "#ifdef AFTER\n#line %d\n#else\n#line %d\n#endif\n"

func moved(line, by int) string { return fmt.Sprintf(move, line+by, line) }

// A kernelSource is a source of kernel-like code whose versions differ by
// -DAFTER.
type kernelSource struct {
	name, flags, source string
	only                string // a compiler
	want                string
}

// compile builds both versions.
func (k *kernelSource) compile(t testing.TB, cc, machine string) (before, after *elfpatch.File) {
	t.Helper()
	source := k.source
	if strings.HasSuffix(source, ".c") {
		b, err := os.ReadFile(filepath.Join("testdata", source))
		if err != nil {
			t.Fatal(err)
		}
		source = string(b)
	} else {
		header, err := filepath.Abs(filepath.Join("testdata", "kernel.h"))
		if err != nil {
			t.Fatal(err)
		}
		source = kernelPrelude + "#include \"" + header + "\"\n" + source
	}
	flags := slices.Concat(kernelFlags[machine], []string{"-ffunction-sections", "-fdata-sections", "-fno-asynchronous-unwind-tables", "-fno-strict-aliasing"}, strings.Fields(k.flags))
	return compile(t, cc, "c", source, flags)
}

// kernelSources are changes of kernel-like code; the first word of want is the
// exit class.
var kernelSources = []kernelSource{
	{name: "checked places without names", only: "gcc", flags: "-fno-data-sections -fsanitize=signed-integer-overflow,shift,bounds", source: `
extern int ext(int);
int one(int x) { static int n; n += x; return n; }
int tick(int x)
{
	static int n;
	static const int tab[] = {3, 1, 4, 1, 5, 9, 2, 6};
	n += tab[x & 7];
#ifdef AFTER
	if (x < 0)
		return ext(-x);
	n <<= x;
#endif
	return n + x;
}
int last(int x) { static int n[4]; return n[x & 3]++ + x; }
`, want: "0 changed tick"},
	{name: "lines moved", source: moved(100, 3) + `
void a(int x) { WARN_ON(x); g = x; }
void b(int x) { __might_sleep(__FILE__, __LINE__); WARN_ON(x > 3); }
void c(int x) { if (x) lockdep_rcu_suspicious(__FILE__, __LINE__, "no lock"); }
`, want: "3"},
	{name: "lines moved, with debug information", flags: "-g", source: moved(100, 3) + `
void a(int x) { WARN_ON(x); g = x; }
void b(int x) { __might_sleep(__FILE__, __LINE__); WARN_ON(x > 3); }
`, want: "3"},
	{name: "lines moved by two hunks", source: moved(100, 3) + "void a(int x) { WARN_ON(x); g = x; }\n" + moved(200, 1) + "void b(int x) { __might_sleep(__FILE__, __LINE__); }\n", want: "3"},
	{name: "a line beside a change", source: moved(100, 3) + `
void a(int x) { WARN_ON(x); g = x + AFTER_OR(2, 1); }
void b(int x) { WARN_ON(x); g = x; }
`, want: "0 changed a"},
	{name: "lines in contradiction", source: moved(100, 50) + `
void a(int x) { __might_sleep(__FILE__, __LINE__); g = x; }
` + moved(120, 0) + `
void b(int x) { __might_sleep(__FILE__, __LINE__); g = x; }
`, want: "0 changed a changed b"},
	{name: "a line too far", source: moved(100, 9000) + "void a(int x) { __might_sleep(__FILE__, __LINE__); g = x; }\n", want: "0 changed a"},
	{name: "a number that is no line", source: `
void a(int x) { _printk("%d", AFTER_OR(103, 100)); g = x; }
void b(int x) { g = AFTER_OR(103, 100); __might_sleep(__FILE__, 7); }
`, want: "0 changed a changed b"},
	{name: "a printed line, with a witness", source: moved(100, 3) + `
void a(int x) { _printk("%s: %d\n", __FILE__, __LINE__); g = x; }
void b(int x) { WARN_ON(x); g = x; }
`, want: "3"},
	{name: "a printed line, without one", source: moved(100, 3) + `
void a(int x) { _printk("%s: %d\n", __FILE__, __LINE__); g = x; }
`, want: "0 changed a"},
	{name: "a printed line, with debug information", flags: "-g", source: moved(100, 3) + `
void a(int x) { _printk("%s: %d\n", __FILE__, __LINE__); g = x; }
`, want: "3"},
	{name: "a number beside a file name, with debug information", flags: "-g", source: `
void a(int x) { _printk("%s: %d\n", __FILE__, AFTER_OR(103, 100)); g = x; }
`, want: "0 changed a"},
	{name: "a limit beside the name of the function", source: moved(100, -1) + `
void a(int x) { _printk("%s: at most %d\n", __func__, AFTER_OR(101, 100)); g = x; }
void b(int x) { WARN_ON(x); g = x; }
`, want: "0 changed a"},
	{name: "a line beside the name of the function", source: moved(100, 3) + `
extern int check(int, const char *, int);
void a(int x) { g = check(x, __func__, __LINE__); }
void b(int x) { WARN_ON(x); g = x; }
`, want: "3"},
	{name: "a line for an unknown function, with debug information", flags: "-g", source: moved(100, 3) + `
extern int check(int, int);
void a(int x) { g = check(x, __LINE__); }
void b(int x) { WARN_ON(x); g = x; }
`, want: "3"},
	{name: "a line for an unknown function", source: moved(100, 3) + `
extern int check(int, int);
void a(int x) { g = check(x, __LINE__); }
void b(int x) { WARN_ON(x); g = x; }
`, want: "0 changed a"},
	{name: "a line in a string", source: `
void a(int x) { _printk("field at mm/slub.c:" AFTER_OR("103", "100")); g = x; }
void b(int x) { _printk("size " AFTER_OR("103", "100")); g = x; }
`, want: "0 changed b"},
	{name: "a line that the patch did not move is kept", source: `
void a(int x) { WARN_ON(x); g = x + AFTER_OR(2, 1); }
void b(int x) { WARN_ON(x); g = x; }
`, want: "0 changed a"},
	{name: "flags of a BUG", source: "void a(int x) { if (x) BUG_FLAGS(AFTER_OR(0x901, 0x907)); g = x; }\nvoid b(int x) { WARN_ON(x); }\n", want: "0 changed a"},
	{name: "another key", source: `
struct static_key one, two;
void a(int x) { if (BRANCH(AFTER_OR(&two, &one))) g = x; }
void b(int x) { if (BRANCH(&one)) g = x; }
`, want: "0 changed a"},
	{name: "another default of a key", source: `
extern struct static_key one;
void a(int x) { if (BRANCH((char *)&one + AFTER_OR(1, 0))) g = x; }
void b(int x) { if (BRANCH(&one)) g = x; }
`, want: "0 changed a"},
	{name: "another feature", source: `
void a(int x) { asm volatile(AFTER_OR(ALTERNATIVE("nop", "nop", 0x29), ALTERNATIVE("nop", "nop", 0x28))); g = x; }
void b(int x) { asm volatile(ALTERNATIVE("nop", "nop", 0x28)); g = x; }
`, want: "0 changed a"},
	{name: "another replacement", only: "gcc", source: `
void a(int x) { asm volatile(AFTER_OR(ALTERNATIVE("nop", "cld", 0x28), ALTERNATIVE("nop", "std", 0x28))); g = x; }
void b(int x) { asm volatile(ALTERNATIVE("nop", "std", 0x28)); g = x; }
`, want: "0 changed a"},
	{name: "another replacement behind the function", only: "aarch64-linux-gnu-gcc", source: `
void a(int x) { asm volatile(AFTER_OR(ALTERNATIVE("nop", "isb", 5), ALTERNATIVE("nop", "dsb sy", 5))); g = x; }
void b(int x) { asm volatile(ALTERNATIVE("nop", "dsb sy", 5)); g = x; }
`, want: "0 changed a"},
	{name: "replacements of functions in one section", flags: "-fno-function-sections", only: "aarch64-linux-gnu-gcc", source: `
void a(int x) { asm volatile(ALTERNATIVE("nop", "dsb sy", 5)); g = x; asm volatile(ALTERNATIVE("nop", "nop", 6)); }
void b(int x) { asm volatile(AFTER_OR(ALTERNATIVE("nop", "isb", 5), ALTERNATIVE("nop", "dsb sy", 5))); g = x; }
void c(int x) { asm volatile(ALTERNATIVE("nop", "dsb sy", 5)); g = x; }
`, want: "0 changed b"},
	{name: "another replacement that calls", only: "gcc", source: `
extern void one(void), two(void);
void a(int x) { asm volatile(AFTER_OR(ALTERNATIVE("", "call two", 0x28), ALTERNATIVE("", "call one", 0x28))); g = x; }
void b(int x) { asm volatile(ALTERNATIVE("", "call one", 0x28)); g = x; }
`, want: "0 changed a"},
	{name: "alternatives that moved", source: `
#ifdef AFTER
void n(int x) { asm volatile(ALTERNATIVE("nop", "nop", 0x30)); g = x; }
#endif
void a(int x) { asm volatile(ALTERNATIVE("nop", "nop", 0x28)); g = x; }
void b(int x) { asm volatile(ALTERNATIVE("nop", "nop", 0x29)); g = x; }
`, want: "0 new n"},
	{name: "another type of exception", source: `
long a(long *p) { long v; asm volatile(AFTER_OR(EXTABLE(LOAD, 3), EXTABLE(LOAD, 2)) : "=r"(v) : "r"(p)); return v; }
long b(long *p) { long v; asm volatile(EXTABLE(LOAD, 2) : "=r"(v) : "r"(p)); return v; }
`, want: "0 changed a"},
	{name: "init", source: "void __init a(int x) { g = AFTER_OR(2, 1) * x; }\nvoid b(int x) { g = x; }\n", want: "2 changed a init-text-changed"},
	{name: "no site", source: "void notrace a(int x) { g = AFTER_OR(2, 1) * x; }\nvoid b(int x) { g = x; }\n", want: "2 changed a no-patch-site"},
	{name: "noinstr", source: "void notrace __section(\".noinstr.text\") a(int x) { g = AFTER_OR(2, 1) * x; }\nvoid b(int x) { g = x; }\n", want: "2 changed a no-patch-site"},
	{name: "scheduler text", source: `
void __section(".sched.text") a(int x) { g = AFTER_OR(2, 1) * x; }
void __section(".sched.text") b(int x) { g = x; }
`, want: "0 changed a"},
	{name: "live data", source: "int __section(\".data..read_mostly\") v = AFTER_OR(2, 1);\nvoid a(int x) { g = x + v++; }\n", want: "2 data-changed"},
	{name: "data of after init", source: "static int __section(\".data..ro_after_init\") v = 1;\nvoid s(int x) { v = x; }\nvoid a(int x) { g = x + v + AFTER_OR(2, 1); }\n", want: "0 changed a"},
	{name: "special statics", source: `
extern void init_lock(void *, void *);
extern int *limit(void *);
void a(void *l) { static char __key[8]; init_lock(l, __key); }
#ifdef AFTER
void n(void *l) { static char __key[8]; init_lock(l, __key); }
#endif
void b(void *l) { static char __key[8]; init_lock(l, __key); g++; }
void c(void *l) { static int _rs[4] = { 5, 10 }; limit(_rs); }
void d(void *l) { static int _rs[4] = { 5, AFTER_OR(20, 10) }; limit(_rs); g--; }
`, want: "0 changed d new n"},
	{name: "once", source: `
void a(int x) { static char __section(".data..once") __already_done; if (!__already_done) { __already_done = 1; _printk("once"); } }
void b(int x) { static char __section(".data..once") __already_done; if (x > AFTER_OR(2, 1) && !__already_done) { __already_done = 1; _printk("b"); } }
`, want: "0 changed b"},
	{name: "function name", source: "void a(int x) { _printk(\"%s\", __func__); g = x; }\n#ifdef AFTER\nvoid n(int x) { _printk(\"%s\", __func__); g = 2 * x; }\n#endif\nvoid b(int x) { _printk(\"%s\", __func__); g = 3 * x; }\n", want: "0 new n"},
	{name: "checked arithmetic", flags: "-fsanitize=signed-integer-overflow", source: moved(100, 2) + `
int a(int x) { return x * g; }
int b(int x) { return x + AFTER_OR(2, 1) + g; }
`, want: "0 changed b"},
	{name: "registered at boot", source: "int a(void) { return 1; }\n#ifdef AFTER\nstatic int (*const call_a)(void) __section(\".initcall6.init\") __attribute__((used)) = a;\n#endif\nint b(void) { return g; }\n",
		want: "2 boot-table"},
	{name: "another checksum", source: "asm(\".globl __crc_a\\n__crc_a = \" AFTER_OR(\"0x123\", \"0x456\"));\nasm(\".pushsection ___ksymtab+a,\\\"a\\\"\\n__ksymtab_a: .long a - .\\n.popsection\");\nint a(void) { return g; }\n",
		want: "2 export-changed"},
	{name: "exported", source: "int a(void) { return g; }\n#ifdef AFTER\nasm(\".pushsection ___ksymtab+a,\\\"a\\\"\\n__ksymtab_a: .long a - .\\n.popsection\");\n#endif\n", want: "2 export-changed"},
	{name: "vdso", source: "int __vdso_time(int x) { return x + AFTER_OR(2, 1); }\nint b(void) { return g; }\n", want: "2 changed __vdso_time vdso"},
	{name: "ignored function", source: `
void a(int x) { g = AFTER_OR(2, 1) * x; }
void b(int x) { g = x + AFTER_OR(2, 1); }
#ifdef AFTER
void *__kpatch_ignore_func_a __section(".kpatch.ignore.functions") = a;
#endif
`, want: "0 changed b"},
	{name: "ignored section", source: `
void __init a(int x) { g = AFTER_OR(2, 1) * x; }
void b(int x) { g = x + AFTER_OR(2, 1); }
#ifdef AFTER
char *__UNIQUE_ID_ignore_1 __section(".livepatch.ignore.sections") = ".init.text";
#endif
`, want: "0 changed b"},
	{name: "force", source: "void a(int x) { g = AFTER_OR(2, 1) * x; }\n#ifdef AFTER\nvoid *__kpatch_force_func_a __section(\".kpatch.force\") = a;\n#endif\n", want: "2 changed a force-unsafe"},
	{name: "boot constant", source: `
void a(int x) { g = AFTER_OR(2, 1) * x; asm volatile("1:\tnop\n\t.pushsection runtime_shift_d_hash,\"a\"\n\t.long 1b - .\n\t.popsection"); }
void b(int x) { g = x; }
`, want: "2 changed a boot-constant"},
	{name: "a number before printk", only: "gcc", source: "line-falseneg.c", want: "0 changed fill changed set_limit"},
	{name: "a table of a switch", source: "cswtch-falseneg.c", want: "0 changed perm_for_mode"},
	{name: "counted names", source: `
extern int *use(int *);
static int UNIQUE(state, 1, 2) __attribute__((used)) = 3;
static int UNIQUE(other, 2, 3) = 4;
void a(int x) { g = *use(&UNIQUE(other, 2, 3)); }
void b(int x) { g = x + AFTER_OR(2, 1); }
`, want: "0 changed b"},
	{name: "a table of operations", source: `
static int one(int x) { return x + g; }
static int two(int x) { return x - g; }
struct ops { int (*open)(int), (*close)(int); };
static const struct ops ops = { one, AFTER_OR(one, two) };
void a(const struct ops **o) { *o = &ops; }
void b(int x) { g = x; }
`, want: "2 changed a data-changed"},
	{name: "code that an exception goes on in", only: "gcc", source: `
long a(long *p) { long v; asm volatile("1: movq (%1), %0\n2:\n.pushsection .fixup,\"ax\"\n3: mov $" AFTER_OR("2", "1") ", %0\njmp 2b\n.popsection\n"
	".pushsection __ex_table,\"a\"\n.long 1b - ., 3b - ., 0\n.popsection" : "=r"(v) : "r"(p)); return v; }
long b(long *p) { long v; asm volatile("1: movq (%1), %0\n2:\n.pushsection .fixup,\"ax\"\n3: mov $1, %0\njmp 2b\n.popsection\n"
	".pushsection __ex_table,\"a\"\n.long 1b - ., 3b - ., 0\n.popsection" : "=r"(v) : "r"(p)); return v; }
`, want: "0 changed a"},
	{name: "a paravirtual call of another kind", only: "gcc", source: `
void a(void) { asm volatile("771: call *%0\n772:\n.pushsection .parainstructions,\"a\"\n.balign 8\n.quad 771b\n.byte " AFTER_OR("5", "4") "\n.byte 772b-771b\n.popsection" : : "m"(g)); }
void b(void) { asm volatile("771: call *%0\n772:\n.pushsection .parainstructions,\"a\"\n.balign 8\n.quad 771b\n.byte 4\n.byte 772b-771b\n.popsection" : : "m"(g)); }
`, want: "0 changed a"},
	{name: "a lock prefix less", only: "gcc", source: `
void a(void) { asm volatile(AFTER_OR("", ".pushsection .smp_locks,\"a\"\n.balign 4\n.long 671f - .\n.popsection\n671:\n\t") "lock; incl %0" : "+m"(g)); }
void b(void) { asm volatile(".pushsection .smp_locks,\"a\"\n.balign 4\n.long 671f - .\n.popsection\n671:\n\tlock; incl %0" : "+m"(g)); }
`, want: "0 changed a"},
	{name: "torn table", only: "gcc", source: "void a(int x) { WARN_ON(x); }\nasm(\".pushsection __bug_table,\\\"aw\\\"; .byte 1, 2, 3; .popsection\");\n", want: "2 special-section"},
	{name: "a part with a site", only: "gcc", source: "part-silent.c", want: "0 changed foo.part.0"},
}

const kernelPrelude = `#ifdef AFTER
#define AFTER_OR(a, b) a
#define UNIQUE(name, before, after) __UNIQUE_ID_##name##after
#else
#define AFTER_OR(a, b) b
#define UNIQUE(name, before, after) __UNIQUE_ID_##name##before
#endif
`

// kernelFlags are those that a kernel is compiled with, as far as they matter.
var kernelFlags = map[string][]string{
	"x86":   {"-pg", "-mfentry", "-fno-pic", "-mcmodel=kernel", "-fcf-protection=none", "-mno-red-zone"},
	"arm64": {"-fpatchable-function-entry=2", "-fno-pic", "-fno-section-anchors"},
}

func TestKernelSources(t *testing.T) {
	for _, cc := range compilers {
		for _, tc := range kernelSources {
			if tc.only != "" && cc.cc != tc.only {
				continue
			}
			t.Run(cc.name+"/"+tc.name, func(t *testing.T) {
				tool(t, cc.cc)
				a, b := tc.compile(t, cc.cc, cc.machine)
				exit, changed, fresh, d := kernelVerdict(t, a, b)
				words := []string{exit}
				for _, f := range changed {
					words = append(words, "changed", f)
				}
				for _, f := range fresh {
					words = append(words, "new", f)
				}
				text := ""
				if d != nil {
					codes := map[string]bool{}
					for _, r := range d.Refusals {
						codes[string(r.Code)] = true
					}
					words = append(words, sortedKeys(codes)...)
					text = summary(d)
				}
				if got := strings.Join(words, " "); got != tc.want {
					t.Errorf("got  %s\nwant %s\n%s", got, tc.want, text)
				}
				kernelVerdict(t, b, a) // must not crash
				if _, _, _, d := kernelVerdict(t, b, b); d == nil || d.Changed() {
					t.Errorf("it differs from itself: %s", summary(d))
				}
			})
		}
	}
}
