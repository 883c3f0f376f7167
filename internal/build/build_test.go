package build

import (
	"bytes"
	"debug/elf"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"livepatch/internal/check"
	"livepatch/internal/pack"
	"livepatch/internal/refusal"
	"livepatch/internal/testkit"
	"livepatch/manifest"
)

// recipe is how the sources of a test become a target.
type recipe struct {
	machine elf.Machine
	cflags  string
	ldflags string
}

var recipes = map[string]recipe{
	"pie":      {elf.EM_X86_64, "-O2 -fPIE", "-pie"},
	"cet":      {elf.EM_X86_64, "-O2 -fPIE -fcf-protection", "-pie"},
	"pfe":      {elf.EM_X86_64, "-O2 -fPIE -fpatchable-function-entry=5,2", "-pie"},
	"nopie":    {elf.EM_X86_64, "-O2 -fno-pie", "-no-pie"},
	"static":   {elf.EM_X86_64, "-O2 -fno-pie", "-static"},
	"library":  {elf.EM_X86_64, "-O2 -fPIC", "-shared"},
	"sections": {elf.EM_X86_64, "-O2 -fPIE -ffunction-sections -fdata-sections", "-pie"},
	"noplt":    {elf.EM_X86_64, "-O2 -fPIC -fno-plt", "-pie -Wl,-z,now"},
	"arm64":    {elf.EM_AARCH64, "-O2 -fPIE", "-pie"},
	"arm64so":  {elf.EM_AARCH64, "-O2 -fPIC", "-shared"},
	"arm64no":  {elf.EM_AARCH64, "-O2 -fno-pie", "-no-pie"},
}

// object compiles a source; the name of the directory must not matter.
func (r recipe) object(t testing.TB, name, source string) string {
	t.Helper()
	dir := t.TempDir()
	src, obj := filepath.Join(dir, name+".c"), filepath.Join(dir, name+".o")
	if err := os.WriteFile(src, []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	testkit.Run(t, testkit.Compiler(t, r.machine), append(strings.Fields(r.cflags), "-c", "-o", obj, src)...)
	return obj
}

// inputs builds a target of main and of the before source of one pair. The
// target is stripped.
func (r recipe) inputs(t testing.TB, before, after, main string) Inputs {
	t.Helper()
	orig, patched := r.object(t, "unit", before), r.object(t, "unit", after)
	target := filepath.Join(t.TempDir(), "prog")
	cc := testkit.Compiler(t, r.machine)
	testkit.Run(t, cc, append(append([]string{"-Wl,--build-id"}, strings.Fields(r.ldflags)...), "-o", target, orig, r.object(t, "main", main))...)
	stripped := target + ".stripped"
	testkit.Run(t, strings.TrimSuffix(cc, "gcc")+"strip", "-o", stripped, target)
	return Inputs{Name: "fix", Version: "test", Targets: []Target{{
		Name: "prog", File: testkit.ELF(t, stripped),
		Pairs: []Pair{{OrigName: "unit.o", PatchedName: "unit.o", Orig: testkit.ELF(t, orig), Patched: testkit.ELF(t, patched)}},
	}}}
}

const before = `
#include <stdio.h>
static int counter = 3;
static long zeroed[4];
int visible;
long peek(int);
static __attribute__((noinline)) int step(int by) { counter += by; zeroed[by & 3]++; return counter; }
__attribute__((noinline)) int work(int n) {
	int s = 0;
	for (int i = 0; i < n; i++) s += step(i) * 3;
	printf("work %d\n", s);
	visible += s;
	return s;
}
__attribute__((noinline)) long peek(int i) { return zeroed[i & 3] + counter; }
typedef int (*fn)(int);
__attribute__((noinline)) fn address(void) { return work; }
`

const mainSource = `
typedef int (*fn)(int);
extern int visible; extern int work(int); extern long peek(int); extern fn address(void);
int main(int argc, char **argv) { work(argc); return (int)peek(argc) + visible + (address() == work); }
`

var after = strings.NewReplacer(
	`s += step(i) * 3;`, `s += step(i) * 5;`,
	`printf("work %d\n", s);`, `printf("patched %d %ld\n", s, peek(n)); puts("new");`,
).Replace(before)

func TestCreate(t *testing.T) {
	for name, r := range recipes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := r.inputs(t, before, after, mainSource)
			p, err := Create(in)
			if name == "static" {
				// Nobody can tell where a stripped static program has puts.
				if err == nil || !strings.Contains(err.Error(), "unit.o: work+") || !strings.HasSuffix(err.Error(), "the address of puts in the target cannot be found [address-unknown]") {
					t.Fatalf("error %v", err)
				}
				in = r.inputs(t, before, strings.Replace(after, `puts("new");`, "", 1), mainSource)
				p, err = Create(in)
			}
			if err != nil {
				t.Fatal(err)
			}
			m := p.Manifest.Targets[0]
			if len(m.Functions) != 1 || m.Functions[0].Name != "work" || m.Functions[0].Object != "unit.o" {
				t.Errorf("functions %+v", m.Functions)
			}
			report := check.Package(p, []check.File{{Path: "prog", ELF: in.Targets[0].File}})
			if err := report.Refusals().Err(); err != nil {
				t.Error(err)
			}
			data, err := pack.Write(p)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(data, []byte("/tmp")) || bytes.Contains(data, []byte(t.TempDir())) {
				t.Error("the package holds a path of this machine")
			}
			again, err := Create(in)
			if err != nil {
				t.Fatal(err)
			}
			if data2, err := pack.Write(again); err != nil || !bytes.Equal(data, data2) {
				t.Errorf("a second package differs (error %v)", err)
			}
		})
	}
}

// The function uses the counters of the target, and they are where the symbol
// table of the unstripped program has them.
func TestSharedVariables(t *testing.T) {
	changed := strings.Replace(before, "counter += by;", "counter += by + 1;", 1)
	for name, r := range recipes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := r.inputs(t, before, changed, mainSource)
			p, err := Create(in)
			if err != nil {
				t.Fatal(err)
			}
			found := map[string]manifest.Variable{}
			for _, v := range p.Manifest.Targets[0].Variables {
				found[v.Name] = v
			}
			for _, name := range []string{"counter", "zeroed"} {
				if v, ok := found[name]; !ok || v.Uses == 0 || v.Size == 0 {
					t.Errorf("%s: %+v", name, p.Manifest.Targets[0].Variables)
				}
			}
		})
	}
}

// The outlined part of a function is part of its extent, and its jumps back
// into the function are looked at.
func TestOutlinedPart(t *testing.T) {
	src := `
#include <stdlib.h>
#include <stdio.h>
static int errors;
__attribute__((cold, noinline)) void complain(int n) { errors += n; fprintf(stderr, "%d\n", n); }
__attribute__((noinline)) int work(int n) {
	if (__builtin_expect(n > 1000, 0)) { complain(n); complain(n * 3); fprintf(stderr, "more %d\n", n); n -= 7; }
	return n * CONST + errors;
}
`
	for _, edit := range [][2]string{{"CONST", "5"}, {"n -= 7", "n -= 9"}} { // in the function, in the part
		before := strings.Replace(src, "CONST", "3", 1)
		after := strings.Replace(strings.Replace(src, edit[0], edit[1], 1), "CONST", "3", 1)
		in := recipes["pie"].inputs(t, before, after, "int work(int); int main(int c, char **v) { return work(c); }")
		p, err := Create(in)
		if err != nil {
			t.Fatal(err)
		}
		if fs := p.Manifest.Targets[0].Functions; len(fs) != 1 || fs[0].Name != "work" {
			t.Fatalf("functions %+v", fs)
		}
		f := p.Manifest.Targets[0].Functions[0]
		var want uint64
		for _, s := range in.Targets[0].Pairs[0].Orig.Symbols {
			if s.Name == "work.cold" {
				want = s.Size
			}
		}
		if want == 0 || len(f.Extra) != 1 || f.Extra[0].Size != want || f.Extra[0].Address == f.Address {
			t.Errorf("extra %+v, the outlined part has %d bytes", f.Extra, want)
		}
	}
}

// Pointers to a replaced function are those to its original entry, in tables
// and in code.
func TestAddressStays(t *testing.T) {
	src := `
typedef int (*fn)(int);
extern int use(fn);
__attribute__((noinline)) int f(int n) { return n * CONST; }
__attribute__((noinline)) int g(int n) { static fn table[2]; table[n & 1] = f; return use(f) + f(n) + CONST; }
`
	for _, name := range []string{"pie", "nopie", "arm64"} {
		in := recipes[name].inputs(t, strings.ReplaceAll(src, "CONST", "3"), strings.ReplaceAll(src, "CONST", "5"),
			"typedef int (*fn)(int); int g(int); int use(fn f) { return f(1); } int main(int c, char **v) { return g(c); }")
		p, err := Create(in)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		m := p.Manifest.Targets[0]
		entry := map[string]uint64{}
		for _, f := range m.Functions {
			entry[f.Name] = f.Address
		}
		imported := false
		for _, im := range m.Imports {
			if im.Kind == manifest.ImportTarget && im.Address == entry["f"] && entry["f"] != 0 {
				imported = true
			}
		}
		if !imported {
			t.Errorf("%s: the entry of f at %#x is not imported: %+v", name, entry["f"], m.Imports)
		}
	}
}

func TestNothingToPatch(t *testing.T) {
	in := recipes["pie"].inputs(t, before, before, mainSource)
	if _, err := Create(in); !errors.Is(err, ErrNothingToPatch) {
		t.Errorf("error %v", err)
	}
}

func TestRefusals(t *testing.T) {
	for name, tc := range map[string]struct {
		before, after string
		want          []refusal.Code
	}{
		"initial value": {before, strings.Replace(after, "counter = 3", "counter = 4", 1), []refusal.Code{refusal.DataChanged}},
		"size":          {before, strings.Replace(after, "zeroed[4]", "zeroed[8]", 1), []refusal.Code{refusal.DataResized}},
	} {
		t.Run(name, func(t *testing.T) {
			in := recipes["pie"].inputs(t, tc.before, tc.after, mainSource)
			r, err := Run(in)
			var list refusal.List
			if !errors.As(err, &list) {
				t.Fatalf("error %v", err)
			}
			if r == nil || r.Package != nil || len(r.Parts) != 1 || r.Parts[0].Delta == nil || r.Parts[0].Proof == nil {
				t.Errorf("refused with %+v, not with what is known of the pair", r)
			}
			for _, code := range tc.want {
				if !strings.Contains(err.Error(), "["+string(code)+"]") {
					t.Errorf("error %v, want %s", err, code)
				}
			}
		})
	}
}

// The before object of another program, with the same names, is refused.
func TestOtherProgram(t *testing.T) {
	in := recipes["pie"].inputs(t, before, after, mainSource)
	other := recipes["pie"].inputs(t, strings.Replace(before, "* 3", "* 7", 1), after, mainSource)
	in.Targets[0].File = other.Targets[0].File
	_, err := Create(in)
	var list refusal.List
	if !errors.As(err, &list) || list[0].Code != refusal.NotTheRunningCode {
		t.Fatalf("error %v", err)
	}
}

func TestInputs(t *testing.T) {
	for _, tc := range []struct {
		in   Inputs
		want string
	}{
		{Inputs{}, "no target"},
		{Inputs{Dispatch: "x"}, `dispatch "x"`},
		{Inputs{Targets: []Target{{Name: "t"}}}, "t: no pair"},
	} {
		if _, err := Create(tc.in); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("error %v, want %q", err, tc.want)
		}
	}
}
