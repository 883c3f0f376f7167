// Package kimage reads kernels and kernel modules as distributions ship them:
// it unpacks compressed images, decodes the symbol table that a kernel carries
// (kallsyms), its exports and type information, and lays modules out as if they
// were loaded. It takes bytes and returns values; what it cannot be sure of it
// reports as an error.
package kimage

import (
	"cmp"
	"debug/elf"
	"errors"
	"fmt"
	"slices"
	"sort"

	"livepatch/elfpatch"
)

// Symbol is one entry of a kernel's or module's symbol list.
type Symbol struct {
	Name   string
	Addr   uint64
	Size   uint64 // to the next higher address; 0 for the last one
	Type   byte   // as nm prints it: 'T' global function, 't' local one, 'A' absolute, …
	Module string // the module it belongs to, in /proc/kallsyms only
}

// Kernel is a kernel image. File and BTF may refer to the bytes that Parse was
// given.
type Kernel struct {
	// File is the linked image: the ELF file that a bzImage holds, vmlinux itself, or for a
	// raw arm64 Image an executable made of its bytes, its relative relocations
	// applied. Its symbol table is that of the file, or is made from Symbols where
	// the file has none.
	File     *elfpatch.File
	Machine  elf.Machine
	Release  string // "6.12.117+deb12-cloud-amd64"
	Banner   string // "Linux version 6.12.117+…", without the newline
	BuildID  []byte // the GNU build-id note of the image, which /sys/kernel/notes shows too
	Vermagic string // what the kernel compares the vermagic of modules with; empty if it cannot be told
	// Symbols is the embedded kallsyms table in its own order, which is the order that
	// sympos counts in.
	Symbols []Symbol
	BTF     []byte // raw type information, nil without

	index
	pointers map[uint64]uint64 // words that relative relocations fill, by address
}

// ErrNotKernel is wrapped by the errors for bytes that are no kernel image at
// all, as opposed to one that is damaged or not supported.
var ErrNotKernel = errors.New("not a kernel image")

// Parse reads a kernel image: what Unpack takes. The Kernel keeps b and must be
// able to read it as long as it is used.
func Parse(b []byte) (*Kernel, error) {
	raw, err := Unpack(b)
	if err != nil {
		return nil, err
	}
	k := &Kernel{}
	if isARM64Image(raw) {
		err = k.fromARM64Image(raw)
	} else {
		err = k.fromELF(raw)
	}
	if err != nil {
		return nil, err
	}
	k.Machine = k.File.Machine
	k.index = newIndex(k.Symbols)
	if err := k.readIdentity(); err != nil {
		return nil, err
	}
	return k, nil
}

// fromELF takes vmlinux, or what a bzImage holds.
func (k *Kernel) fromELF(raw []byte) error {
	f, err := elfpatch.Parse(raw)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotKernel, err)
	}
	if f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN {
		return fmt.Errorf("%w: it is of type %v", ErrNotKernel, f.Type)
	}
	if !slices.ContainsFunc(f.Segments, isKernelSegment) {
		return fmt.Errorf("%w: it is not linked at addresses of the kernel", ErrNotKernel)
	}
	k.File = f
	if err := k.readPointers(); err != nil {
		return err
	}
	t, err := findKallsyms(elfRegions(f))
	if err != nil {
		return err
	}
	k.Symbols, err = t.symbols(k.elfAnchors(t))
	if err != nil {
		return err
	}
	if len(f.Symbols) <= 1 {
		f.Symbols = symtab(f, k.Symbols)
	}
	return nil
}

// Pointer returns the 8-byte word at a link-time address as it is before the
// kernel is moved: where a relative relocation fills it, what that puts there.
func (k *Kernel) Pointer(addr uint64) (uint64, bool) {
	if v, ok := k.pointers[addr]; ok {
		return v, true
	}
	b, ok := k.File.ReadAddr(addr, 8)
	if !ok {
		return 0, false
	}
	return le.Uint64(b), true
}

// readPointers notes what the relative relocations of a position-independent
// kernel put where.
func (k *Kernel) readPointers() error {
	if k.File.Machine != elf.EM_AARCH64 {
		return nil
	}
	rels, err := k.File.DynRelocations()
	if err != nil {
		return err
	}
	k.pointers = map[uint64]uint64{}
	for _, r := range rels {
		// Words of DT_RELR hold their value in the file already.
		if r.Type == uint32(elf.R_AARCH64_RELATIVE) && r.Addend != 0 {
			k.pointers[r.Offset] = uint64(r.Addend)
		}
	}
	return nil
}

// index finds symbols by name and address.
type index struct {
	syms   []Symbol
	byName map[string][]int32
	byAddr []int32
}

func newIndex(syms []Symbol) index {
	x := index{syms: syms, byName: make(map[string][]int32, len(syms)), byAddr: make([]int32, len(syms))}
	single := make([]int32, len(syms)) // what names that are there once, nearly all, lead to
	for i := range syms {
		x.byAddr[i], single[i] = int32(i), int32(i)
		if same, ok := x.byName[syms[i].Name]; ok {
			x.byName[syms[i].Name] = append(same, int32(i))
		} else {
			x.byName[syms[i].Name] = single[i : i+1 : i+1]
		}
	}
	byAddr := func(a, b int32) int { return cmp.Compare(syms[a].Addr, syms[b].Addr) }
	if !slices.IsSortedFunc(x.byAddr, byAddr) {
		slices.SortStableFunc(x.byAddr, byAddr)
	}
	return x
}

// Reindex makes Named, At and Sympos go by Symbols as it is now, after a change
// or in a Kernel that Parse has not made.
func (k *Kernel) Reindex() { k.index = newIndex(k.Symbols) }

// Named returns the indices of the symbols of a name, in kallsyms order.
func (x *index) Named(name string) []int { return ints(x.byName[name]) }

// At returns the indices of the symbols that are exactly at an address, in
// kallsyms order.
func (x *index) At(addr uint64) []int {
	lo := sort.Search(len(x.byAddr), func(i int) bool { return x.syms[x.byAddr[i]].Addr >= addr })
	hi := lo
	for hi < len(x.byAddr) && x.syms[x.byAddr[hi]].Addr == addr {
		hi++
	}
	return ints(x.byAddr[lo:hi])
}

// Sympos returns what a livepatch calls the position of symbol i: 0 when its
// name is unique, else its place, counted from 1, among those of the same name.
func (x *index) Sympos(i int) int {
	same := x.byName[x.syms[i].Name]
	if len(same) == 1 {
		return 0
	}
	return slices.Index(same, int32(i)) + 1
}

func ints(list []int32) []int {
	var out []int
	for _, i := range list {
		out = append(out, int(i))
	}
	return out
}
