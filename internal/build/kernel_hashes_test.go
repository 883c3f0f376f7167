package build

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/refusal"
	"livepatch/manifest"
)

// kcfiRecipe is a kernel for arm64 with kCFI. Its compiler is gcc, which has none: the
// hashes are put into the assembler code as clang puts them.
var kcfiRecipe = kernelRecipe{"arm64 with kCFI", elf.EM_AARCH64, "aarch64-linux-gnu-", kernelRecipes[1].cflags, true}

// kcfiCore is what such a kernel has, too.
const kcfiCore = kernelHeader + `
void schedule(void) { helper(1); }
void report_cfi_failure(void) { helper(2); }
`

var (
	asmFunction = regexp.MustCompile(`(?m)^\t\.type\t(\w+), %function\n`)
	asmAddress  = regexp.MustCompile(`(?m)^\t(?:adrp\tx\d+, |\.xword\t)(\w+)$`)
)

// hashed makes assembler code and puts hashes before functions that are global or whose
// address is taken; for such ones of other objects it defines the symbols that clang does.
func hashed(t testing.TB, make func(out string)) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "hashed.s")
	make(out)
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	taken, defined := map[string]bool{}, map[string]bool{}
	for _, m := range asmAddress.FindAllStringSubmatch(text, -1) {
		taken[m[1]] = true
	}
	for _, m := range asmFunction.FindAllStringSubmatch(text, -1) {
		defined[m[1]] = true
		if taken[m[1]] || strings.Contains(text, "\t.global\t"+m[1]+"\n") {
			text = strings.Replace(text, "\n"+m[1]+":\n", fmt.Sprintf("\n\t.word\t%#x\n%s:\n", typeOf(m[1]), m[1]), 1)
		}
	}
	for name := range taken {
		if strings.HasPrefix(name, "call") && !defined[name] {
			text += fmt.Sprintf("\t.weak\t__kcfi_typeid_%[1]s\n\t.set\t__kcfi_typeid_%[1]s, %#[2]x\n", name, typeOf(name))
		}
	}
	if err := os.WriteFile(out, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return out
}

// typeOf is the hash of a function: names stand for types here.
func typeOf(name string) uint32 {
	if name == "schedule" {
		return 0xa540670c // void (void)
	}
	h := fnv.New32()
	h.Write([]byte(name))
	return h.Sum32()
}

// callSource has functions that are reached in different ways.
const callSource = kernelHeader + `
extern int through(int (*fn)(int), int x);
extern int called_elsewhere(int x);
noinline static int called_direct(int x) { return helper(x) - 7; }
noinline static int called_pointer(int x) { return helper(x) - 8; }
int show(struct seq_file *m, int x)
{
	seq_puts(m, "before");
	return called_direct(x) + through(called_pointer, x);
}
`

const throughSource = kernelHeader + `
int through(int (*fn)(int), int x) { helper(x); return fn(x); }
int called_elsewhere(int x) { return helper(x) + 11; }
`

// kcfiInputs are those of a change of callSource. edits change the kernel.
func kcfiInputs(t *testing.T, after string) Inputs {
	t.Helper()
	r := kcfiRecipe
	pair, before := r.pair(t, "call", callSource, after)
	img := r.image(t, before, r.compile(t, "through", throughSource), r.compile(t, "kcfi", kcfiCore))
	return r.inputs(img, Target{Name: "vmlinux", File: img.File, Pairs: []Pair{pair}})
}

// A module for a kernel with kCFI has the hashes of its init and exit functions, and its
// new functions keep theirs, marked as data.
func TestKernelKCFIModule(t *testing.T) {
	after := change(t, callSource, "int show(", "noinline static int called_new(int x) { return helper(x) - 9; }\nint show(",
		"through(called_pointer, x)", "through(called_pointer, x) + through(called_new, x) + through(called_elsewhere, x)")
	out, err := Run(kcfiInputs(t, after))
	if err != nil {
		t.Fatal(err)
	}
	f, err := elfpatch.Parse(moduleOf(out.Package))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]uint32{"init_module": 0x36b1c5a6, "cleanup_module": 0xa540670c, "called_new": typeOf("called_new"), "show": typeOf("show")} {
		s := symbolOf(t, f, name)
		if got := binary.LittleEndian.Uint32(f.Sections[s.Section].Data[s.Value-4:]); got != want {
			t.Errorf("before %s stands %#x, not %#x", name, got, want)
		}
		for mark, at := range map[string]uint64{"$d": s.Value - 4, "$x": s.Value} {
			if !marked(f, s.Section, at, mark) {
				t.Errorf("%s: no %s at %#x", name, mark, at)
			}
		}
	}
}

func marked(f *elfpatch.File, section int, at uint64, name string) bool {
	for _, s := range f.Symbols {
		if s.Section == section && s.Value == at && s.Name == name {
			return true
		}
	}
	return false
}

// Pointers to functions that calls through them would not accept are refused, and what
// could not be called at all.
func TestKernelKCFIRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		after []string
		edit  func(*Inputs)
		code  refusal.Code
		want  string
	}{
		"first address": {after: []string{"called_direct(x) +", "through(called_direct, x) +"}, code: refusal.TypeHash,
			want: "call.o: called_direct: the patch takes its address"},
		"direct calls": {after: []string{`"before"`, `"after"`}, edit: func(in *Inputs) { in.Kernel.Flavour = manifest.FlavourDirect },
			code: refusal.Unsupported, want: "with that ftrace of arm64 has no direct calls"},
		"other hashes": {after: []string{`"before"`, `"after"`}, edit: func(in *Inputs) {
			f := in.Kernel.Image.File
			s := symbolOf(t, f, "schedule")
			data := f.Sections[s.Section].Data
			data[s.Value-f.Sections[s.Section].Addr-4] ^= 1
		}, code: refusal.Unsupported, want: "how it hashes the types of functions is not known"},
	} {
		t.Run(name, func(t *testing.T) {
			in := kcfiInputs(t, change(t, callSource, tc.after...))
			if tc.edit != nil {
				tc.edit(&in)
			}
			_, err := Run(in)
			list := refusal.Of(err)
			if len(list) != 1 || list[0].Code != tc.code || !strings.Contains(list[0].Error(), tc.want) {
				t.Errorf("%v", err)
			}
		})
	}
}
