package build

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"livepatch/internal/check"
	"livepatch/internal/pack"
	"livepatch/internal/refusal"
	"livepatch/internal/testkit"
	"livepatch/trampoline"
)

const dispatchSource = `
extern int other(int);
static int count;
int first(int x) { count += x; return count + 1 + FIX; }
int second(int x) { if (x == 0) return 5 + FIX; return other(x) + count; }
int third(int x) { count -= x; return x * 3 + FIX; }
`

// library builds a shared library from a source, and its object before and
// after; FIX tells them apart.
func library(t *testing.T, m elf.Machine, source string, flags ...string) Target {
	t.Helper()
	cc := testkit.Compiler(t, m)
	dir := t.TempDir()
	c := filepath.Join(dir, "part.c")
	if err := os.WriteFile(c, []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	object := func(name, fix string) string {
		o := filepath.Join(dir, name)
		testkit.Run(t, cc, slices.Concat([]string{"-O2", "-fPIC", "-fvisibility=hidden", "-fno-stack-protector", "-c", "-o", o, "-DFIX=" + fix}, flags, []string{c})...)
		return o
	}
	before, after := object("before.o", "0"), object("after.o", "1000")
	lib := filepath.Join(dir, "libpart.so")
	testkit.Run(t, cc, "-shared", "-nostdlib", "-Wl,--build-id", "-o", lib, before)
	return Target{Name: "libpart.so", File: testkit.ELF(t, lib), Pairs: []Pair{{
		OrigName: "before.o", PatchedName: "after.o", Orig: testkit.ELF(t, before), Patched: testkit.ELF(t, after),
	}}}
}

var patchableEntries = map[elf.Machine]string{elf.EM_X86_64: "-fpatchable-function-entry=16,11", elf.EM_AARCH64: "-fpatchable-function-entry=4,2"}

// Packages of every dispatch, for both machines, hold what they promise: the
// check follows every redirect and makes every piece anew.
func TestDispatch(t *testing.T) {
	source := strings.ReplaceAll(dispatchSource, "extern int other(int);", "__attribute__((noinline)) static int other(int x) { return x * 7 + 3; }")
	for _, m := range []elf.Machine{elf.EM_X86_64, elf.EM_AARCH64} {
		for _, way := range trampoline.Dispatches {
			for _, flags := range [][]string{{"-falign-functions=16"}, {"-falign-functions=16", patchableEntries[m]}, {"-falign-functions=16", patchableEntries[m], protection[m]}} {
				if way == trampoline.Slot && len(flags) == 1 {
					continue
				}
				t.Run(fmt.Sprintf("%v/%s/%d", m, way, len(flags)), func(t *testing.T) {
					target := library(t, m, source, flags...)
					p, err := Create(Inputs{Name: "fix", Version: "test", Dispatch: way, Targets: []Target{target}})
					if err != nil {
						t.Fatal(err)
					}
					again, err := Create(Inputs{Name: "fix", Version: "test", Dispatch: way, Targets: []Target{target}})
					if err != nil || !slices.Equal(written(t, p), written(t, again)) {
						t.Errorf("a second package differs: %v", err)
					}
					n := 0
					report := check.Package(p, []check.File{{Path: "libpart.so", ELF: target.File}})
					for _, r := range report.Results {
						if r.What == "redirect" && strings.Contains(r.Text, "leads to") && (way == trampoline.Direct || strings.Contains(r.Text, string(way))) {
							n++
						}
					}
					if err := report.Refusals().Err(); err != nil || n != 3 {
						t.Errorf("%d redirects are right: %v", n, err)
					}
				})
			}
		}
	}
}

var protection = map[elf.Machine]string{elf.EM_X86_64: "-fcf-protection=full", elf.EM_AARCH64: "-mbranch-protection=standard"}

func written(t *testing.T, p *pack.Package) []byte {
	t.Helper()
	b, err := pack.Write(p)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDispatchRefuses(t *testing.T) {
	for _, tt := range []struct {
		name, source string
		way          trampoline.Dispatch
		flags        []string
		code         refusal.Code
		want         string
	}{
		{"no NOPs", "int f(int x) { return x * 77 / 5 + FIX; }", trampoline.Slot, nil, refusal.NoSlot, "no aligned word of NOPs stands before it"},
		{"too few before", "int f(int x) { return x * 77 / 5 + FIX; }", trampoline.Slot, []string{"-fpatchable-function-entry=9,4"}, refusal.NoSlot, "no aligned word"},
		{"too few behind", "int f(int x) { return x * 77 / 5 + FIX; }", trampoline.Slot, []string{"-fpatchable-function-entry=12,8"}, refusal.NoSlot, "4 bytes of NOPs at it, not 5"},
		{"loop to the entry", loop, trampoline.Gated, nil, refusal.BranchIntoSite, "would change to the new one"},
		{"loop, direct", loop, trampoline.Direct, nil, "", ""},
		{"moved instruction", eip, trampoline.Gated, nil, refusal.EntryMoves, "relative to EIP"},
		{"moved instruction, shared", eip, trampoline.Shared, nil, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			target := library(t, elf.EM_X86_64, tt.source, append(tt.flags, "-falign-functions=16")...)
			_, err := Create(Inputs{Name: "fix", Version: "test", Dispatch: tt.way, Targets: []Target{target}})
			var list refusal.List
			if tt.code == "" {
				if err != nil {
					t.Errorf("error %v", err)
				}
				return
			}
			if !errors.As(err, &list) || list[0].Code != tt.code || !strings.Contains(list[0].Text, tt.want) {
				t.Errorf("error %v, want %q [%s]", err, tt.want, tt.code)
			}
		})
	}
	if _, err := Create(Inputs{Name: "fix", Dispatch: trampoline.Gated, Kernel: &Kernel{}, Targets: []Target{{Pairs: []Pair{{}}}}}); err == nil || !strings.Contains(err.Error(), "for processes") {
		t.Errorf("a kernel: %v", err)
	}
}

// Functions in assembly, so that their first bytes are known.
const (
	fixed = "#define TEXT(x) #x\n#define NUMBER(x) TEXT(x)\n#define FIXED NUMBER(FIX)\n"
	loop  = fixed + `
__asm__(".globl f\n.hidden f\n.type f, @function\n.balign 16\nf: lea 1(%rdi), %rdi\n cmp $1000, %rdi\n jl f\n mov $" FIXED ", %eax\n ret\n.size f, . - f");
`
	eip = fixed + `
__asm__(".globl f\n.hidden f\n.type f, @function\n.balign 16\nf: lea f(%eip), %eax\n mov $" FIXED ", %ecx\n ret\n.size f, . - f");
`
)
