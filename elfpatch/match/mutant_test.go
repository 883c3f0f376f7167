package match

import (
	"debug/elf"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/testkit"
	"livepatch/internal/testkit/vm"
)

// A mutation is one changed byte of a target: of a proven function, or of data
// that it leads to.
type mutation struct {
	f    Func
	addr uint64
	data string // the section; empty for code
}

// herd is a target with an object of it, and what can be changed.
type herd struct {
	obj    *elfpatch.File
	target *Target
	funcs  []Func
	places []mutation
}

// newHerd proves the functions of an object one by one and lists all bytes that
// the proofs cover.
func newHerd(t *testing.T, obj *elfpatch.File, target *Target) *herd {
	t.Helper()
	h := &herd{obj: obj, target: target}
	for i, s := range obj.Symbols {
		if s.Type != elf.STT_FUNC || s.Size == 0 || s.Section <= 0 {
			continue
		}
		proof, err := target.Prove(obj, []int{i}, Options{})
		if err != nil || len(proof.Funcs) != 1 {
			continue // is told by other tests
		}
		f := proof.Funcs[0]
		h.funcs = append(h.funcs, f)
		for k := range f.Size {
			h.places = append(h.places, mutation{f, f.Addr + k, ""})
		}
		for _, x := range f.Extra {
			for k := range x.Size {
				h.places = append(h.places, mutation{f, x.Addr + k, "its outlined part"})
			}
		}
		for _, d := range proof.Data() {
			for k := range d.Size {
				h.places = append(h.places, mutation{f, d.Addr + k, d.Section})
			}
		}
	}
	if len(h.places) == 0 {
		t.Fatal("nothing of the object is proven")
	}
	return h
}

// accepted reports whether the proof of a function does not notice a mutation.
func (h *herd) accepted(t *testing.T, m mutation, value byte) bool {
	t.Helper()
	b, ok := h.target.img.f.ReadAddr(m.addr, 1)
	if !ok {
		t.Fatalf("%s: %s at %#x is not in the file", m.f.Name, m.data, m.addr)
	}
	old := b[0]
	b[0] = value // sections and segments share the bytes
	defer func() { b[0] = old }()
	_, err := h.target.Prove(h.obj, []int{m.f.Symbol}, Options{})
	return err == nil
}

// stray counts the mutations that are noticed, and those that are not. Each of
// those must be the field of a relocation whose symbol nothing else names: what
// it holds is then another address, as the proof says of it.
func (h *herd) stray(t *testing.T, n int, seed uint64) (caught, elsewhere int) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 1))
	for range n {
		m := h.places[rnd.IntN(len(h.places))]
		b, _ := h.target.img.f.ReadAddr(m.addr, 1)
		value := b[0] ^ byte(1+rnd.IntN(255))
		if !h.accepted(t, m, value) {
			caught++
			continue
		}
		if h.alike(m) {
			t.Logf("%s: with byte %#x as %#x it leads to another place that reads the same", m.f.Name, m.addr, value)
			continue
		}
		elsewhere++
		if !h.taken(m) {
			t.Errorf("%s: byte %#x of %s was changed to %#x and not noticed", m.f.Name, m.addr, m.data, value)
		}
	}
	return caught, elsewhere
}

// taken reports a byte in the field of a relocation whose value the proof takes
// from the target, since the symbol is another object's and no table names it.
func (h *herd) taken(m mutation) bool {
	return h.inField(m, func(s elfpatch.Symbol) bool { return s.Section == elfpatch.Undefined })
}

// alike reports a byte in the field of a reference to a merged string or
// constant. The proof compares what is there: a changed field that is not noticed
// leads to a place that reads the same, so the code does what it did.
func (h *herd) alike(m mutation) bool {
	return h.inField(m, func(s elfpatch.Symbol) bool { return s.Section > 0 && pieces(h.obj.Sections[s.Section]) })
}

// inField reports a byte of code in the field of a relocation whose symbol fits.
func (h *herd) inField(m mutation, fits func(elfpatch.Symbol) bool) bool {
	if m.data != "" {
		return false
	}
	proof, err := h.target.Prove(h.obj, []int{m.f.Symbol}, Options{})
	if err != nil {
		return false
	}
	f := proof.p.funcs[m.f.Symbol]
	return slices.ContainsFunc(f.rels, func(r elfpatch.Rela) bool {
		lo, hi := variable(h.obj.Machine, r)
		off := int(m.addr - f.addr)
		return off >= lo && off < hi && fits(h.obj.Symbols[r.Symbol])
	})
}

// mutants is how many there are of each herd.
func mutants() int {
	if os.Getenv("LIVEPATCH_SLOW") != "" {
		return 4000
	}
	return 400
}

// One changed byte of proven code, or of data that it leads to, is noticed.
func TestCoveredBytes(t *testing.T) {
	total, elsewhere := 0, 0
	for seed, c := range []struct {
		dir, obj, target string
		free             bool // fields of other objects' symbols may hold anything: no table names them
	}{
		{"x86_64-gcc", "counter.O2.before.o", "prog", false},
		{"x86_64-gcc", "counter.O2.before.o", "prog.stripped", true},
		{"x86_64-gcc", "switch.O2.before.o", "prog", false},
		{"x86_64-gcc", "switch.O2.before.o", "prog.stripped", true},
		{"x86_64-gcc", "calls.O2.before.o", "prog", false},
		{"aarch64-gcc", "counter.O2.before.o", "prog", false},
		{"aarch64-gcc", "switch.O2.before.o", "prog", false},
	} {
		dir := filepath.Join("..", "..", "testdata", "binaries", c.dir)
		target, err := NewTarget(testkit.ELF(t, filepath.Join(dir, c.target)), nil)
		if err != nil {
			t.Fatal(err)
		}
		h := newHerd(t, testkit.ELF(t, filepath.Join(dir, c.obj)), target)
		caught, not := h.stray(t, mutants(), uint64(seed))
		if not > 0 && !c.free {
			t.Errorf("%s %s: %d of %d are not noticed", c.dir, c.target, not, caught+not)
		}
		t.Logf("%s %s in %s: %d functions, %d bytes; %d caught, %d another address of a symbol that nothing names",
			c.dir, c.obj, c.target, len(h.funcs), len(h.places), caught, not)
		total, elsewhere = total+caught+not, elsewhere+not
	}
	t.Logf("%d mutants, %d not noticed", total, elsewhere)
}

// The same with objects of Debian's redis and its stripped program.
func TestCoveredBytesOfRedis(t *testing.T) {
	dir := vm.Script(t, "redis-objects", "--cached")
	target, err := NewTarget(testkit.ELF(t, filepath.Join(dir, "program")), nil)
	if err != nil {
		t.Fatal(err)
	}
	objects := map[string]int{"t_string.before.o": 1000}
	if os.Getenv("LIVEPATCH_SLOW") != "" {
		objects = map[string]int{"t_string.before.o": 5000, "db.before.o": 5000}
	}
	for name, n := range objects {
		h := newHerd(t, testkit.ELF(t, filepath.Join(dir, name)), target)
		caught, not := h.stray(t, n, uint64(len(name)))
		if not > 0 {
			t.Errorf("%s: %d are not noticed", name, not)
		}
		t.Logf("%s: %d functions, %d bytes; %d caught", name, len(h.funcs), len(h.places), caught)
	}
}

// The same with an object of Debian's kernel and its image, which has no
// debug information.
func TestCoveredBytesOfKernel(t *testing.T) {
	dir := vm.Fetched(t, "--source", "6.12")
	linked := debianTarget(t, dir, "vmlinux")
	target, err := NewTarget(linked.file, nil)
	if err != nil {
		t.Fatal(err)
	}
	vm.Script(t, "kernel-objects", "--cached", "--kernel", "6.12", "--cases")
	for seed, name := range []string{"kernel/time/timer.o", "fs/proc/uptime.o", "fs/proc/meminfo.o", "fs/proc/base.o"} {
		path := dir.Path(filepath.Join("before", name))
		if _, err := os.Stat(path); err != nil {
			continue // no case touches it any more
		}
		h := newHerd(t, testkit.ELF(t, path), target)
		caught, not := h.stray(t, mutants(), uint64(seed))
		if not > 0 {
			t.Errorf("%s: %d are not noticed", name, not)
		}
		t.Logf("%s: %d functions, %d bytes; %d caught", name, len(h.funcs), len(h.places), caught)
	}
}
