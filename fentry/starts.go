package fentry

import (
	"cmp"
	"debug/elf"
	"encoding/binary"
	"slices"
	"sort"
	"strings"

	"livepatch/disasm"
	"livepatch/elfpatch"
	"livepatch/elfpatch/kernel"
)

// Source says how it is known that a function begins somewhere.
type Source uint8

const (
	Symtab   Source = 1 << iota // .symtab of the file
	Dynsym                      // .dynsym
	DebugSym                    // .symtab of the debug file
	EHFrame                     // .eh_frame
)

// Start is where a function begins.
type Start struct {
	Section      string // "" in files without section headers
	SectionIndex int
	Addr, Size   uint64   // Size is never 0
	Names        []string // mangled, the most telling first; none where only .eh_frame knows the function
	Sources      Source

	text int
	off  int
	hash int // bytes from the symbol of its kCFI type hash to the entry, 0 without
}

// candidate is what one source says about one function.
type candidate struct {
	place
	size   uint64
	name   string
	bind   elf.SymBind
	source Source
}

// Starts returns where functions begin, by section and address.
func (fd *Finder) Starts() []Start {
	var all []Start
	for i := range fd.texts {
		all = append(all, fd.texts[i].starts...)
	}
	return all
}

// readStarts asks every source and merges the answers.
func (fd *Finder) readStarts() error {
	all := slices.Clone(fd.opt.also)
	all = fd.addSymbols(all, fd.file.Symbols, Symtab)
	dyn, err := fd.file.DynSymbols()
	if err != nil {
		return err
	}
	for i := range dyn {
		all = fd.addSymbol(all, &dyn[i].Symbol, Dynsym)
	}
	if fd.opt.Debug != nil {
		all = fd.addSymbols(all, fd.opt.Debug.Symbols, DebugSym)
	}
	if all, err = fd.addFrames(all); err != nil {
		return err
	}
	fd.merge(all)
	return nil
}

func (fd *Finder) addSymbols(all []candidate, symbols []elfpatch.Symbol, from Source) []candidate {
	for i := range symbols {
		all = fd.addSymbol(all, &symbols[i], from)
	}
	return all
}

// addSymbol takes a symbol that names a function of the texts.
func (fd *Finder) addSymbol(all []candidate, s *elfpatch.Symbol, from Source) []candidate {
	if s.Type != elf.STT_FUNC && s.Type != elf.STT_GNU_IFUNC || s.Section <= 0 {
		return all
	}
	if fd.kernel != nil && fd.kernel.image && kernel.IsLabel(s.Name) {
		return all
	}
	p, ok := fd.locate(s.Section, s.Value)
	if !ok || fd.texts[p.text].stubs {
		return all
	}
	return append(all, candidate{p, s.Size, s.Name, s.Bind, from})
}

// addFrames takes the functions of .eh_frame.
func (fd *Finder) addFrames(all []candidate) ([]candidate, error) {
	if fd.file.Type == elf.ET_REL {
		return fd.addObjectFrames(all)
	}
	data, addr, toZero, err := fd.ehFrame()
	if err != nil || data == nil {
		return all, err
	}
	frames, err := parseEHFrame(data, addr, toZero)
	if err != nil {
		return nil, err
	}
	for _, f := range frames {
		if p, ok := fd.locate(0, f.start); ok && !fd.texts[p.text].stubs {
			all = append(all, candidate{p, f.size, "", 0, EHFrame})
		}
	}
	return all, nil
}

// addObjectFrames takes those of an object, whose FDEs are relocated. There may
// be several sections.
func (fd *Finder) addObjectFrames(all []candidate) ([]candidate, error) {
	for _, s := range fd.file.Sections {
		if s.Name != ".eh_frame" || len(s.Data) == 0 {
			continue
		}
		frames, err := parseEHFrame(s.Data, 0, false)
		if err != nil {
			return nil, err
		}
		list, err := fd.file.Relocations(s)
		if err != nil {
			return nil, err
		}
		at := make(map[uint64]elfpatch.Rela, len(list))
		for _, r := range list {
			at[r.Offset] = r
		}
		for _, f := range frames {
			r, ok := at[uint64(f.field)]
			if !ok {
				continue
			}
			if p, ok := fd.symbolPlace(r, r.Addend); ok {
				all = append(all, candidate{p, f.size, "", 0, EHFrame})
			}
		}
	}
	return all, nil
}

// symbolPlace returns the place in the texts of an object that the symbol of a
// relocation and an addend name.
func (fd *Finder) symbolPlace(r elfpatch.Rela, addend int64) (place, bool) {
	if int(r.Symbol) >= len(fd.file.Symbols) {
		return place{}, false
	}
	s := &fd.file.Symbols[r.Symbol]
	if s.Section <= 0 {
		return place{}, false
	}
	return fd.locate(s.Section, s.Value+uint64(addend))
}

// ptGNUEHFrame is the segment with the index of .eh_frame.
const ptGNUEHFrame elf.ProgType = 0x6474e550

// ehFrame finds .eh_frame by its section, or by the index that a segment
// points to. Without a section its end is not known, only the zero that
// linkers put there.
func (fd *Finder) ehFrame() (data []byte, addr uint64, toZero bool, err error) {
	if len(fd.file.Sections) > 0 {
		if s := fd.file.Section(".eh_frame"); s != nil {
			return s.Data, s.Addr, false, nil
		}
		return nil, 0, false, nil
	}
	for _, p := range fd.file.Segments {
		if p.Type == ptGNUEHFrame {
			data, addr, err = fd.indexedEHFrame(p)
			return data, addr, true, err
		}
	}
	return nil, 0, false, nil
}

// indexedEHFrame reads the address of .eh_frame from its index: version 1,
// three encodings, the encoded pointer.
func (fd *Finder) indexedEHFrame(hdr elfpatch.Segment) ([]byte, uint64, error) {
	const where = "index of .eh_frame"
	b, ok := fd.file.ReadAddr(hdr.VAddr, int(min(hdr.FileSize, 16)))
	if !ok || len(b) < 8 || b[0] != 1 {
		return nil, 0, malformed(where, "no header of version 1 at %#x", hdr.VAddr)
	}
	addr, _, ok := readPointer(b[4:], b[1])
	if !ok || b[1]&peApply != 0 && b[1]&peApply != pePCRel {
		return nil, 0, malformed(where, "pointer encoding %#x is not used here", b[1])
	}
	if b[1]&peApply == pePCRel {
		addr += hdr.VAddr + 4
	}
	for _, p := range fd.file.Segments {
		if p.Type == elf.PT_LOAD && addr >= p.VAddr && addr-p.VAddr < p.FileSize {
			data, _ := fd.file.ReadAddr(addr, int(p.VAddr+p.FileSize-addr))
			return data, addr, nil
		}
	}
	return nil, 0, malformed(where, "the address %#x of .eh_frame is in no segment", addr)
}

// merge makes one start of what the sources say about one place.
func (fd *Finder) merge(all []candidate) {
	slices.SortFunc(all, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.text, b.text), cmp.Compare(a.off, b.off), compareNames(a, b))
	})
	of := make([]int, len(fd.texts))
	for i := range all {
		of[all[i].text]++
	}
	for i, n := range of {
		fd.texts[i].starts = make([]Start, 0, n)
	}
	for i := 0; i < len(all); {
		t := &fd.texts[all[i].text]
		s := Start{
			Section: t.name, SectionIndex: t.section, Addr: t.at(all[i].off),
			text: all[i].text, off: all[i].off,
		}
		frame := uint64(0)
		for ; i < len(all) && all[i].text == s.text && all[i].off == s.off; i++ {
			c := &all[i]
			s.Sources |= c.source
			if c.source == EHFrame {
				frame = max(frame, c.size)
				continue
			}
			s.Size = max(s.Size, c.size)
			if n := len(s.Names); c.name != "" && (n == 0 || s.Names[n-1] != c.name) {
				s.Names = append(s.Names, c.name)
			}
		}
		if s.Size == 0 {
			s.Size = frame
		}
		t.starts = append(t.starts, s)
	}
	for i := range fd.texts {
		fd.dropLateFrames(&fd.texts[i])
		if fd.kernel != nil {
			fd.texts[i].dropPrefixes()
		}
		fd.measure(&fd.texts[i])
		fd.texts[i].noteEnds()
	}
}

// dropLateFrames drops the functions of .eh_frame that are the rest of one that
// a symbol names: GCC for arm64 opens the frame behind the landing pad and the
// NOPs of -fpatchable-function-entry (seen in 12.2). Without symbols such a
// function is taken to begin there; a redirect catches its calls all the same.
func (fd *Finder) dropLateFrames(t *text) {
	kept := t.starts[:0]
	for _, s := range t.starts {
		if n := len(kept); n > 0 && s.Sources == EHFrame && fd.isLateFrame(t, &kept[n-1], &s) {
			continue
		}
		kept = append(kept, s)
	}
	t.starts = kept
}

// maxPatchable bounds how far behind the entry a late frame is looked for.
const maxPatchable = 1 << 10

func (fd *Finder) isLateFrame(t *text, whole, frame *Start) bool {
	if whole.Sources == EHFrame || frame.off-whole.off > maxPatchable || frame.off+int(frame.Size) != whole.off+int(whole.Size) {
		return false
	}
	for off := whole.off; off < frame.off; {
		in, err := disasm.Decode(fd.machine, t.bytes[off:frame.off])
		if err != nil || !in.Nop && !in.Pad {
			return false
		}
		off += in.Len
	}
	return true
}

// compareNames orders the names of one function: exported ones first, then
// those without leading underscores, then the shorter ones.
func compareNames(a, b candidate) int {
	rank := func(c candidate) int {
		switch c.bind {
		case elf.STB_GLOBAL:
			return 0
		case elf.STB_WEAK:
			return 1
		}
		return 2
	}
	under := func(c candidate) int { return len(c.name) - len(strings.TrimLeft(c.name, "_")) }
	return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(under(a), under(b)),
		cmp.Compare(len(a.name), len(b.name)), cmp.Compare(a.name, b.name))
}

// measure completes the sizes: none exceeds the text, and a function whose
// size no source tells reaches to the next one, without the filler between.
func (fd *Finder) measure(t *text) {
	for i := range t.starts {
		s := &t.starts[i]
		if s.Size > uint64(len(t.bytes)-s.off) {
			s.Size = uint64(len(t.bytes) - s.off)
		}
		if s.Size != 0 {
			continue
		}
		next := len(t.bytes)
		if i+1 < len(t.starts) {
			next = t.starts[i+1].off
		}
		s.Size = uint64(fd.endOfCode(t.bytes[s.off:next]))
	}
}

// noteEnds fills ends: functions may lie inside one another.
func (t *text) noteEnds() {
	t.ends = make([]int, len(t.starts))
	end := 0
	for i := range t.starts {
		end = max(end, t.starts[i].off+int(t.starts[i].Size))
		t.ends[i] = end
	}
}

// index returns the index in t.starts of the first function that begins at or
// behind an offset.
func (t *text) index(off int) int {
	return sort.Search(len(t.starts), func(i int) bool { return t.starts[i].off >= off })
}

// containing returns the function that an offset lies in.
func (t *text) containing(off int) (*Start, bool) {
	i := t.index(off+1) - 1
	if i < 0 || uint64(off-t.starts[i].off) >= t.starts[i].Size {
		return nil, false
	}
	return &t.starts[i], true
}

// tables calls fn with every address in the sections of a name that hold
// 8-byte addresses of text: relocated ones in objects, the addends of relative
// relocations or the contents in linked files.
func (fd *Finder) tables(name string, fn func(p place)) error {
	for _, s := range fd.file.Sections {
		if s.Name != name || s.Type == elf.SHT_NOBITS || s.Type == elf.SHT_RELA {
			continue
		}
		if len(s.Data)%8 != 0 {
			return malformed("section "+name, "%d bytes are no whole number of addresses", len(s.Data))
		}
		if fd.file.Type == elf.ET_REL {
			if err := fd.objectTable(s, fn); err != nil {
				return err
			}
			continue
		}
		for off := 0; off < len(s.Data); off += 8 {
			addr, ok := fd.relative[s.Addr+uint64(off)]
			if !ok {
				addr = binary.LittleEndian.Uint64(s.Data[off:])
			}
			if p, ok := fd.locate(0, addr); ok {
				fn(p)
			}
		}
	}
	return nil
}

func (fd *Finder) objectTable(s *elfpatch.Section, fn func(p place)) error {
	list, err := fd.file.Relocations(s)
	if err != nil {
		return err
	}
	for _, r := range list {
		if p, ok := fd.symbolPlace(r, r.Addend); ok {
			fn(p)
		}
	}
	return nil
}
