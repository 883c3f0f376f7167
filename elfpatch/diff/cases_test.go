package diff

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/refusal"
	"livepatch/internal/testkit"
)

// A sourceCase is a source whose two versions differ by -DAFTER.
type sourceCase struct {
	name   string
	flags  string // besides -O2
	only   string // "x86" or "arm64": of the two machines
	source string
	arm64  []string // want of arm64, if it is another
	want   []string // "changed f", "new f", "removed f", "f [code]" for refusals; data not counted
}

var sourceCases = []sourceCase{
	{name: "part-silent", flags: "-ffunction-sections -fdata-sections", source: "part-silent.c",
		want: []string{"changed foo.part.0"}},
	{name: "part-silent together", source: "part-silent.c",
		want: []string{"changed foo.part.0"}},
	{name: "line-falseneg", only: "x86", flags: "-ffunction-sections", source: "line-falseneg.c",
		want: []string{"changed fill", "changed set_limit"}},
	{name: "cswtch-falseneg", flags: "-ffunction-sections -fdata-sections", source: "cswtch-falseneg.c",
		want: []string{"changed perm_for_mode"}},
	{name: "cswtch-falseneg together", source: "cswtch-falseneg.c",
		want: []string{"changed perm_for_mode"}},
	{name: "moved code", source: `
extern void use(int);
#ifdef AFTER
#define MORE use(1); use(2); use(3); use(4); use(5); use(6); use(7); use(8); use(9); use(10);
#else
#define MORE
#endif
static __attribute__((noinline)) int low(int x) { use(x); return x + 1; }
__attribute__((noinline)) int first(int x) { MORE return low(x) * 2; }
int second(int x) { while (x > 0) { use(x); x = low(x) - 3; } return low(x); }
int third(int x) { return low(x + 4); }
int fourth(int x) { if (x) return first(x); return second(-x); }
`, want: []string{"changed first"}},
	{name: "short jump to another function", source: `
extern int g, h;
#ifdef AFTER
#define MORE g += 5; h ^= g * 3; g -= h; h += 7 * g; g ^= h << 3; h -= g * 9; g += h * 11; h ^= g * 13; g -= h * 17; h += g * 19; g += h * 21; h ^= g * 23;
#else
#define MORE
#endif
static __attribute__((noinline)) void low(int x) { g = x; }
void tail1(int x) { h++; low(x + 1); }
void middle(int x) { MORE h = g; }
void tail2(int x) { h--; low(x + 2); }
`, want: []string{"changed middle"}},
	{name: "moved variables", source: `
#ifdef AFTER
static int early[3];
int more(int i) { return early[i]++; }
#endif
static int a, b[5], c;
int f(int i) { a++; return b[i] += c; }
int g(int i) { c = i; return a + b[i & 3]; }
int h(int i) { return ++c + a; }
`, want: []string{"new more"},
		// gcc reaches a from its own address, and later from that of early.
		arm64: []string{"changed f", "changed g", "changed h", "new more"}},
	{name: "static locals renumbered", source: `
#ifdef AFTER
int zero(void) { static int n = 9; return n++; }
#endif
int one(void) { static int n; return n++; }
int two(void) { static int n; n += 2; return n; }
int three(void) { static int n = 3; n += 3; return n; }
`, want: []string{"new zero"}, arm64: []string{"changed three", "new zero"}},
	{name: "another string", source: `
extern void say(const char *);
#ifdef AFTER
#define WORD "two words"
#else
#define WORD "two word"
#endif
void a(void) { say("one"); say(WORD); }
void b(void) { say("one"); say("two words, or more"); }
`, want: []string{"changed a"}},
	{name: "another floating constant", source: `
#ifdef AFTER
double a(double x) { return x * 2.75; }
#else
double a(double x) { return x * 2.5; }
#endif
double b(double x) { return x * 2.5 + 1.25; }
`, want: []string{"changed a"}},
	{name: "table of strings", source: `
static const char *const names[] = { "zero", "one",
#ifdef AFTER
"two",
#else
"too",
#endif
"three", "four" };
static const char *const others[] = { "a", "b", "c" };
const char *name(int i) { return names[i]; }
const char *other(int i) { return others[i]; }
`, want: []string{"changed name"}},
	{name: "jump tables", flags: "-fno-tree-switch-conversion", source: `
extern int e0(int), e1(int), e2(int), e3(int), e4(int), e5(int), e6(int);
int before(int x) { switch (x) { case 0: return e0(1); case 1: return e1(2); case 2: return e2(3); case 3: return e3(4); case 4: return e4(5); case 5: return e5(6); } return 0; }
#ifdef AFTER
#define SWAP1 e2
#define SWAP2 e1
#else
#define SWAP1 e1
#define SWAP2 e2
#endif
int middle(int x) { switch (x) { case 0: return e0(1); case 1: return SWAP1(2); case 2: return SWAP2(2); case 3: return e3(4); case 4: return e4(5); case 5: return e5(6); } return 0; }
int after(int x) { switch (x) { case 0: return e6(1); case 1: return e1(2); case 2: return e2(3); case 3: return e3(4); case 4: return e4(5); case 5: return e5(6); } return 0; }
`, want: []string{"changed middle"}},
	{name: "cold part", source: `
extern void __attribute__((cold)) fail(int);
extern int g;
int f(int x) {
	if (__builtin_expect(x < 0, 0)) {
#ifdef AFTER
		g = 5;
#endif
		fail(x); fail(g);
	}
	return x + g;
}
int h(int x) { if (__builtin_expect(x < 3, 0)) { fail(x); fail(2); } return x; }
`, want: []string{"changed f"}},
	{name: "data-changed", source: `
static int limit
#ifdef AFTER
 = 8;
#else
 = 7;
#endif
int f(int x) { return limit += x; }
`, want: []string{"limit [data-changed]"}},
	{name: "data-changed pointer to a string", source: `
static const char *mood =
#ifdef AFTER
 "glad";
#else
 "calm";
#endif
const char *f(const char *s) { const char *old = mood; if (s) mood = s; return old; }
`, want: []string{"mood [data-changed]"}},
	{name: "data-changed constant of others", source: `
#ifdef AFTER
const int limits[3] = {1, 2, 4};
#else
const int limits[3] = {1, 2, 3};
#endif
int f(int i) { return limits[i]; }
`, want: []string{"changed f", "limits+0x8 [data-changed]"}},
	{name: "data-resized", source: `
#ifdef AFTER
#define N 5
#else
#define N 4
#endif
static int table[N];
int f(int i) { return table[i]++; }
int g(int i) { return i < N ? table[i] : 0; }
`, want: []string{"changed g", "table [data-resized]"}},
	{name: "static removed, nothing lost", source: `
extern int out[64];
int f(int i) {
#ifdef AFTER
	int buf[64];
#else
	static int buf[64];
#endif
	for (int k = 0; k < 64; k++) buf[k] = out[k ^ i];
	for (int k = 0; k < 64; k++) out[k] = buf[k];
	return i;
}
`, want: []string{"changed f"}},
	{name: "static renamed", source: `
#ifdef AFTER
#define count tally
#endif
static long count;
long f(void) { return ++count; }
`, want: []string{"changed f", "count [static-removed]"}},
	{name: "static removed under a function that stays", source: `
static long count;
#ifdef AFTER
long f(void) { return 7; }
#else
long f(void) { return ++count; }
long g(void) { return count; }
#endif
`, want: []string{"changed f", "count [static-removed]", "removed g"}},
	{name: "tls-new", source: `
static __thread int a;
int f(void) { return a++; }
#ifdef AFTER
static __thread int b;
int g(void) { return b += a; }
#endif
`, want: []string{"b [tls-new]", "new g"}},
	{name: "ifunc-changed", source: `
static int one(void) { return 1; }
static int two(void) { return 2; }
extern int cpu;
static int (*choose(void))(void) {
#ifdef AFTER
	return cpu > 1 ? one : two;
#else
	return cpu > 2 ? one : two;
#endif
}
int pick(void) __attribute__((ifunc("choose")));
`, want: []string{"changed choose", "pick [ifunc-changed]"}},
	{name: "new constructor", source: `
int started;
extern int now(void);
#ifdef AFTER
static __attribute__((constructor)) void start(void) { started = now(); }
#endif
int f(void) { return started; }
`, want: []string{"new start", "start [unsupported]"}},
	{name: "code address in a live table", source: `
extern void *next[2];
extern int out;
int f(int x) {
	static void *state[] = { &&one, &&two };
#ifdef AFTER
	out += 2;
#endif
	goto *state[x & 1];
one:	state[0] = next[0]; return 1;
two:	state[1] = next[1]; return 2;
}
`, want: []string{"changed f", "state [code-address-in-data]", "state+0x8 [code-address-in-data]"}},
	{name: "saved label", source: `
extern int out(int);
int f(int x) {
	static void *where;
	if (where) goto *where;
	out(1);
	where = &&second;
	return 1;
second:
#ifdef AFTER
	out(x);
#endif
	out(2);
	return 2;
}
`, want: []string{"changed f", "f [code-address-in-data]"}},
	{name: "labels in a constant table", source: `
static long steps;
int f(const unsigned char *p) {
	static const void *const ops[] = { &&stop, &&up, &&down };
	int x = 0;
next:	steps++; goto *ops[*p++];
up:	x++; goto next;
#ifdef AFTER
down:	x -= 2; goto next;
#else
down:	x--; goto next;
#endif
stop:	return x;
}
`, want: []string{"changed f"}},
	{name: "pointer to the entry in live data", source: `
int f(int x) {
#ifdef AFTER
	return x + 2;
#else
	return x + 1;
#endif
}
static int (*handler)(int) = f;
int call(int x) { return handler(x); }
void set(int (*h)(int)) { handler = h; }
`, want: []string{"changed f"}},
	{name: "unrelated", source: `
#ifdef AFTER
int a(void) { return 1; } int b(void) { return 2; } int c(void) { return 3; } int d(void) { return 4; }
#else
int e(void) { return 1; } int f(void) { return 2; } int g(void) { return 3; } int d(void) { return 5; }
#endif
`, want: []string{"[objects-unrelated]"}},
}

// compile builds both versions of a source with a compiler.
func compile(t testing.TB, cc, ext, source string, flags []string) (before, after *elfpatch.File) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "case."+ext)
	if strings.HasSuffix(source, ".c") && !strings.Contains(source, "\n") {
		b, err := os.ReadFile(filepath.Join("testdata", source))
		if err != nil {
			t.Fatal(err)
		}
		source = string(b)
	}
	write(t, path, []byte(source))
	var out [2]*elfpatch.File
	for i, define := range []string{"-DBEFORE", "-DAFTER"} {
		obj := filepath.Join(dir, fmt.Sprintf("%d.o", i))
		run(t, "", cc, slices.Concat([]string{"-O2", "-w", "-c", "-o", obj, define}, flags, []string{path})...)
		out[i] = testkit.ELF(t, obj)
	}
	return out[0], out[1]
}

// verdicts lists what a delta says, in the form of sourceCase.want.
func verdicts(t testing.TB, a, b *elfpatch.File) []string {
	t.Helper()
	d, err := Compare(a, b, Options{Name: "o"})
	var list refusal.List
	got := []string{}
	if errors.As(err, &list) {
		for _, r := range list {
			got = append(got, "["+string(r.Code)+"]")
		}
		return got
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range d.Funcs {
		if f.Status != Same && f.Parent == 0 && !strings.Contains(f.Name, ".cold") {
			got = append(got, string(f.Status)+" "+f.Name)
		}
		if (f.Why != nil) != (f.Status == Changed) {
			t.Errorf("%s is %s because of %v", f.Name, f.Status, f.Why)
		}
	}
	for _, r := range d.Refusals {
		where := strings.TrimPrefix(strings.Replace(strings.TrimPrefix(r.Where, "o: "), "state.0", "state", 1), "f.") // gcc and clang name static locals their own ways
		if r.Code == refusal.CodeAddressInData && !strings.HasPrefix(where, "state") {
			where, _, _ = strings.Cut(where, "+")
		}
		got = append(got, fmt.Sprintf("%s [%s]", where, r.Code))
	}
	if cut, err := d.Cut(); len(d.Refusals) == 0 && err != nil {
		got = append(got, err.Error())
	} else if err == nil {
		wellFormed(t, cut)
	}
	slices.Sort(got)
	return slices.Compact(got)
}

var compilers = []struct{ name, cc, machine string }{
	{"x86-gcc", "gcc", "x86"},
	{"x86-clang", "clang", "x86"},
	{"arm64-gcc", "aarch64-linux-gnu-gcc", "arm64"},
}

func TestSources(t *testing.T) {
	for _, cc := range compilers {
		for _, tc := range sourceCases {
			if tc.only != "" && tc.only != cc.machine || cc.name == "x86-clang" && strings.Contains(tc.name, "-silent") {
				continue
			}
			t.Run(cc.name+"/"+tc.name, func(t *testing.T) {
				tool(t, cc.cc)
				flags := strings.Fields(tc.flags)
				if cc.name == "x86-clang" {
					flags = slices.DeleteFunc(flags, func(s string) bool { return s == "-fno-tree-switch-conversion" })
				}
				a, b := compile(t, cc.cc, "c", tc.source, flags)
				got := verdicts(t, a, b)
				want := tc.want
				if cc.machine == "arm64" && tc.arm64 != nil {
					want = tc.arm64
				}
				if !slices.Equal(got, want) {
					d, _ := Compare(a, b, Options{Name: "o"})
					text := ""
					if d != nil {
						text = summary(d)
					}
					t.Errorf("got  %q\nwant %q\n%s", got, want, text)
				}
				verdicts(t, b, a) // must not crash
				if got := verdicts(t, b, b); len(got) > 0 {
					t.Errorf("it differs from itself: %q", got)
				}
			})
		}
	}
}
