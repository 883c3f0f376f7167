package kmod

import (
	"bytes"
	"errors"
	"math/rand"
	"reflect"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/kimage"
	"livepatch/internal/refusal"
)

// TestUndo takes the modules of the golden test apart, signed too, and makes
// them again.
func TestUndo(t *testing.T) {
	hashed := arm64Spec(t)
	hashed.CFI, hashed.Hashes = true, kimage.EntryHashes{Init: 0x36b1c5a6, Exit: 0xa540670c}
	for name, spec := range map[string]Spec{"x86": x86Spec(t), "arm64": arm64Spec(t), "arm64 with hashes": hashed} {
		b, err := Emit(spec)
		if err != nil {
			t.Fatal(err)
		}
		signed := append(bytes.Clone(b), "signature"...)
		signed = append(append(signed, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 9), signatureMark...)
		for _, module := range [][]byte{b, signed} {
			s, err := Undo(module)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if got, is := Unsigned(module); !bytes.Equal(got, b) || is != (len(module) > len(b)) {
				t.Errorf("%s: unsigned %t", name, is)
			}
			checkUndone(t, name, &s, &spec)
			again, err := Emit(s)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			f, g := checkModule(t, b), checkModule(t, again)
			if why := differentModules(f, g); why != "" {
				t.Errorf("%s: made again it differs: %s", name, why)
			}
		}
	}
}

// checkUndone compares what a module was made from with what it is taken apart
// into.
func checkUndone(t *testing.T, name string, got, want *Spec) {
	t.Helper()
	type facts struct {
		name, vermagic               string
		versions                     Versions
		retpoline, rethunk, orc, rep bool
		padding                      int
		cfi                          bool
		hashes                       kimage.EntryHashes
	}
	of := func(s *Spec) facts {
		return facts{s.Name, s.Vermagic, s.Versions, s.Retpoline, s.Rethunk, s.ORC, s.Replace, s.Padding, s.CFI, s.Hashes}
	}
	if of(got) != of(want) {
		t.Errorf("%s: %+v, want %+v", name, of(got), of(want))
	}
	if !reflect.DeepEqual(got.States, want.States) || !reflect.DeepEqual(got.Info, want.Info) {
		t.Errorf("%s: states %v, info %v", name, got.States, got.Info)
	}
	e := emitter{s: want}
	for i, o := range e.ordered() {
		if g := got.Objects[i]; objectName(g.Name) != objectName(o.Name) || !reflect.DeepEqual(g.Funcs, o.Funcs) || len(g.Callbacks) != len(o.Callbacks) {
			t.Errorf("%s: object %+v, want %+v", name, g, o)
		}
	}
	for _, s := range []string{".init.text", ".modinfo", "__versions", ".plt", ".data.livepatch"} {
		if got.Object.Section(s) != nil {
			t.Errorf("%s: the object has %s", name, s)
		}
	}
	for _, s := range []string{".return_sites", ".orc_unwind_ip", ".orc_unwind"} {
		if a, b := got.Object.Section(s), want.Object.Section(s); a != nil && a.Size != b.Size {
			t.Errorf("%s: %s has %d bytes, want %d", name, s, a.Size, b.Size)
		}
	}
}

// TestUndoSymbol reads names of livepatch symbols.
func TestUndoSymbol(t *testing.T) {
	for name, want := range map[string]Binding{
		".klp.sym.vmlinux.printk,0":               {Kind: KLP, Object: "vmlinux", Name: "printk"},
		".klp.sym.xfs.a.isra.0,2":                 {Kind: KLP, Object: "xfs", Name: "a.isra.0", Pos: 2},
		".klp.sym.vmlinux.":                       {},
		".klp.sym.vmlinux.a,":                     {},
		".klp.rela.vmlinux.printk,0":              {},
		"printk":                                  {},
		".klp.sym.vmlinux.a,99999999999999999999": {},
	} {
		got, ok := parseKLPSymbol(name)
		if ok != (want != Binding{}) || ok && got != want {
			t.Errorf("%s: %+v, %t", name, got, ok)
		}
	}
}

// Whatever is changed in a module, it is either taken apart into what makes it,
// or refused.
func TestUndoDamaged(t *testing.T) {
	rng := rand.New(rand.NewSource(1))
	for name, spec := range map[string]Spec{"x86": x86Spec(t), "arm64": arm64Spec(t)} {
		b, err := Emit(spec)
		if err != nil {
			t.Fatal(err)
		}
		refused := 0
		for range 500 {
			d := bytes.Clone(b)
			d[rng.Intn(len(d))] ^= byte(1 + rng.Intn(255))
			if checkUndo(t, d) {
				refused++
			}
		}
		if refused < 250 {
			t.Errorf("%s: %d of 500 are refused", name, refused)
		}
	}
}

// checkUndo takes a file apart and reports whether it was refused.
func checkUndo(t *testing.T, b []byte) bool {
	_, err := Undo(b)
	var list refusal.List
	var format *elfpatch.FormatError
	if err != nil && !errors.As(err, &list) && !errors.As(err, &format) {
		t.Errorf("error %v", err)
	}
	return err != nil
}

func FuzzUndo(f *testing.F) {
	for _, spec := range []Spec{x86Spec(f), arm64Spec(f)} {
		b, err := Emit(spec)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) { checkUndo(t, b) })
}
