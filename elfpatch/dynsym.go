package elfpatch

import (
	"debug/elf"
)

// DynSymbol is one symbol of the dynamic symbol table. Its Section only says
// whether and how it is defined: the dynamic loader looks at no more, and strip
// leaves old numbers there.
type DynSymbol struct {
	Symbol
	Version string // "GLIBC_2.34", empty if unversioned
	Library string // undefined symbols: the library that the version is needed from
	Hidden  bool   // defined, but not the default version of its name
}

// DynSymbols reads the dynamic symbol table, the null symbol at index 0
// included; nil without one. It works from the dynamic segment, so that files
// without section headers are read too.
func (f *File) DynSymbols() ([]DynSymbol, error) {
	d, err := f.Dynamic()
	if err != nil || d == nil {
		return nil, err
	}
	addr, ok := d.Value(elf.DT_SYMTAB)
	if !ok || d.strings == nil {
		return nil, nil
	}
	n, err := f.countDynSymbols(d, addr)
	if err != nil {
		return nil, err
	}
	data, err := f.region(elf.DT_SYMTAB, addr, n*symbolSize)
	if err != nil {
		return nil, err
	}
	table := &Section{Name: ".dynsym", Data: data}
	syms, err := parseSymbolTable(table, d.strings, nil, anySection)
	if err != nil {
		return nil, err
	}
	out := make([]DynSymbol, len(syms))
	for i, s := range syms {
		out[i].Symbol = s
	}
	return out, f.addVersions(d, out)
}

// countDynSymbols finds out how many dynamic symbols there are, which no entry
// of the dynamic section says: by the section, else by the hash tables, else
// by what linkers put right behind.
func (f *File) countDynSymbols(d *Dynamic, addr uint64) (uint64, error) {
	for _, s := range f.Sections {
		if s.Type == elf.SHT_DYNSYM && s.Addr == addr {
			return uint64(len(s.Data)) / symbolSize, nil
		}
	}
	if hash, ok := d.Value(elf.DT_HASH); ok {
		b, err := f.region(elf.DT_HASH, hash, 8)
		if err != nil {
			return 0, err
		}
		return uint64(le.Uint32(b[4:])), nil
	}
	n := uint64(0)
	if hash, ok := d.Value(elf.DT_GNU_HASH); ok {
		var err error
		if n, err = f.countGNUHash(hash); err != nil {
			return 0, err
		}
	}
	if n == 0 {
		n = (nextTable(d, addr) - addr) / symbolSize
	}
	return n, nil
}

// nextTable returns the address of the table of the dynamic section that comes
// first behind addr, addr if none does. ld and gold put the strings behind the
// symbols, lld the versions.
func nextTable(d *Dynamic, addr uint64) uint64 {
	next := addr
	for _, tag := range []elf.DynTag{
		elf.DT_STRTAB, elf.DT_HASH, elf.DT_GNU_HASH, elf.DT_VERSYM, elf.DT_VERNEED, elf.DT_VERDEF,
		elf.DT_RELA, elf.DT_JMPREL, dtRelr, elf.DT_INIT_ARRAY, elf.DT_FINI_ARRAY,
	} {
		if v, ok := d.Value(tag); ok && v > addr && (next == addr || v < next) {
			next = v
		}
	}
	return next
}

// countGNUHash returns the number of symbols by the GNU hash table: the last
// symbol of the fullest chain. Symbols that are not hashed come first, so a
// table that hashes none tells nothing.
func (f *File) countGNUHash(addr uint64) (uint64, error) {
	const where = "GNU hash table"
	b := f.fromAddr(addr)
	if len(b) < 16 {
		return 0, malformed(where, "it is outside the file")
	}
	buckets, first, bloom := uint64(le.Uint32(b)), uint64(le.Uint32(b[4:])), uint64(le.Uint32(b[8:]))
	b = b[16:]
	if 8*bloom+4*buckets > uint64(len(b)) {
		return 0, malformed(where, "%d buckets exceed the file", buckets)
	}
	table, chains := b[8*bloom:], b[8*bloom+4*buckets:]
	last := uint64(0)
	for i := range buckets {
		last = max(last, uint64(le.Uint32(table[4*i:])))
	}
	if last == 0 {
		return 0, nil
	}
	if last < first {
		return 0, malformed(where, "bucket of symbol %d, the first one is %d", last, first)
	}
	for at := 4 * (last - first); ; at += 4 {
		if at+4 > uint64(len(chains)) {
			return 0, malformed(where, "a chain has no end")
		}
		if le.Uint32(chains[at:])&1 != 0 {
			return first + at/4 + 1, nil
		}
	}
}

// DynRelocations returns what the dynamic loader relocates: DT_RELA, DT_RELR
// (as R_*_RELATIVE) and DT_JMPREL, or the allocated SHT_RELA sections of a file
// without a dynamic section. Symbols are indices of DynSymbols.
func (f *File) DynRelocations() ([]Rela, error) {
	d, err := f.Dynamic()
	if err != nil {
		return nil, err
	}
	if d == nil {
		return f.staticDynRelocations()
	}
	if kind, ok := d.Value(elf.DT_PLTREL); ok && elf.DynTag(kind) != elf.DT_RELA {
		return nil, malformed("dynamic section", "relocations without addends are not used on %v", f.Machine)
	}
	var all []Rela
	relaAddr, relaSize, err := f.dynTable(d, elf.DT_RELA, elf.DT_RELASZ)
	if err != nil {
		return nil, err
	}
	if all, err = f.appendDyn(all, elf.DT_RELA, relaAddr, relaSize); err != nil {
		return nil, err
	}
	addr, size, err := f.dynTable(d, dtRelr, dtRelrSz)
	if err != nil {
		return nil, err
	}
	if all, err = f.appendRelr(all, addr, size); err != nil {
		return nil, err
	}
	addr, size, err = f.dynTable(d, elf.DT_JMPREL, elf.DT_PLTRELSZ)
	if err != nil {
		return nil, err
	}
	if addr >= relaAddr && addr-relaAddr < relaSize {
		return all, nil // some linkers count the second table as part of the first
	}
	return f.appendDyn(all, elf.DT_JMPREL, addr, size)
}

// Tags that debug/elf does not know: packed relative relocations.
const (
	dtRelrSz = elf.DynTag(35)
	dtRelr   = elf.DynTag(36)
)

func (f *File) dynTable(d *Dynamic, at, size elf.DynTag) (uint64, uint64, error) {
	addr, ok := d.Value(at)
	n, sized := d.Value(size)
	if ok && !sized {
		return 0, 0, malformed("dynamic section", "%v without %v", at, size)
	}
	if !ok {
		return 0, 0, nil
	}
	return addr, n, nil
}

func (f *File) appendDyn(all []Rela, tag elf.DynTag, addr, size uint64) ([]Rela, error) {
	if size == 0 {
		return all, nil
	}
	if size%relaSize != 0 {
		return nil, malformed("dynamic section", "%v: %d bytes are no whole number of entries", tag, size)
	}
	b, err := f.region(tag, addr, size)
	if err != nil {
		return nil, err
	}
	list, err := f.parseRelocations(&Section{Name: tag.String(), Data: b}, 1<<32)
	return append(all, list...), err
}

// appendRelr unpacks DT_RELR: an even word is the address of one place, an odd
// one a bitmap of the 63 words after the last place.
func (f *File) appendRelr(all []Rela, addr, size uint64) ([]Rela, error) {
	b, err := f.region(dtRelr, addr, size)
	if err != nil {
		return nil, err
	}
	typ := uint32(elf.R_X86_64_RELATIVE)
	if f.Machine == elf.EM_AARCH64 {
		typ = uint32(elf.R_AARCH64_RELATIVE)
	}
	next := uint64(0)
	place := func(at uint64) error {
		word, ok := f.ReadAddr(at, 8)
		if !ok || at < next {
			return malformed("packed relocations", "place %#x is outside the file or out of order", at)
		}
		all = append(all, Rela{Offset: at, Type: typ, Addend: int64(le.Uint64(word))})
		next = at + 8
		return nil
	}
	for off := 0; off+8 <= len(b); off += 8 {
		w := le.Uint64(b[off:])
		if w&1 == 0 {
			if err := place(w); err != nil {
				return nil, err
			}
			continue
		}
		base := next
		for i, bits := uint64(0), w>>1; bits != 0; i, bits = i+1, bits>>1 {
			if bits&1 != 0 {
				if err := place(base + 8*i); err != nil {
					return nil, err
				}
			}
		}
		next = base + 63*8
	}
	return all, nil
}

func (f *File) staticDynRelocations() ([]Rela, error) {
	if f.Type == elf.ET_REL {
		return nil, nil
	}
	var all []Rela
	for _, s := range f.Sections {
		if s.Type != elf.SHT_RELA || s.Flags&elf.SHF_ALLOC == 0 {
			continue
		}
		list, err := f.parseRelocations(s, 1<<32)
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	return all, nil
}
