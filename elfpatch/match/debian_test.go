package match

import (
	"debug/elf"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/kimage"
	"livepatch/internal/refusal"
	"livepatch/internal/testkit"
	"livepatch/internal/testkit/vm"
)

// linked is a kernel image or a module as Prove takes it, and the names of its
// symbols.
type linked struct {
	file  *elfpatch.File
	named func(string) []int
}

// debianTarget returns vmlinux or a module of a kernel.
func debianTarget(t *testing.T, dir *vm.Kernel, name string) linked {
	t.Helper()
	if name != "vmlinux" {
		b, err := dir.Module(name)
		if err != nil {
			t.Fatal(err)
		}
		m, err := kimage.ParseModule(b)
		if err != nil {
			t.Fatal(err)
		}
		return linked{m.Linked, m.Named}
	}
	b, err := os.ReadFile(dir.Path("vmlinuz"))
	if err != nil {
		t.Fatal(err)
	}
	k, err := kimage.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return linked{k.File, k.Named}
}

// objectFunctions are the functions of an object that no other object can
// define instead, and whose name the target has.
func objectFunctions(f *elfpatch.File, known func(string) []int) []int {
	var out []int
	for i, s := range f.Symbols {
		if s.Type == elf.STT_FUNC && s.Bind != elf.STB_WEAK && s.Size > 0 && s.Section > 0 &&
			f.Sections[s.Section].Flags&elf.SHF_EXECINSTR != 0 && len(known(s.Name)) > 0 {
			out = append(out, i)
		}
	}
	return out
}

// Objects that are compiled one by one, with each function in its own section, are
// the code of Debian's kernels and modules, function by function. The only
// exceptions are unused functions from headers, of which the kernel has many:
// nothing says which of them is the object's.
func TestDebianObjects(t *testing.T) {
	for _, version := range []string{"6.1", "6.12"} {
		t.Run(version, func(t *testing.T) {
			dir := vm.Fetched(t, "--source", version)
			targets := map[string]linked{}
			seen := map[string]bool{}
			total := 0
			for line := range strings.Lines(vm.Script(t, "kernel-objects", "--cached", "--kernel", version, "--cases") + "\n") {
				pairs := strings.Fields(line)[1]
				list, err := os.ReadFile(filepath.Join(pairs, "pairs"))
				if err != nil {
					t.Fatal(err)
				}
				for pair := range strings.Lines(string(list)) {
					p := strings.Fields(pair)
					if seen[p[0]] {
						continue
					}
					seen[p[0]] = true
					if _, ok := targets[p[1]]; !ok {
						targets[p[1]] = debianTarget(t, dir, p[1])
					}
					total += proveAll(t, filepath.Join(pairs, "before", p[0]), targets[p[1]])
				}
			}
			if total < 150 {
				t.Errorf("only %d functions", total)
			}
			t.Logf("%d functions of %d objects", total, len(seen))
		})
	}
}

// proveAll proves the functions of an object, then that one of them is noticed
// to differ after a bit of it changed; it returns how many there are.
func proveAll(t *testing.T, path string, in linked) int {
	t.Helper()
	obj := testkit.ELF(t, path)
	funcs := objectFunctions(obj, in.named)
	proof, err := Prove(obj, funcs, in.file, nil, Options{Object: filepath.Base(path)})
	var list refusal.List
	if errors.As(err, &list) {
		for _, r := range list {
			if r.Code != refusal.AddressAmbiguous {
				t.Errorf("%s: %v", path, r)
			}
		}
		// Without those that are ambiguous, all others are proven.
		funcs = slices.DeleteFunc(funcs, func(i int) bool {
			return slices.ContainsFunc(list, func(r refusal.Refusal) bool { return strings.HasSuffix(r.Where, ": "+obj.Symbols[i].Name) })
		})
		proof, err = Prove(obj, funcs, in.file, nil, Options{})
	}
	if err != nil {
		t.Errorf("%s: %v", path, err)
		return 0
	}
	for _, f := range proof.Funcs {
		if !slices.Contains(addrs(in.file, f.Name), f.Addr) {
			t.Errorf("%s: %s is proven at %#x, the symbol table has it elsewhere", path, f.Name, f.Addr)
		}
	}
	checkOneBit(t, obj, proof.Funcs, in.file)
	return len(funcs)
}

// checkOneBit changes a bit in the middle of one function of the image.
func checkOneBit(t *testing.T, obj *elfpatch.File, funcs []Func, img *elfpatch.File) {
	t.Helper()
	if len(funcs) == 0 {
		return
	}
	f := funcs[len(funcs)/2]
	code, ok := img.ReadAddr(f.Addr+f.Size/2, 1)
	if !ok {
		t.Fatalf("%s lies outside the image", f.Name)
	}
	code[0] ^= 1 // in place: the image is unpacked in memory, and sections and segments share it
	defer func() { code[0] ^= 1 }()
	if _, err := Prove(obj, []int{f.Symbol}, img, nil, Options{}); err == nil {
		t.Errorf("%s+%#x: a bit was changed and not noticed", f.Name, f.Size/2)
	}
}

// A module is the linked form of itself: every 23rd, all functions.
func TestDebianModules(t *testing.T) {
	for _, args := range [][]string{{"6.1"}, {"6.12"}, {"--arch", "arm64", "6.12"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			dir := vm.Fetched(t, args...)
			root, err := filepath.EvalSymlinks(dir.Path("modules"))
			if err != nil {
				t.Fatal(err)
			}
			list, err := os.ReadFile(filepath.Join(root, "modules.order"))
			if err != nil {
				t.Fatal(err)
			}
			total := 0
			for i, line := range strings.Fields(string(list)) {
				if i%23 != 0 {
					continue
				}
				name := strings.ReplaceAll(strings.TrimSuffix(filepath.Base(line), ".ko"), "-", "_")
				b, err := dir.Module(name)
				if err != nil {
					t.Fatal(err)
				}
				m, err := kimage.ParseModule(b)
				if err != nil {
					t.Fatal(err)
				}
				funcs := objectFunctions(m.File, func(string) []int { return []int{0} })
				if _, err := Prove(m.File, funcs, m.Linked, nil, Options{}); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				total += len(funcs)
			}
			if total < 1000 {
				t.Errorf("only %d functions", total)
			}
		})
	}
}
