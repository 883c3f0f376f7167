package diff

import (
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/testkit"
)

// tool finds a program that a test needs.
func tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is missing", name)
		}
		t.Skipf("%s is not installed", name)
	}
	return path
}

func run(t testing.TB, stdin, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// redirected is the original object as a patched program has it: the entry of
// every replaced function jumps to its replacement, and everything that the cut
// refers to can be linked to. prefix keeps its static symbols apart from those
// of other objects.
func redirected(t testing.TB, orig *elfpatch.File, cut *Cut, prefix string) []byte {
	t.Helper()
	f, err := elfpatch.Parse(must(orig.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range f.Sections {
		if s.Name == ".llvm_addrsig" { // it names symbols by their numbers
			s.Type, s.Link, s.Data = elf.SHT_PROGBITS, 0, nil
		}
	}
	for i := range f.Symbols {
		s := &f.Symbols[i]
		if s.Section > 0 && s.Bind == elf.STB_LOCAL && (s.Type == elf.STT_FUNC || s.Type == elf.STT_OBJECT || s.Type == elf.STT_TLS) {
			s.Name = exposed(prefix, i, s)
			s.Bind = elf.STB_GLOBAL
		}
	}
	for _, e := range cut.Externals {
		if s := &f.Symbols[e.Orig]; e.Orig != 0 && s.Type == elf.STT_SECTION {
			f.AddSymbol(elfpatch.Symbol{Name: exposed(prefix, e.Orig, s), Type: elf.STT_NOTYPE, Bind: elf.STB_GLOBAL, Section: s.Section})
		}
	}
	for _, fn := range cut.Funcs {
		at := f.Symbols[fn.Orig]
		sec := f.Sections[at.Section]
		code, field, typ, addend := []byte{0xe9, 0, 0, 0, 0}, uint64(1), uint32(elf.R_X86_64_PLT32), int64(-4)
		if f.Machine == elf.EM_AARCH64 {
			code, field, typ, addend = []byte{0, 0, 0, 0x14}, 0, uint32(elf.R_AARCH64_JUMP26), 0
		}
		if at.Size < uint64(len(code)) {
			t.Fatalf("%s has only %d bytes", at.Name, at.Size)
		}
		sec.Data = append([]byte{}, sec.Data...)
		copy(sec.Data[at.Value:], code)
		target := f.AddSymbol(elfpatch.Symbol{Name: prefix + "new." + cut.Object.Symbols[fn.Symbol].Name, Bind: elf.STB_GLOBAL})
		rels, err := f.Relocations(sec)
		if err != nil {
			t.Fatal(err)
		}
		kept := []elfpatch.Rela{{Offset: at.Value + field, Type: typ, Symbol: uint32(target), Addend: addend}}
		for _, r := range rels {
			if r.Offset < at.Value || r.Offset >= at.Value+uint64(len(code)) {
				kept = append(kept, r)
			}
		}
		if err := f.SetRelocations(sec, kept); err != nil {
			t.Fatal(err)
		}
	}
	return must(f.Bytes())
}

func exposed(prefix string, i int, s *elfpatch.Symbol) string {
	if s.Bind != elf.STB_LOCAL {
		return s.Name
	}
	return fmt.Sprintf("%sold.%d.%s", prefix, i, s.Name)
}

// linkable is the cut with names that fit those of redirected.
func linkable(t testing.TB, orig *elfpatch.File, cut *Cut, prefix string) []byte {
	t.Helper()
	f := cut.Object
	for i := range f.Symbols {
		s := &f.Symbols[i]
		if s.Section != elfpatch.Undefined && s.Type != elf.STT_SECTION {
			s.Name, s.Bind, s.Other = prefix+"new."+s.Name, elf.STB_GLOBAL, 0
		}
	}
	for _, e := range cut.Externals {
		f.Symbols[e.Symbol].Name = e.Name
		if e.Orig != 0 {
			f.Symbols[e.Symbol].Name = exposed(prefix, e.Orig, &orig.Symbols[e.Orig])
		}
	}
	f.AddSection(elfpatch.Section{Name: ".note.GNU-stack", Type: elf.SHT_PROGBITS, Align: 1})
	return must(f.Bytes())
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// slow reports the slow tier of tests.
func slow() bool { return os.Getenv("LIVEPATCH_SLOW") != "" }

// dialogue is what is said to the program of testdata/src/main.c.
const dialogue = `tick 1
tick 2
tock 1
tock 7
ticks
mood 1
mood 100
jump 5 3
jump -7 2
name 0
name 7
name 8
name 9
value 1
value 5
goto 3
goto 9
sum 4 5
same
weight 9
sum 4 5
same
tls 3
tls 4
ifunc 20
ifunc 2000
tick 3
tock 2
`

// A program with the cut linked to the original objects and their entries
// redirected answers as the program made from the patched ones does.
func TestCutBehaves(t *testing.T) {
	root := filepath.Join("..", "..", "testdata")
	parts := []string{"busy", "calls", "counter", "switch", "tls", "ifunc"}
	for _, build := range []string{"x86_64-gcc", "x86_64-clang", "aarch64-gcc", "aarch64-clang"} {
		cc, runner := "gcc", []string{}
		if strings.HasPrefix(build, "aarch64") {
			cc, runner = "aarch64-linux-gnu-gcc", []string{"qemu-aarch64"}
		}
		flavours, _ := filepath.Glob(filepath.Join(root, "binaries", build, "c*.before.o"))
		for _, path := range flavours {
			name := strings.Split(filepath.Base(path), ".")
			if name[0] != "counter" || !slow() && !slices.Contains([]string{"O2", "nopie", "pic"}, name[1]) {
				continue
			}
			t.Run(build+"/"+name[1], func(t *testing.T) {
				tool(t, cc)
				dir := t.TempDir()
				var patched, live []string
				for _, part := range parts {
					base := filepath.Join(root, "binaries", build, part+"."+name[1])
					_, err := os.Stat(base + ".before.o")
					if err != nil || part == "tls" { // linkers know sequences of -fPIC, which redirected cuts in two
						base = filepath.Join(root, "binaries", build, part+".O2")
					}
					before, after := testkit.ELF(t, base+".before.o"), testkit.ELF(t, base+".after.o")
					d, err := Compare(before, after, Options{Name: part + ".o"})
					if err != nil {
						t.Fatal(err)
					}
					cut, err := d.Cut()
					if err != nil {
						t.Fatalf("%s: %v", part, err)
					}
					old, now := filepath.Join(dir, part+".old.o"), filepath.Join(dir, part+".new.o")
					write(t, old, redirected(t, before, cut, part+"."))
					write(t, now, linkable(t, before, cut, part+"."))
					live = append(live, old, now)
					patched = append(patched, base+".after.o")
				}
				link := []string{"-static", "-o", filepath.Join(dir, "prog"), filepath.Join(root, "src", "main.c"), "-lpthread"}
				if name[1] == "nopie" {
					link = append(link, "-no-pie")
				}
				speak := append(runner, filepath.Join(dir, "prog"))
				run(t, "", cc, append(link, patched...)...)
				want := run(t, dialogue, speak[0], speak[1:]...)
				run(t, "", cc, append(link, live...)...)
				got := run(t, dialogue, speak[0], speak[1:]...)
				if got != want {
					t.Errorf("it answers\n%s\nthe patched program answers\n%s", got, want)
				}
			})
		}
	}
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o666); err != nil {
		t.Fatal(err)
	}
}

// wellFormed checks what every cut promises.
func wellFormed(t testing.TB, cut *Cut) {
	t.Helper()
	f, err := elfpatch.Parse(must(cut.Object.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	undefined := 0
	for i, s := range cut.Object.Symbols[1:] {
		if names[s.Name] || s.Name == "" {
			t.Errorf("symbol %d: the name %q is not unique", i+1, s.Name)
		}
		names[s.Name] = true
		if s.Section == elfpatch.Undefined {
			undefined++
		}
	}
	if undefined != len(cut.Externals) {
		t.Errorf("%d undefined symbols, %d externals", undefined, len(cut.Externals))
	}
	for _, e := range cut.Externals {
		if s := cut.Object.Symbols[e.Symbol]; s.Section != elfpatch.Undefined || s.Bind == elf.STB_LOCAL {
			t.Errorf("external %s is defined or local", e.Name)
		}
	}
	for _, fn := range cut.Funcs {
		if s := cut.Object.Symbols[fn.Symbol]; s.Section <= 0 || s.Type != elf.STT_FUNC || fn.Orig == 0 {
			t.Errorf("replacement %s is %+v", fn.Name, s)
		}
	}
	for _, sec := range f.Sections {
		rels, err := f.Relocations(sec)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rels {
			info, ok := elfpatch.RelocInfo(f.Machine, r.Type)
			if !ok || r.Offset+uint64(info.Size) > sec.Size || r.Symbol == 0 && info.Size > 0 {
				t.Errorf("%s+%#x: %s cannot be applied", sec.Name, r.Offset, info.Name)
			}
		}
	}
}

// behaviours are sources whose two versions differ by -DAFTER, and a main that
// shows it.
var behaviours = []struct{ name, flags, source, main string }{
	{"short jumps", "", `
int g, h;
static __attribute__((noinline)) void low(int x) { g += x; }
void tail1(int x) { h++; if (x > 100) { h -= 3; low(x - 1); return; }
#ifdef AFTER
	h += 1000;
#endif
	low(x + 1); }
void tail2(int x) { h--; if (x & 1) { low(x + 2); return; } h += g; for (int i = 0; i < x; i++) h ^= i * g;
#ifdef AFTER
	h ^= 77;
#endif
	low(3 * x); }
`, `
extern int g, h; void tail1(int), tail2(int);
int main(void) { for (int i = 0; i < 300; i += 7) { tail1(i); tail2(i); } printf("%d %d\n", g, h); }
`},
	{"addresses", "", `
int k = 5;
int f(int x) {
#ifdef AFTER
	return x + 2 * k;
#else
	return x + k;
#endif
}
static __attribute__((noinline)) int s(int x) {
#ifdef AFTER
	return x * 3 + k;
#else
	return x * 2 + k;
#endif
}
int (*volatile saved)(int) = s;
int (*get(int i))(int) {
#ifdef AFTER
	if (i == 3) return 0;
#endif
	return i ? s : f;
}
static int (*const table[])(int) = { f, s };
int same(int (*p)(int), int i) {
#ifdef AFTER
	if (i > 5) return 8;
#endif
	return (p == f) + 2 * (saved == s) + 4 * (table[i & 1] == p);
}
int calls(int x) {
#ifdef AFTER
	x++;
#endif
	return f(x) + s(x);
}
`, `
int f(int); int (*get(int))(int); int same(int (*)(int), int), calls(int);
int main(void) { printf("%d %d %d %d %d %d\n", get(0) == f, get(1)(5), same(f, 0), same(get(1), 1), same(get(0), 0), calls(4)); }
`},
	{"statics", "", `
#ifdef AFTER
static int added[3] = { 5, 6, 7 };
#endif
static int a = 3, b[4] = { 1, 2, 3, 4 };
static long zero, many[9];
static const int limits[] = { 10, 20, 30, 40 };
int count(int i) {
	static int n = 100;
	n += i;
	many[i & 7] += n;
#ifdef AFTER
	return n + added[i % 3]++ + a + b[i & 3];
#else
	return n + a + b[i & 3];
#endif
}
long total(int i) {
	static int n;
	n++;
	zero += many[i & 7];
#ifdef AFTER
	zero += 1;
#endif
	return zero * n + limits[i & 3];
}
int set(int i) { a = i; b[i & 3]++; return limits[(i + 1) & 3]; }
`, `
int count(int), set(int); long total(int);
int main(void) { for (int i = 0; i < 20; i++) { int x = count(i); long y = total(i); printf("%d %ld %d\n", x, y, set(i)); } }
`},
	{"end pointers", "", `
struct pair { int key, value; };
#ifdef AFTER
static struct pair extra[2];
#endif
static struct pair pairs[] = { {1, 10}, {2, 20}, {3, 30}, {4, 40} };
static int after = 7;
int find(int key) {
	for (struct pair *p = pairs; p != pairs + 4; p++)
		if (p->key == key) return p->value
#ifdef AFTER
			+ 1
#endif
			;
	return after;
}
int use(int i) {
	after += i;
#ifdef AFTER
	extra[i & 1].key += i;
	return after + extra[0].key;
#else
	return after;
#endif
}
`, `
int find(int), use(int);
int main(void) { for (int i = 0; i < 8; i++) { int x = find(i); printf("%d %d\n", x, use(i)); } }
`},
	{"tables", "-fno-tree-switch-conversion", `
extern int puts(const char *);
#ifdef AFTER
#define X(n) n + 1
#else
#define X(n) n
#endif
int g;
int sw(int i) {
	switch (i) { case 0: g++; return X(4); case 1: g += 2; return 7; case 2: puts("two"); return 9; case 3: g *= 3; return X(1);
	case 4: puts("four"); g -= 4; return 2; case 5: g ^= 5; return 6; case 6: puts("six"); return g; }
	return -1;
}
const char *word(int i) { static const char *const w[] = { "a", "bc", "def",
#ifdef AFTER
"GHI",
#else
"ghi",
#endif
"j" }; return w[i % 5]; }
long run(const unsigned char *p) {
	static const void *const ops[] = { &&stop, &&up, &&down, &&twice };
	long x = 0;
next:	g++; goto *ops[*p++];
up:	x++; goto next;
down:	x -= X(2); goto next;
twice:	x *= 2; goto next;
stop:	return x;
}
`, `
int sw(int); const char *word(int); long run(const unsigned char *);
int main(void) { for (int i = 0; i < 9; i++) { int x = sw(i); printf("%d %s\n", x, word(i)); } printf("%ld\n", run((unsigned char *)"\1\1\3\2\3\0")); }
`},
	{"cold", "", `
extern int printf(const char *, ...);
int g;
void __attribute__((cold, noinline)) fail(int x) { printf("fail %d\n", x); }
int f(int x) {
	if (__builtin_expect(x < 0, 0)) {
#ifdef AFTER
		g = 5;
#endif
		fail(x); fail(g); x = -x;
	}
	return x + g;
}
`, `
int f(int);
int main(void) { for (int i = -3; i < 3; i++) { int x = f(i); printf("%d\n", x); } }
`},
}

func TestCutBehavioursOfSources(t *testing.T) {
	builds := []struct{ name, cc, flags string }{
		{"x86-gcc", "gcc", ""}, {"x86-gcc-nopie", "gcc", "-fno-pie -no-pie"}, {"x86-clang", "clang", "-fPIE"},
		{"arm64-gcc", "aarch64-linux-gnu-gcc", ""}, {"arm64-clang", "clang", "--target=aarch64-linux-gnu -fPIE"},
		// The rest is for the slow tier.
		{"x86-gcc-sections", "gcc", "-ffunction-sections -fdata-sections"}, {"x86-gcc-O3", "gcc", "-O3"}, {"x86-gcc-Os", "gcc", "-Os"},
		{"arm64-gcc-O3", "aarch64-linux-gnu-gcc", "-O3"}, {"arm64-gcc-plain", "aarch64-linux-gnu-gcc", "-fno-section-anchors"},
	}
	for i, build := range builds {
		for _, tc := range behaviours {
			if i > 4 && !slow() {
				continue
			}
			t.Run(build.name+"/"+tc.name, func(t *testing.T) {
				flags := strings.Fields(build.flags)
				if build.cc != "clang" {
					flags = append(flags, strings.Fields(tc.flags)...)
				}
				tool(t, build.cc)
				behaves(t, build.cc, flags, tc.source, tc.main)
			})
		}
	}
}

func behaves(t *testing.T, cc string, flags []string, source, main string) {
	before, after := compile(t, cc, "c", source, flags)
	d, err := Compare(before, after, Options{Name: "case.o"})
	if err != nil {
		t.Fatal(err)
	}
	cut, err := d.Cut()
	if err != nil {
		t.Fatalf("%v\n%s", err, summary(d))
	}
	wellFormed(t, cut)
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	write(t, path("main.c"), []byte("extern int printf(const char *, ...);\n"+main))
	write(t, path("patched.o"), must(after.Bytes()))
	write(t, path("old.o"), redirected(t, before, cut, "x."))
	write(t, path("new.o"), linkable(t, before, cut, "x."))
	link := []string{"-w", "-static"}
	if slices.Contains(flags, "-no-pie") {
		link = append(link, "-no-pie", "-fno-pie")
	}
	linker, speak := cc, []string{path("prog")}
	if before.Machine == elf.EM_AARCH64 {
		linker, speak = "aarch64-linux-gnu-gcc", []string{tool(t, "qemu-aarch64"), path("prog")}
	}
	tool(t, linker)
	link = append(link, "-o", path("prog"), path("main.c"))
	run(t, "", linker, append(link, path("patched.o"))...)
	want := run(t, "", speak[0], speak[1:]...)
	run(t, "", linker, append(link, path("old.o"), path("new.o"))...)
	if got := run(t, "", speak[0], speak[1:]...); got != want {
		t.Errorf("it says\n%s\nthe patched program says\n%s\n%s", got, want, summary(d))
	}
}

// The end of an array and the start of what stands behind it are the same place
// of a section. When a new variable comes between, the cut cannot tell them
// apart, unless the sections do.
func TestCutEndOfMovedArray(t *testing.T) {
	const source = `
static int after = 7;
#ifdef AFTER
static int mid = 9;
#endif
static int pairs[100] = {1, 2, 3, 4};
int sum(int k) {
	int s = 0;
	for (int *p = pairs; p != pairs + 100; p++) { s += *p ^ k; s *= 3; }
#ifdef AFTER
	s++;
#endif
	return s;
}
int set(int i) {
	after += i;
	pairs[i & 3] = i;
#ifdef AFTER
	mid ^= i;
	after += mid;
#endif
	return after;
}
`
	tool(t, "gcc")
	flags := []string{"-fno-tree-vectorize", "-fno-pie", "-no-pie"}
	before, after := compile(t, "gcc", "c", source, flags)
	d, err := Compare(before, after, Options{Name: "case.o"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Cut(); err == nil || !strings.Contains(err.Error(), "case.o: sum+") || !strings.Contains(err.Error(), "the end of pairs") {
		t.Errorf("it is cut with %v\n%s", err, summary(d))
	}
	behaves(t, "gcc", append(flags, "-fdata-sections"), source, `
int sum(int), set(int);
int main(void) { for (int i = 0; i < 9; i++) { int x = set(i); printf("%d %d\n", x, sum(i)); } }
`)
}
