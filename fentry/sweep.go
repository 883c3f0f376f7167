package fentry

// What leads into the first bytes of functions. A redirect overwrites several
// instructions; code that jumps between them would run into its middle. All
// direct branches of the whole text are looked at, addresses that instructions
// form relative to themselves, and addresses that relocations put into data.

import (
	"cmp"
	"debug/elf"
	"slices"
	"sort"

	"livepatch/disasm"
	"livepatch/elfpatch"
)

// window is how far behind the entry of a function a reference matters: a
// landing pad and the longest redirect.
const window = 8 + MaxRoom

// reference is something that leads to an offset of a text.
type reference struct {
	off  int    // where it leads
	from place  // the instruction; text is -1 for data
	addr uint64 // data: address or offset of the word
	kind referenceKind
}

type referenceKind uint8

const (
	branch  referenceKind = iota
	address               // lea, adr: the place may be jumped to
	pointer               // a word of data
)

// bitmap has one bit per byte of a text.
type bitmap []uint64

func (b bitmap) set(i int)      { b[i/64] |= 1 << (i % 64) }
func (b bitmap) has(i int) bool { return b[i/64]>>(i%64)&1 != 0 }

// markWindows notes which bytes matter: those behind the first of every
// function.
func (t *text) markWindows() {
	t.near = make(bitmap, len(t.bytes)/64+1)
	marked := 0
	for i := range t.starts {
		from := max(marked, t.starts[i].off+1)
		marked = max(marked, min(len(t.bytes), t.starts[i].off+window))
		for off := from; off < marked; off++ {
			t.near.set(off)
		}
	}
}

// refer notes a reference if it leads where one matters. On arm64 nothing can
// be jumped to between words: constants that look like adr lead there.
func (fd *Finder) refer(to place, r reference) {
	if to.off%fd.step() == 0 && fd.texts[to.text].near.has(to.off) {
		r.off = to.off
		fd.hits[to.text] = append(fd.hits[to.text], r)
	}
}

// sweep decodes all texts once.
func (fd *Finder) sweep() {
	for i := range fd.texts {
		fd.sweepText(i)
	}
	for i := range fd.hits {
		slices.SortFunc(fd.hits[i], func(a, b reference) int {
			return cmp.Or(cmp.Compare(a.off, b.off), cmp.Compare(a.kind, b.kind),
				cmp.Compare(a.from.text, b.from.text), cmp.Compare(a.from.off, b.from.off), cmp.Compare(a.addr, b.addr))
		})
	}
}

// sweepText decodes a text from its first byte. Every function begins with a
// whole instruction, whatever came before it; what cannot be decoded, or is
// data by the mapping symbols, is stepped over.
func (fd *Finder) sweepText(index int) {
	t := &fd.texts[index]
	next, data, limit := 0, 0, 0
	pad := -1 // where the previous instruction began if it is a landing pad
	for off := 0; off < len(t.bytes); {
		if off >= limit {
			for next < len(t.starts) && t.starts[next].off <= off {
				next++
			}
			limit = len(t.bytes)
			if next < len(t.starts) {
				limit = t.starts[next].off
			}
		}
		for data < len(t.data) && t.data[data].to <= off {
			data++
		}
		if data < len(t.data) && t.data[data].from <= off {
			off = min(t.data[data].to, limit)
			continue
		}
		in, err := disasm.Decode(fd.machine, t.bytes[off:limit])
		if err != nil {
			off = min(off+fd.step(), limit)
			continue
		}
		from := place{index, off}
		if in.PCRel.Size > 0 || t.relocs != nil {
			fd.follow(t, from, in)
			fd.noteStub(t, off, pad, in)
		}
		pad = -1
		if in.Pad {
			pad = off
		}
		off += in.Len
	}
}

// follow notes where the instruction at from leads.
func (fd *Finder) follow(t *text, from place, in disasm.Inst) {
	kind := branch
	if in.Mem {
		kind = address
	}
	if fd.file.Type != elf.ET_REL {
		target, _ := in.Target(t.at(from.off))
		if to := target - t.addr; to < uint64(len(t.bytes)) {
			fd.refer(place{from.text, int(to)}, reference{from: from, kind: kind})
		} else if to, ok := fd.locate(0, target); ok {
			fd.refer(to, reference{from: from, kind: kind})
		}
		return
	}
	relocated := false
	for _, r := range t.reloc(from.off, from.off+in.Len) {
		addend := r.Addend
		if in.PCRel.Size > 0 && int(r.Offset) == from.off+int(in.PCRel.Off) {
			relocated = true
			if fd.machine == elf.EM_X86_64 {
				addend += int64(in.Len) - int64(in.PCRel.Off) // counted from the end of the instruction
			}
		} else {
			kind = address
		}
		if to, ok := fd.symbolPlace(r, addend); ok {
			fd.refer(to, reference{from: from, kind: kind})
		}
	}
	if in.PCRel.Size == 0 || relocated {
		return
	}
	if target, ok := in.Target(uint64(from.off)); ok && target < uint64(len(t.bytes)) {
		fd.refer(place{from.text, int(target)}, reference{from: from, kind: kind})
	}
}

// noteStub notes a jump through a slot that holds the address of __fentry__:
// calls of the jump, or of the landing pad before it, are calls of __fentry__.
func (fd *Finder) noteStub(t *text, off, pad int, in disasm.Inst) {
	if len(fd.slots) == 0 || in.Flow != disasm.IndirectJump {
		return
	}
	if target, ok := in.Target(t.at(off)); ok && fd.slots[target] {
		fd.fentry[t.at(off)] = true
		if pad >= 0 {
			fd.fentry[t.at(pad)] = true
		}
	}
}

// readDynamic reads the relocations of a linked file: which words of data hold
// addresses inside functions, and which hold that of __fentry__.
func (fd *Finder) readDynamic() error {
	fd.relative, fd.fentry, fd.slots = map[uint64]uint64{}, map[uint64]bool{}, map[uint64]bool{}
	if fd.file.Type == elf.ET_REL {
		return nil
	}
	relocs, err := fd.file.DynRelocations()
	if err != nil {
		return err
	}
	dyn, err := fd.file.DynSymbols()
	if err != nil {
		return err
	}
	fd.noteFentry(fd.file.Symbols)
	for i := range dyn {
		fd.noteFentrySymbol(&dyn[i].Symbol)
	}
	if fd.opt.Debug != nil {
		fd.noteFentry(fd.opt.Debug.Symbols)
	}
	tables := fd.siteTables()
	inTable := func(addr uint64) bool {
		return slices.ContainsFunc(tables, func(s *elfpatch.Section) bool { return addr-s.Addr < s.Size })
	}
	for _, r := range relocs {
		switch {
		case isRelative(fd.machine, r.Type):
			if inTable(r.Offset) {
				fd.relative[r.Offset] = uint64(r.Addend)
			} else if to, ok := fd.locate(0, uint64(r.Addend)); ok {
				fd.refer(to, reference{from: place{text: -1}, addr: r.Offset, kind: pointer})
			}
		case int(r.Symbol) < len(dyn) && dyn[r.Symbol].Name == fentryName:
			fd.slots[r.Offset] = true
		}
	}
	return nil
}

func (fd *Finder) noteFentry(symbols []elfpatch.Symbol) {
	for i := range symbols {
		fd.noteFentrySymbol(&symbols[i])
	}
}

func (fd *Finder) noteFentrySymbol(s *elfpatch.Symbol) {
	if s.Name == fentryName && s.Section != elfpatch.Undefined && s.Value != 0 {
		fd.fentry[s.Value] = true
	}
}

func isRelative(m elf.Machine, typ uint32) bool {
	if m == elf.EM_X86_64 {
		return elf.R_X86_64(typ) == elf.R_X86_64_RELATIVE
	}
	return elf.R_AARCH64(typ) == elf.R_AARCH64_RELATIVE
}

// siteTables returns the sections that name patch sites.
func (fd *Finder) siteTables() []*elfpatch.Section {
	var all []*elfpatch.Section
	for _, s := range fd.file.Sections {
		if s.Addr != 0 && (s.Name == patchableTable || s.Name == mcountTable) {
			all = append(all, s)
		}
	}
	return all[:min(len(all), maxSiteTables)]
}

// maxSiteTables bounds what every relocation is compared with. Linkers make one
// section of each name.
const maxSiteTables = 4

// readData notes the addresses inside functions that an object's data holds.
func (fd *Finder) readData() error {
	if fd.file.Type != elf.ET_REL {
		return nil
	}
	for _, s := range fd.file.Sections {
		if s.Flags&elf.SHF_ALLOC == 0 || s.Flags&elf.SHF_EXECINSTR != 0 || s.Name == patchableTable || s.Name == mcountTable {
			continue
		}
		list, err := fd.file.Relocations(s)
		if err != nil {
			return err
		}
		for _, r := range list {
			if !isAbsolute(fd.machine, r.Type) {
				continue
			}
			if to, ok := fd.symbolPlace(r, r.Addend); ok {
				fd.refer(to, reference{from: place{text: -1, off: s.Index}, addr: r.Offset, kind: pointer})
			}
		}
	}
	return nil
}

func isAbsolute(m elf.Machine, typ uint32) bool {
	if m == elf.EM_X86_64 {
		return elf.R_X86_64(typ) == elf.R_X86_64_64
	}
	return elf.R_AARCH64(typ) == elf.R_AARCH64_ABS64
}

// into returns the first reference that leads to [from, to) of a text.
func (fd *Finder) into(text, from, to int) (reference, bool) {
	list := fd.hits[text]
	i := sort.Search(len(list), func(i int) bool { return list[i].off >= from })
	if i < len(list) && list[i].off < to {
		return list[i], true
	}
	return reference{}, false
}
