package match

import (
	"debug/elf"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/refusal"
)

// FuzzProve gives Prove an object and a target that differ from real ones in
// anything. It may refuse or fail, and must not panic; what it proves must be
// the object's bytes outside the fields.
func FuzzProve(f *testing.F) {
	for _, m := range []string{"x86_64-gcc", "aarch64-gcc"} {
		dir := filepath.Join("..", "..", "testdata", "binaries", m)
		objs, _ := filepath.Glob(filepath.Join(dir, "*.o"))
		progs, _ := filepath.Glob(filepath.Join(dir, "*.stripped"))
		for _, o := range objs[:min(len(objs), 2)] {
			for _, p := range progs[:min(len(progs), 1)] {
				a, err1 := os.ReadFile(o)
				b, err2 := os.ReadFile(p)
				if err := errors.Join(err1, err2); err != nil {
					f.Fatal(err)
				}
				f.Add(a, b)
			}
		}
	}
	for _, sections := range []bool{false, true} {
		obj, err := os.ReadFile(assembled(f, elf.EM_X86_64, form(sections)))
		if err != nil {
			f.Fatal(err)
		}
		img, err := kernelOf(f, elf.EM_X86_64, assembled(f, elf.EM_X86_64, form(false, "FENTRY", nop5, "SITE", nop2)), assembled(f, elf.EM_X86_64, kernelRest)).Bytes()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(obj, img)
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		orig, err := elfpatch.Parse(a)
		if err != nil {
			return
		}
		target, err := elfpatch.Parse(b)
		if err != nil {
			return
		}
		var funcs []int
		for i, s := range orig.Symbols {
			if s.Type == elf.STT_FUNC && len(funcs) < 20 {
				funcs = append(funcs, i)
			}
		}
		proof, err := Prove(orig, funcs, target, nil, Options{})
		var list refusal.List
		if err != nil {
			if errors.As(err, &list) && len(list) == 0 {
				t.Error("an empty list of refusals")
			}
			return
		}
		for i := range orig.Symbols {
			proof.Resolve(i)
		}
		for _, fn := range proof.Funcs {
			f := proof.p.funcs[fn.Symbol]
			code, ok := target.ReadAddr(fn.Addr, int(fn.Size))
			if !ok {
				t.Fatalf("%s is proven at %#x, where the file has nothing", fn.Name, fn.Addr)
			}
			if proof.p.img.kernel {
				continue // tables may let other bytes through
			}
			for _, r := range fixedRuns(orig.Machine, f) {
				if string(code[r[0]:r[1]]) != string(f.code[r[0]:r[1]]) {
					t.Fatalf("%s is proven at %#x, but differs in %#x to %#x", fn.Name, fn.Addr, r[0], r[1])
				}
			}
		}
	})
}
