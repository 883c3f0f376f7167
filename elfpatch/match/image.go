package match

import (
	"cmp"
	"debug/elf"
	"encoding/binary"
	"slices"

	"livepatch/elfpatch"
)

// image is the linked target with what the proof asks of it at hand.
type image struct {
	f       *elfpatch.File
	exec    []stretch
	areas   []area
	named   map[string][]named // only names that the object uses
	slots   []slot             // words that the dynamic loader fills, by address
	stubbed map[string]bool    // names for which one of them is a PLT entry's: calls go through that
	start   []uint64           // entries of .eh_frame_hdr: where functions begin, sorted

	preemptible bool // a library whose exported symbols others may define instead

	kernel bool // linked at addresses of a kernel

	checked map[int]map[uint64]string // answers of misplacedSection, by section and base
}

// stretch is executable bytes of the file at their link-time address.
type stretch struct {
	addr uint64
	data []byte
}

// area is a stretch of memory that the image takes when it is loaded.
type area struct {
	addr, size uint64
	exec       bool
}

// named is a symbol of the target or its debug file.
type named struct {
	addr  uint64
	size  uint64
	typ   elf.SymType
	local bool
	file  string // the STT_FILE before it
	found Found

	exported bool // a dynamic symbol
}

// slot is a word of the image that a dynamic relocation fills.
type slot struct {
	addr   uint64
	typ    uint32
	name   string // empty: relative
	addend int64
}

// newImage reads a target. Only wanted names are kept; nil wants all.
func newImage(f, debug *elfpatch.File, wanted map[string]bool) (*image, error) {
	img := &image{f: f, named: map[string][]named{}, kernel: isKernel(f), checked: map[int]map[uint64]string{}}
	if err := img.findAreas(); err != nil {
		return nil, err
	}
	img.addSymbols(f.Symbols, wanted, BySymbol)
	if debug != nil {
		img.addSymbols(debug.Symbols, wanted, ByDebug)
	}
	if err := img.addDynamic(wanted); err != nil {
		return nil, err
	}
	img.readFrameHeader()
	d, err := f.Dynamic()
	if err != nil {
		return nil, err
	}
	img.preemptible = d != nil && d.Flags&elf.DF_SYMBOLIC == 0 && d.Flags1&elf.DF_1_PIE == 0 && f.Type == elf.ET_DYN
	if d != nil {
		if _, symbolic := d.Value(elf.DT_SYMBOLIC); symbolic {
			img.preemptible = false
		}
	}
	for _, s := range f.Segments {
		if s.Type == elf.PT_INTERP {
			img.preemptible = false // a program: its own definitions come first
		}
	}
	if img.kernel {
		img.preemptible = false // arm64's vmlinux is linked as a library is
	}
	return img, nil
}

// findAreas notes what the image takes of memory, and its code: by segments; in
// kernels, whose first segment holds code and data, by sections.
func (img *image) findAreas() error {
	f := img.f
	if img.kernel && len(f.Sections) > 1 {
		for _, s := range f.Sections {
			if s.Flags&elf.SHF_ALLOC == 0 { // empty ones count: symbols stand in them
				continue
			}
			exec := s.Flags&elf.SHF_EXECINSTR != 0
			img.areas = append(img.areas, area{s.Addr, s.Size, exec})
			if !exec || len(s.Data) == 0 {
				continue
			}
			if data, ok := f.ReadAddr(s.Addr, len(s.Data)); ok { // what is loaded counts, where segments and sections differ
				img.exec = append(img.exec, stretch{s.Addr, data})
			}
		}
		return nil
	}
	for _, s := range f.Segments {
		if s.Type != elf.PT_LOAD {
			continue
		}
		exec := s.Flags&elf.PF_X != 0
		img.areas = append(img.areas, area{s.VAddr, s.MemSize, exec})
		if !exec || s.FileSize == 0 {
			continue
		}
		data, ok := f.ReadAddr(s.VAddr, int(s.FileSize))
		if !ok {
			return &elfpatch.FormatError{Where: "program headers", Text: "an executable segment lies outside the file"}
		}
		img.exec = append(img.exec, stretch{s.VAddr, data})
	}
	return nil
}

// addSymbols keeps the defined symbols whose names the object uses. A place
// that an earlier table gave already is not repeated.
func (img *image) addSymbols(syms []elfpatch.Symbol, wanted map[string]bool, found Found) {
	file := ""
	for _, s := range syms {
		if s.Type == elf.STT_FILE {
			file = s.Name
			continue
		}
		if s.Section == elfpatch.Undefined || wanted != nil && !wanted[s.Name] || s.Name == "" || s.Type == elf.STT_SECTION {
			continue
		}
		n := named{addr: s.Value, size: s.Size, typ: s.Type, local: s.Bind == elf.STB_LOCAL, found: found}
		if n.local {
			n.file = file
		}
		img.add(s.Name, n)
	}
}

func (img *image) add(name string, n named) {
	for i, o := range img.named[name] {
		if o.addr == n.addr && o.typ == n.typ {
			img.named[name][i].exported = o.exported || n.exported
			return
		}
	}
	img.named[name] = append(img.named[name], n)
}

// addDynamic reads the dynamic symbols and the words that the loader fills.
func (img *image) addDynamic(wanted map[string]bool) error {
	syms, err := img.f.DynSymbols()
	if err != nil {
		return err
	}
	for _, s := range syms {
		if s.Section != elfpatch.Undefined && (wanted == nil || wanted[s.Name]) {
			img.add(s.Name, named{addr: s.Value, size: s.Size, typ: s.Type, found: ByDynSymbol, exported: true})
		}
	}
	rels, err := img.f.DynRelocations()
	if err != nil {
		return err
	}
	img.slots, img.stubbed = make([]slot, 0, len(rels)), map[string]bool{}
	for _, r := range rels {
		s := slot{addr: r.Offset, typ: r.Type, addend: r.Addend}
		if r.Symbol != 0 && int(r.Symbol) < len(syms) {
			s.name = syms[r.Symbol].Name
		}
		img.slots = append(img.slots, s)
		if use, ok := pointerSlot(img.f.Machine, s.typ); ok && use == CallSlot {
			img.stubbed[s.name] = true
		}
	}
	byAddr := func(a, b slot) int { return cmp.Compare(a.addr, b.addr) }
	if !slices.IsSortedFunc(img.slots, byAddr) {
		slices.SortStableFunc(img.slots, byAddr)
	}
	return nil
}

// slotAt returns the dynamic relocation of a word.
func (img *image) slotAt(addr uint64) (slot, bool) {
	i, ok := slices.BinarySearchFunc(img.slots, addr, func(s slot, a uint64) int { return cmp.Compare(s.addr, a) })
	if !ok {
		return slot{}, false
	}
	return img.slots[i], true
}

// stub returns the word through which the PLT entry at addr jumps.
func (img *image) stub(addr uint64) (slot, bool) {
	const longest = 24
	code, ok := img.textAtMost(addr, longest)
	if !ok {
		return slot{}, false
	}
	var word uint64
	if img.f.Machine == elf.EM_X86_64 {
		word, ok = stubX86(code, addr)
	} else {
		word, ok = stubARM64(code, addr)
	}
	if !ok {
		return slot{}, false
	}
	// A function that does nothing but jump through a pointer looks the same;
	// its pointer is not filled by the dynamic loader under a name.
	s, ok := img.slotAt(word)
	if !ok || s.name == "" && !isIRelative(img.f.Machine, s.typ) {
		return slot{}, false
	}
	return s, true
}

func isIRelative(m elf.Machine, typ uint32) bool {
	if m == elf.EM_X86_64 {
		return typ == uint32(elf.R_X86_64_IRELATIVE)
	}
	return typ == uint32(elf.R_AARCH64_IRELATIVE)
}

func isRelative(m elf.Machine, typ uint32) bool {
	if m == elf.EM_X86_64 {
		return typ == uint32(elf.R_X86_64_RELATIVE)
	}
	return typ == uint32(elf.R_AARCH64_RELATIVE)
}

// text returns n executable bytes at addr.
func (img *image) text(addr uint64, n int) ([]byte, bool) {
	for _, s := range img.exec {
		if addr >= s.addr && addr-s.addr <= uint64(len(s.data)) && uint64(n) <= uint64(len(s.data))-(addr-s.addr) {
			return s.data[addr-s.addr:][:n], true
		}
	}
	return nil, false
}

// textAtMost returns up to n executable bytes at addr.
func (img *image) textAtMost(addr uint64, n int) ([]byte, bool) {
	for _, s := range img.exec {
		if addr >= s.addr && addr-s.addr < uint64(len(s.data)) {
			rest := s.data[addr-s.addr:]
			return rest[:min(n, len(rest))], true
		}
	}
	return nil, false
}

// holds reports whether one segment, or section of a kernel, covers [addr,
// addr+size], and is executable if asked.
func (img *image) holds(addr, size uint64, exec bool) bool {
	for _, a := range img.areas {
		if addr >= a.addr && addr-a.addr <= a.size && size <= a.size-(addr-a.addr) && (!exec || a.exec) {
			return true
		}
	}
	return false
}

// Encodings of .eh_frame_hdr: "LSB Core", section 10.6.2.
const (
	ehUdata4     = 0x03
	ehPCRelData4 = 0x1b
	ehDataData4  = 0x3b
)

// readFrameHeader collects where functions begin from the binary search table
// of PT_GNU_EH_FRAME. Other encodings than the common one are passed over: the
// table only narrows a search.
func (img *image) readFrameHeader() {
	for _, s := range img.f.Segments {
		if s.Type != elf.PT_GNU_EH_FRAME || s.FileSize < 12 {
			continue
		}
		b, ok := img.f.ReadAddr(s.VAddr, int(s.FileSize))
		if !ok || b[0] != 1 || b[1] != ehPCRelData4 || b[2] != ehUdata4 || b[3] != ehDataData4 {
			return
		}
		n := min(int(binary.LittleEndian.Uint32(b[8:])), (len(b)-12)/8)
		img.start = make([]uint64, n)
		for i := range n {
			img.start[i] = s.VAddr + uint64(int64(int32(binary.LittleEndian.Uint32(b[12+8*i:]))))
		}
		if !slices.IsSorted(img.start) {
			img.start = nil
		}
		return
	}
}

// begins reports whether unwind data says that a function begins at addr.
func (img *image) begins(addr uint64) bool {
	_, ok := slices.BinarySearch(img.start, addr)
	return ok
}
