package fentry

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"slices"

	"livepatch/elfpatch"
	"livepatch/trampoline"
)

// Finder answers for the functions of one file. Its file must not change.
type Finder struct {
	file    *elfpatch.File
	opt     Options
	machine elf.Machine
	kernel  *kernelFile // nil for files that belong to no kernel
	guarded bool        // arm64: indirect calls must land on a landing pad (BTI)

	texts     []text
	bySection map[int]int         // ET_REL: index in texts
	relative  map[uint64]uint64   // relocated words of the tables that name patch sites
	marked    map[place]bool      // what __patchable_function_entries names
	fentry    map[uint64]bool     // linked: addresses that are __fentry__ or lead there
	slots     map[uint64]bool     // linked: GOT slots that hold its address
	hits      map[int][]reference // per text, by offset: what leads into the first bytes of a function

	tableRelocs int // relocations of tables about code, so far
}

// patchableTable is the section that -fpatchable-function-entry fills, and
// mcountTable that of -mrecord-mcount. Their words lead to sites by design.
const (
	patchableTable = "__patchable_function_entries"
	mcountTable    = "__mcount_loc"
	fentryName     = "__fentry__"
)

// NewFinder reads a file. It takes time and memory in proportion to the text
// and the symbols.
func NewFinder(f *elfpatch.File, opt Options) (*Finder, error) {
	fd, err := newFinder(f, opt)
	if err != nil {
		return nil, err
	}
	fd.marked = map[place]bool{}
	if fd.kernel != nil {
		return fd, fd.readKernel()
	}
	if err := fd.readDynamic(); err != nil {
		return nil, err
	}
	if err := fd.tables(patchableTable, func(p place) { fd.marked[p] = true }); err != nil {
		return nil, err
	}
	if fd.guarded, err = fd.wantsLandingPads(); err != nil {
		return nil, err
	}
	if err := fd.readData(); err != nil {
		return nil, err
	}
	fd.sweep()
	return fd, nil
}

// newFinder reads what is needed to know where functions begin.
func newFinder(f *elfpatch.File, opt Options) (*Finder, error) {
	if f.Machine != elf.EM_X86_64 && f.Machine != elf.EM_AARCH64 {
		return nil, malformed("file header", "%v is not supported", f.Machine)
	}
	fd := &Finder{file: f, opt: opt, machine: f.Machine, hits: map[int][]reference{}}
	fd.kernel = kernelFileOf(f)
	if err := fd.readTexts(); err != nil {
		return nil, err
	}
	fd.bySection = make(map[int]int, len(fd.texts))
	for i := range fd.texts {
		fd.bySection[fd.texts[i].section] = i
	}
	if err := fd.readRelocs(); err != nil {
		return nil, err
	}
	if opt.Debug != nil {
		fd.readMapping(f, opt.Debug)
	} else {
		fd.readMapping(f)
	}
	if err := fd.readStarts(); err != nil {
		return nil, err
	}
	for i := range fd.texts {
		if fd.kernel == nil {
			fd.texts[i].markWindows()
		}
	}
	return fd, nil
}

// All returns every function, by section and address.
func (fd *Finder) All() []Func {
	var all []Func
	for i := range fd.texts {
		t := &fd.texts[i]
		for n := range t.starts {
			all = append(all, fd.describe(t, &t.starts[n]))
		}
	}
	return all
}

// At returns the patch site of the function of size bytes at addr; size 0
// means what the file says, or up to the next function.
func (fd *Finder) At(addr, size uint64) (Func, error) {
	p, ok := fd.locate(fd.opt.Section, addr)
	if !ok {
		return Func{}, fmt.Errorf("find the patch site at %#x: no text is there", addr)
	}
	t := &fd.texts[p.text]
	if size > uint64(len(t.bytes)-p.off) {
		return Func{}, fmt.Errorf("find the patch site at %#x: %#x bytes exceed the text", addr, size)
	}
	i := t.index(p.off)
	if i == len(t.starts) || t.starts[i].off != p.off {
		return fd.atUnknown(p, size)
	}
	s := t.starts[i]
	if size != 0 {
		s.Size = size
	}
	return fd.describe(t, &s), nil
}

// atUnknown looks at a function that no source names. The text is read again,
// since nobody has looked for branches into this place.
func (fd *Finder) atUnknown(p place, size uint64) (Func, error) {
	opt := fd.opt
	opt.also = append(slices.Clone(opt.also), candidate{place: p, size: size})
	again, err := NewFinder(fd.file, opt)
	if err != nil {
		return Func{}, err
	}
	t := &again.texts[p.text]
	return again.describe(t, &t.starts[t.index(p.off)]), nil
}

// next returns where the first function behind an offset begins.
func (t *text) next(off int) int {
	if i := t.index(off + 1); i < len(t.starts) {
		return t.starts[i].off
	}
	return len(t.bytes)
}

// ended returns where all functions that begin before an offset have ended.
func (t *text) ended(off int) int {
	if i := t.index(off); i > 0 {
		return t.ends[i-1]
	}
	return 0
}

// NT_GNU_PROPERTY_TYPE_0 and the property of arm64 with the bit that says that
// every indirect branch target is a landing pad (ELF for the Arm 64-bit
// architecture, "Program Property").
const (
	notePropertyType0   = 5
	propertyArm64And    = 0xc0000000
	propertyArm64AndBTI = 1
)

func (fd *Finder) wantsLandingPads() (bool, error) {
	if fd.machine != elf.EM_AARCH64 {
		return false, nil
	}
	notes, err := fd.file.Notes()
	if err != nil {
		return false, err
	}
	for _, n := range notes {
		if n.Name != "GNU" || n.Type != notePropertyType0 {
			continue
		}
		for b := n.Desc; len(b) >= 8; {
			kind, size := binary.LittleEndian.Uint32(b), uint64(binary.LittleEndian.Uint32(b[4:]))
			if size > uint64(len(b)-8) {
				return false, malformed("GNU property note", "property of %#x bytes, %#x are left", size, len(b)-8)
			}
			if kind == propertyArm64And && size >= 4 && binary.LittleEndian.Uint32(b[8:])&propertyArm64AndBTI != 0 {
				return true, nil
			}
			b = b[min(uint64(len(b)), 8+(size+7)&^7):]
		}
	}
	return false, nil
}

// nearLen is the length of a near jump.
func (fd *Finder) nearLen() int { return trampoline.Len(fd.machine, trampoline.Near) }
