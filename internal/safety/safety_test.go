package safety

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/elfpatch/diff"
	"livepatch/internal/testkit"
)

// compile makes an object; extra flags come last.
func compile(t testing.TB, cc, source string, flags ...string) *elfpatch.File {
	t.Helper()
	dir := t.TempDir()
	src, obj := filepath.Join(dir, "unit.c"), filepath.Join(dir, "unit.o")
	if err := os.WriteFile(src, []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	args := append([]string{"-O2", "-g", "-c", "-fno-pie", "-Wno-implicit-function-declaration"}, flags...)
	testkit.Run(t, testkit.Tool(t, cc), append(args, "-o", obj, src)...)
	return testkit.ELF(t, obj)
}

// compilers are those that each case is compiled with.
var compilers = map[string][]string{
	"gcc":                   nil,
	"aarch64-linux-gnu-gcc": nil,
	"clang":                 {"-gdwarf-4"},
}

func text(list []Finding) []string {
	var lines []string
	for _, f := range list {
		lines = append(lines, fmt.Sprintf("%s %v", []string{"note", "warn", "refuse"}[f.Level], f.Refusal()))
	}
	slices.Sort(lines)
	return lines
}

// Each case is a source and edits. What it leads to is a line of want, in which a
// star stands for anything; nothing else may be found.
var cases = []struct {
	name, source string
	kernel       bool
	edits        []string
	want         []string
}{
	{name: "nothing", source: `int f(int a) { return a + 1; }`, edits: []string{"a + 1", "a + 2"}},
	{name: "layout",
		source: `struct s { int a; int b; }; int f(struct s *p) { return p->b; }`,
		edits:  []string{"int a;", "int a; int more;"},
		want:   []string{"refuse unit.o: f: struct s: field more is new at offset 0x4; field b moved from offset 0x4 to 0x8; its size was 0x8 and is 0xc [layout-changed]"}},
	{name: "layout-alike",
		source: `struct s { int a; int b; }; int f(struct s *p) { return p->b / 3; }`,
		edits:  []string{"int b;", "unsigned b;"},
		want:   []string{"warn unit.o: f: struct s: field b was int and is unsigned int [layout-changed]"}},
	{name: "layout-unreached",
		source: `struct s { int a; int b; }; int f(int n) { return n + 1; } int g(struct s *p) { return p->a; }`,
		edits:  []string{"int b;", "int b, c;", "n + 1", "n + 2"}},
	{name: "enum",
		source: `enum e { A, B, C }; int f(enum e x) { return x == B; }`,
		edits:  []string{"A, B", "A, NEW, B"},
		want:   []string{"refuse unit.o: f: enum e: NEW = 1 is new; B was 1 and is 2; C was 2 and is 3 [enum-changed]"}},
	{name: "enum-count",
		source: `enum e { A, B, COUNT }; int f(enum e x) { return x < COUNT; }`,
		edits:  []string{"COUNT }", "C, COUNT }"},
		want:   []string{"warn unit.o: f: enum e: C = 2 is new; COUNT was 2 and is 3 [enum-changed]"}},
	{name: "enum-numbers",
		source: `enum bits { A, B, C }; enum { LOW = 1, HIGH }; extern unsigned long flags; int f(void) { return flags >> B & LOW; }`,
		edits:  []string{"A, B", "A, NEW, B", "LOW = 1", "LOW = 2"},
		want: []string{
			"refuse unit.o: numbers: enum (anonymous): LOW was 1 and is 2; HIGH was 2 and is 3 [enum-changed]",
			"refuse unit.o: numbers: enum bits: NEW = 1 is new; B was 1 and is 2; C was 2 and is 3 [enum-changed]",
		}},
	{name: "enum-typedef",
		source: `typedef enum { A, B, C } e; int f(e x) { return x == B; }`,
		edits:  []string{"A, B", "A, NEW, B"},
		want:   []string{"refuse unit.o: f: enum e: NEW = 1 is new; B was 1 and is 2; C was 2 and is 3 [enum-changed]"}},
	{name: "enum-numbers-more",
		source: `enum bits { A, B }; extern unsigned long flags; int f(void) { return flags >> B & 1; }`,
		edits:  []string{"A, B", "A, B, C", "flags >> B & 1", "flags >> B & 3"}},
	{name: "prototype-global",
		source: `int f(int a) { return a + 1; }`,
		edits:  []string{"int a", "int a, int b", "a + 1", "a + b"},
		want:   []string{"refuse unit.o: f: it took 1 parameter and takes 2 parameters; it is global, and callers that the patch does not replace call it as before [prototype-changed]"}},
	{name: "prototype-pointer",
		source: `static int f(int a) { return a + 1; } int (*keep)(int) = (int (*)(int))f; int g(void) { return keep(1); }`,
		edits:  []string{"f(int a) { return a + 1", "f(long a) { return a + 2"},
		want: []string{
			"note unit.o: f: it is called through a pointer too (keep holds its address); such calls reach the new code [address-taken]",
			"refuse unit.o: f: parameter 1 was int and is long; it is called through a pointer too (keep holds its address) [prototype-changed]",
		}},
	{name: "prototype-alike",
		source: `int f(int a) { return a / 2; }`,
		edits:  []string{"int a", "unsigned a"},
		want:   []string{"warn unit.o: f: parameter 1 was int and is unsigned int [prototype-changed]"}},
	{name: "locks",
		source: `int pthread_mutex_lock(void *), pthread_mutex_unlock(void *); extern int m, v;
int f(int a) { pthread_mutex_lock(&m); if (a < 0) return -1; v += a; pthread_mutex_unlock(&m); return v; }`,
		edits: []string{"if (a < 0) return -1;", "if (a < 0) { v--; pthread_mutex_unlock(&m); return -1; }"},
		want:  []string{"warn unit.o: f: other calls of locks and references: pthread_mutex_unlock 2, was 1 [lock-changed]"}},
	{name: "locks-moved",
		source: `int pthread_mutex_lock(void *), pthread_mutex_unlock(void *); extern int m, v;
int f(int a) { pthread_mutex_lock(&m); v += a; pthread_mutex_unlock(&m); return 0; }`,
		edits: []string{"int f(int a) { pthread", "static __attribute__((noinline)) void g(int a) { pthread", "return 0; }", "} int f(int a) { g(a); return v; }"}},
	{name: "main",
		source: `extern int work(int); int main(int c, char **v) { return work(c); }`,
		edits:  []string{"work(c)", "work(c + 1)"},
		want:   []string{"warn unit.o: main: it is on the stack as long as the program runs, so the patch cannot be applied [never-returns]"}},
	{name: "loop",
		source: `extern void work(int); void serve(int n) { for (;;) work(n); }`,
		edits:  []string{"work(n)", "work(n + 1)"},
		want:   []string{"warn unit.o: serve: it loops and does not return: the patch waits for every thread that is in it [never-returns]"}},
	{name: "loop-ends",
		source: `extern int work(int); void serve(int n) { while (work(n)) ; }`,
		edits:  []string{"work(n)", "work(n + 1)"}},
	{name: "thread", kernel: true,
		source: `void *kthread_create_on_node(int (*)(void *), void *, int, const char *, ...); extern int stop(void), work(void *);
static int worker(void *p) { while (!stop()) work(p); return 0; }
void *start(void *p) { return kthread_create_on_node(worker, p, -1, "w"); }`,
		edits: []string{"work(p);", "work(p), work(p);"},
		want: []string{
			"note unit.o: worker: it is called through a pointer too (start holds its address); such calls reach the new code [address-taken]",
			"warn unit.o: worker: it is what a kernel thread runs (start passes its address to kthread_create_on_node): the transition ends only when that thread does, or where it is asked to leave [never-returns]",
		}},
	{name: "sleep", kernel: true,
		source: `void _raw_spin_lock(void *), _raw_spin_unlock(void *), msleep(unsigned); extern int l, v;
int f(int a) { _raw_spin_lock(&l); v += a; _raw_spin_unlock(&l); return v; }`,
		edits: []string{"v += a;", "v += a; msleep(a);"},
		want:  []string{"refuse unit.o: f+*: it calls msleep, which may sleep, where a lock that forbids it is held [sleep-in-atomic]"}},
	{name: "sleep-perhaps", kernel: true,
		source: `void _raw_spin_lock(void *), _raw_spin_unlock(void *), msleep(unsigned); extern int l, v, w(void);
int f(int a) { if (a) _raw_spin_lock(&l); v += w(); _raw_spin_unlock(&l); return v; }`,
		edits: []string{"v += w();", "v += w(); msleep(v);"},
		want:  []string{"warn unit.o: f+*: it calls msleep, which may sleep, where a lock that forbids it may be held [sleep-in-atomic]"}},
	{name: "sleep-outside", kernel: true,
		source: `void _raw_spin_lock(void *), _raw_spin_unlock(void *), msleep(unsigned); extern int l, v;
int f(int a) { _raw_spin_lock(&l); v += a; _raw_spin_unlock(&l); return v; }`,
		edits: []string{"return v;", "msleep(a); return v;"}},
	{name: "new-pointer",
		source: `extern void (*hook)(void), tick(void); int f(void) { hook = 0; return 0; }`,
		edits:  []string{"int f", "static void mine(void) { tick(); tick(); } int f", "hook = 0", "hook = mine"},
		want:   []string{"warn unit.o: f+*: it takes the address of mine, which is new: whoever keeps that must be done with it before the patch is reverted [address-taken]"}},
	{name: "init-data", kernel: true,
		source: `__attribute__((section(".init.data"))) int once = 4; extern int v; int f(int a) { return v + a; }`,
		edits:  []string{"v + a", "v + a + once"},
		want:   []string{"refuse unit.o: f+*: it uses once, which is used while starting: that memory is given back [init-memory]"}},
	{name: "init-data-before", kernel: true,
		source: `__attribute__((section(".init.data"))) int once = 4; extern int v; int f(int a) { return v + a + once; }`,
		edits:  []string{"v + a", "v - a"}},
	{name: "data",
		source: `extern void see(void *); int f(int a) { see(&a); return a; }`,
		edits:  []string{"int f", "static long seen[3]; int f", "see(&a)", "seen[a]++; see(seen)"},
		want:   []string{"note unit.o: data: 24 bytes of new variables (seen), which begin anew whenever the patch is applied [data-added]"}},
}

func TestJudge(t *testing.T) {
	for _, c := range cases {
		for cc, flags := range compilers {
			t.Run(c.name+"/"+cc, func(t *testing.T) {
				t.Parallel()
				before := compile(t, cc, c.source, flags...)
				after := compile(t, cc, strings.NewReplacer(c.edits...).Replace(c.source), flags...)
				d, err := diff.Compare(before, after, diff.Options{Name: "unit.o", Kernel: c.kernel})
				if err != nil {
					t.Fatal(err)
				}
				got := text(Judge(Pair{Name: "unit.o", Delta: d, Kernel: c.kernel}))
				if !slices.EqualFunc(got, c.want, fits) {
					t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
				}
				d, err = diff.Compare(before, before, diff.Options{Name: "unit.o", Kernel: c.kernel})
				if err != nil {
					t.Fatal(err)
				}
				if got := Judge(Pair{Name: "unit.o", Delta: d, Kernel: c.kernel}); len(got) > 0 {
					t.Errorf("an object and itself: %v", text(got))
				}
			})
		}
	}
}

// fits compares a line with one in which a star stands for anything.
func fits(got, want string) bool {
	before, after, some := strings.Cut(want, "*")
	return got == want || some && strings.HasPrefix(got, before) && strings.HasSuffix(got, after)
}

// Objects that say nothing of types are told from those whose types are the same.
func TestNoTypes(t *testing.T) {
	source := `int f(int a) { return a + 1; }`
	before := compile(t, "gcc", source, "-g0")
	after := compile(t, "gcc", strings.Replace(source, "1", "2", 1), "-g0")
	d, err := diff.Compare(before, after, diff.Options{Name: "unit.o"})
	if err != nil {
		t.Fatal(err)
	}
	want := "warn unit.o: types: the objects say nothing of types, so changed layouts and prototypes are not seen: compile both with -g [types-not-compared]"
	if got := text(Judge(Pair{Name: "unit.o", Delta: d})); !slices.Equal(got, []string{want}) {
		t.Errorf("got %q", got)
	}
}

// A function that others have a copy of is named with them: those of its own
// object if they did not change, and those that the target tells of.
func TestInlined(t *testing.T) {
	unit := `extern int v; int f(int a) { v += a; return v * 3; }`
	rest := unit + `int caller(int a) { return f(a + 1); } int main(void) { return caller(2); }`
	dir := t.TempDir()
	src, exe := filepath.Join(dir, "rest.c"), filepath.Join(dir, "rest")
	if err := os.WriteFile(src, []byte(strings.Replace(rest, "extern int v", "int v", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	testkit.Run(t, testkit.Tool(t, "gcc"), "-O2", "-g", "-o", exe, src)
	d, err := diff.Compare(compile(t, "gcc", unit), compile(t, "gcc", strings.Replace(unit, "* 3", "* 5", 1)), diff.Options{Name: "unit.o"})
	if err != nil {
		t.Fatal(err)
	}
	got := text(Judge(Pair{Name: "unit.o", Delta: d, Debug: testkit.ELF(t, exe)}))
	want := []string{
		"warn unit.o: f: caller of " + src + " has a copy of it inlined, which the patch does not replace [inlined-elsewhere]",
		"warn unit.o: f: main of " + src + " has a copy of it inlined, which the patch does not replace [inlined-elsewhere]",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if got := text(Judge(Pair{Name: "unit.o", Delta: d, Debug: testkit.ELF(t, exe), Others: map[string]bool{"caller": true, "main": true}})); len(got) > 0 {
		t.Errorf("with the callers in the patch: %v", got)
	}
}

// Static functions of C++ and clones of functions, to which gcc gives no linkage
// name: what they use is compared, and they are told from their callers.
func TestCPlusPlus(t *testing.T) {
	const source = `
struct shape { int side; int depth; };
extern void see(int);
static int twice(const shape &s) { see(1); see(2); return s.side * 2; }
static __attribute__((noinline)) int area(const shape &s, int n) { see(n); return s.side * s.depth; }
namespace { __attribute__((noinline)) int step(const shape &s, int by) { see(by); return s.depth + by; } }
int use(const shape &s) { return area(s, 3) + step(s, 7) + twice(s); }
int again(const shape &s) { return area(s, 3) - step(s, 7) - twice(s); }
`
	for _, cc := range []string{"g++", "clang++"} {
		t.Run(cc, func(t *testing.T) {
			judged := func(edits ...string) []string {
				flags := []string{"-x", "c++"}
				before, after := compile(t, cc, source, flags...), compile(t, cc, strings.NewReplacer(edits...).Replace(source), flags...)
				d, err := diff.Compare(before, after, diff.Options{Name: "unit.o"})
				if err != nil {
					t.Fatal(err)
				}
				return text(Judge(Pair{Name: "unit.o", Delta: d}))
			}
			if got := judged("s.side * s.depth", "s.side + s.depth", "s.depth + by", "s.depth - by"); len(got) > 0 {
				t.Errorf("got\n%s", strings.Join(got, "\n"))
			}
			got := judged("int side; int depth;", "int depth; int side;")
			if len(got) != 1 || !strings.HasPrefix(got[0], "refuse unit.o: ") || !strings.Contains(got[0], "struct shape: ") || !strings.Contains(got[0], "field side moved from offset 0x0 to 0x4") {
				t.Errorf("fields moved: %s", strings.Join(got, "\n"))
			}
		})
	}
}

// Each row of the tables has a source, is found by its own name, and stands
// behind none that hides it.
func TestTables(t *testing.T) {
	for _, rows := range [][]Call{kernelCalls, programCalls, threadStarters} {
		for i := range rows {
			r := &rows[i]
			if r.Source == "" || r.Object == "" {
				t.Errorf("%s has no source or object", r.Name)
			}
			if got := find(rows, strings.Replace(r.Name, "*", "", 1)); got != r {
				t.Errorf("%s is taken for %v", r.Name, got)
			}
		}
	}
	for name, want := range map[string]Role{"_raw_spin_lock_irqsave": Lock, "_raw_spin_unlock_irqrestore": Unlock, "downgrade_write": Unlock, "up": Unlock, "upload": 0, "mutex_lock_nested": Lock} {
		var got Role
		if r := find(kernelCalls, name); r != nil {
			got = r.Role
		}
		if got != want {
			t.Errorf("%s: role %d, not %d", name, got, want)
		}
	}
}
