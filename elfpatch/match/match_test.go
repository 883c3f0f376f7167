package match

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/refusal"
	"livepatch/internal/testkit"
)

// program is built from C sources: one object each, linked into one target,
// with and without symbols.
type program struct {
	objs     map[string]*elfpatch.File
	target   *elfpatch.File
	stripped *elfpatch.File
	dir      string
}

type recipe struct {
	machine elf.Machine
	cflags  []string
	ldflags []string
	clang   bool // with lld, which relaxes more than GNU ld
}

func (r recipe) build(t testing.TB, sources map[string]string) *program {
	t.Helper()
	cc := testkit.Compiler(t, r.machine)
	if r.clang {
		cc = testkit.Tool(t, "clang")
		if r.machine == elf.EM_AARCH64 {
			r.cflags = append([]string{"--target=aarch64-linux-gnu"}, r.cflags...)
			r.ldflags = append([]string{"--target=aarch64-linux-gnu"}, r.ldflags...)
		}
		r.ldflags = append([]string{"-fuse-ld=lld"}, r.ldflags...)
	}
	dir := t.TempDir()
	p := &program{objs: map[string]*elfpatch.File{}, dir: dir}
	args := append([]string{}, r.ldflags...)
	args = append(args, "-o", filepath.Join(dir, "target"))
	for _, name := range sortedKeys(sources) {
		src, obj := filepath.Join(dir, name+".c"), filepath.Join(dir, name+".o")
		if err := os.WriteFile(src, []byte(sources[name]), 0o644); err != nil {
			t.Fatal(err)
		}
		testkit.Run(t, cc, append(append([]string{"-O2", "-c", "-o", obj}, r.cflags...), src)...)
		p.objs[name] = testkit.ELF(t, obj)
		args = append(args, obj)
	}
	testkit.Run(t, cc, args...)
	p.target = testkit.ELF(t, filepath.Join(dir, "target"))
	strip := strings.TrimSuffix(testkit.Compiler(t, r.machine), "gcc") + "strip"
	testkit.Run(t, strip, "-o", filepath.Join(dir, "stripped"), filepath.Join(dir, "target"))
	p.stripped = testkit.ELF(t, filepath.Join(dir, "stripped"))
	return p
}

func sortedKeys(m map[string]string) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	// main last in the link order is as good as any; keep it deterministic.
	for i := range out {
		for j := i + 1; j < len(out); j++ {
			if out[j] < out[i] {
				out[i], out[j] = out[j], out[i]
			}
		}
	}
	return out
}

// sym returns the index of a symbol of an object.
func sym(t testing.TB, f *elfpatch.File, name string) int {
	t.Helper()
	for i, s := range f.Symbols {
		if s.Name == name {
			return i
		}
	}
	t.Fatalf("no symbol %s", name)
	return 0
}

// addrs returns where the symbol table puts a name.
func addrs(f *elfpatch.File, name string) []uint64 {
	var out []uint64
	for _, s := range f.Symbols {
		if s.Name == name && s.Section != elfpatch.Undefined {
			out = append(out, s.Value)
		}
	}
	return out
}

const counterSource = `
#include <stdio.h>
static int counter = 3;
static long zeroed[4];
static const char *names[] = {"one", "two"};
extern int shared_total;
__attribute__((noinline)) static int step(int by) { counter += by; zeroed[by & 3]++; return counter; }
__attribute__((noinline)) int work(int n) {
	int s = 0;
	for (int i = 0; i < n; i++) s += step(i) * 3;
	shared_total += s;
	printf("%s %d\n", names[n & 1], s);
	return s;
}
__attribute__((noinline)) long peek(int i) { return zeroed[i] + counter; }
`

const mainSource = `
int shared_total;
extern int work(int); extern long peek(int);
static int counter = 9;
__attribute__((noinline)) static int step(int by) { counter ^= by; return counter + by; }
int main(int argc, char **argv) { work(argc); return (int)peek(argc) + step(argc); }
`

var recipes = map[string]recipe{
	"pie":       {machine: elf.EM_X86_64, cflags: []string{"-fPIE"}, ldflags: []string{"-pie"}},
	"nopie":     {machine: elf.EM_X86_64, cflags: []string{"-fno-pie"}, ldflags: []string{"-no-pie"}},
	"static":    {machine: elf.EM_X86_64, cflags: []string{"-fno-pie"}, ldflags: []string{"-static"}},
	"staticpie": {machine: elf.EM_X86_64, cflags: []string{"-fPIE"}, ldflags: []string{"-static-pie"}},
	"shared":    {machine: elf.EM_X86_64, cflags: []string{"-fPIC"}, ldflags: []string{"-shared"}},
	"sections":  {machine: elf.EM_X86_64, cflags: []string{"-fPIE", "-ffunction-sections", "-fdata-sections"}, ldflags: []string{"-pie", "-Wl,--gc-sections"}},
	"noplt":     {machine: elf.EM_X86_64, cflags: []string{"-fPIE", "-fno-plt", "-fcf-protection"}, ldflags: []string{"-pie"}},
	"picexe":    {machine: elf.EM_X86_64, cflags: []string{"-fPIC"}, ldflags: []string{"-no-pie"}},
	"arm64pie":  {machine: elf.EM_AARCH64, cflags: []string{"-fPIE"}, ldflags: []string{"-pie"}},
	"arm64":     {machine: elf.EM_AARCH64, cflags: []string{"-fno-pie"}, ldflags: []string{"-no-pie"}},
	"arm64so":   {machine: elf.EM_AARCH64, cflags: []string{"-fPIC"}, ldflags: []string{"-shared"}},
	"arm64pic":  {machine: elf.EM_AARCH64, cflags: []string{"-fpic"}, ldflags: []string{"-shared"}},
	"lld":       {machine: elf.EM_X86_64, clang: true, cflags: []string{"-fPIC"}, ldflags: []string{"-pie"}},
	"lldsecs":   {machine: elf.EM_X86_64, clang: true, cflags: []string{"-fPIE", "-ffunction-sections", "-fdata-sections"}, ldflags: []string{"-pie"}},
	"lldso":     {machine: elf.EM_X86_64, clang: true, cflags: []string{"-fPIC"}, ldflags: []string{"-shared"}},
	"lldnopie":  {machine: elf.EM_X86_64, clang: true, cflags: []string{"-fno-pie"}, ldflags: []string{"-no-pie"}},
	"lldarm64":  {machine: elf.EM_AARCH64, clang: true, cflags: []string{"-fPIC"}, ldflags: []string{"-pie"}},
	"lldarmso":  {machine: elf.EM_AARCH64, clang: true, cflags: []string{"-fPIC"}, ldflags: []string{"-shared"}},
	"gold":      {machine: elf.EM_X86_64, cflags: []string{"-fPIC", "-ffunction-sections"}, ldflags: []string{"-pie", "-fuse-ld=gold", "-Wl,--icf=safe"}},
	"O0":        {machine: elf.EM_X86_64, cflags: []string{"-O0", "-fPIE"}, ldflags: []string{"-pie"}},
	"Os":        {machine: elf.EM_X86_64, cflags: []string{"-Os", "-fPIE", "-g"}, ldflags: []string{"-pie"}},
	"arm64st":   {machine: elf.EM_AARCH64, cflags: []string{"-fno-pie"}, ldflags: []string{"-static"}},
}

// The statics of a stripped target are found where the symbol table of the
// unstripped one puts them.
func TestStaticsOfStripped(t *testing.T) {
	for name, r := range recipes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := r.build(t, map[string]string{"counter": counterSource, "main": mainSource})
			o := p.objs["counter"]
			for _, target := range []*elfpatch.File{p.target, p.stripped} {
				proof, err := Prove(o, []int{sym(t, o, "work"), sym(t, o, "step")}, target, nil, Options{Object: "counter.o"})
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range proof.Funcs {
					if want := addrs(p.target, f.Name); !contains(want, f.Addr) {
						t.Errorf("%s at %#x (%s), the symbol table has %#x", f.Name, f.Addr, f.Found, want)
					}
				}
				for _, v := range []string{"counter", "zeroed", "names", "shared_total", "peek"} {
					if v == "names" && r.clang {
						continue // clang makes a table of offsets of it
					}
					got, ok := proof.Resolve(sym(t, o, v))
					a, have := got[Address]
					if proof.Preemptible(sym(t, o, v)) && !have && (got[Slot].Value != 0 || got[CallSlot].Value != 0) {
						continue // reached through the GOT or PLT, as by the library itself
					}
					if !ok || !have || !contains(addrs(p.target, v), a.Value) {
						t.Errorf("%s: %+v, the symbol table has %#x", v, got, addrs(p.target, v))
					}
				}
				if got, ok := proof.Resolve(sym(t, o, "printf")); !ok || got[Branch].Value == 0 && got[Slot].Value == 0 {
					t.Errorf("printf: %+v", got)
				}
			}
			checkCounter(t, p)
		})
	}
}

// checkCounter checks that counter is that of counter.o and not the one of the
// same name in main.o.
func checkCounter(t *testing.T, p *program) {
	t.Helper()
	got := map[uint64]bool{}
	for _, name := range []string{"counter", "main"} {
		o := p.objs[name]
		proof, err := Prove(o, []int{sym(t, o, "step")}, p.stripped, nil, Options{})
		if err != nil {
			t.Fatal(err)
		}
		r, _ := proof.Resolve(sym(t, o, "counter"))
		got[r[Address].Value] = true
	}
	if len(got) != 2 {
		t.Errorf("the two counters are at %v", got)
	}
}

func contains(list []uint64, v uint64) bool {
	for _, x := range list {
		if x == v {
			return true
		}
	}
	return false
}

func codes(err error) string {
	var l refusal.List
	if !errors.As(err, &l) {
		return fmt.Sprint(err)
	}
	var out []string
	for _, r := range l {
		out = append(out, string(r.Code))
	}
	return strings.Join(out, ",")
}
