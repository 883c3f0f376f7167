package kimage

import (
	"cmp"
	"debug/elf"
	"fmt"
	"slices"

	"livepatch/elfpatch"
)

// cut is where a section of the image begins: at the first of the symbols that
// the kernel has. A section ends where the next one begins, one with an end
// symbol there; what follows then is called rest.
type cut struct {
	starts []string
	end    string
	rest   string
	name   string
	typ    elf.SectionType
	flags  elf.SectionFlag
}

const (
	ro = elf.SHF_ALLOC
	rx = elf.SHF_ALLOC | elf.SHF_EXECINSTR
	rw = elf.SHF_ALLOC | elf.SHF_WRITE
)

// arm64Cuts follows arch/arm64/kernel/vmlinux.lds.S and NOTES, BTF in
// include/asm-generic/vmlinux.lds.h (6.12). The alternatives come in pairs: older
// name second.
var arm64Cuts = []cut{
	{starts: []string{"_text"}, name: ".head.text", typ: elf.SHT_PROGBITS, flags: ro},
	{starts: []string{"_stext"}, name: ".text", typ: elf.SHT_PROGBITS, flags: rx},
	{starts: []string{"_etext"}, name: ".rodata", typ: elf.SHT_PROGBITS, flags: ro},
	{starts: []string{"__start_notes"}, end: "__stop_notes", rest: ".rodata", name: ".notes", typ: elf.SHT_NOTE, flags: ro},
	{starts: []string{"__start_BTF"}, end: "__stop_BTF", rest: ".rodata", name: ".BTF", typ: elf.SHT_PROGBITS, flags: ro},
	{starts: []string{"__inittext_begin", "_sinittext"}, name: ".init.text", typ: elf.SHT_PROGBITS, flags: rx},
	{starts: []string{"__inittext_end", "_einittext"}, name: ".init.data", typ: elf.SHT_PROGBITS, flags: rw},
	{starts: []string{"_sdata", "_data"}, name: ".data", typ: elf.SHT_PROGBITS, flags: rw},
	{starts: []string{"__bss_start"}, name: ".bss", typ: elf.SHT_NOBITS, flags: rw},
}

// arm64File makes an ET_EXEC file of an Image: its sections by their bounding
// symbols, the relative relocations applied.
func arm64File(raw []byte, base uint64, syms []Symbol, list []rela) (*elfpatch.File, error) {
	end := base + le.Uint64(raw[arm64ImageSize:])
	sections, err := cutSections(arm64Cuts, syms, base, end)
	if err != nil {
		return nil, err
	}
	content := slices.Clone(raw)
	for _, r := range list {
		if off := r.place - base; off <= uint64(len(content))-8 {
			le.PutUint64(content[off:], r.value)
		}
	}
	for i := range sections {
		s := &sections[i]
		if s.typ == elf.SHT_NOBITS {
			continue
		}
		off, size := s.addr-base, s.size
		if off >= uint64(len(content)) {
			s.typ = elf.SHT_NOBITS
			continue
		}
		s.data = content[off:min(off+size, uint64(len(content)))]
	}
	f, err := linkedFile(elf.EM_AARCH64, sections)
	if err != nil {
		return nil, err
	}
	f.Symbols = symtab(f, syms)
	return f, nil
}

// cutSections returns the sections that lie next to each other in [base, end).
func cutSections(cuts []cut, syms []Symbol, base, end uint64) ([]placed, error) {
	first := map[string]uint64{}
	for _, s := range syms {
		if _, ok := first[s.Name]; !ok {
			first[s.Name] = s.Addr
		}
	}
	var out []placed
	add := func(c cut, name string, addr uint64) {
		out = append(out, placed{name: name, typ: c.typ, flags: c.flags, addr: addr})
	}
	for _, c := range cuts {
		addr, ok := uint64(0), false
		for _, n := range c.starts {
			if addr, ok = first[n]; ok {
				break
			}
		}
		stop, bounded := first[c.end]
		switch {
		case !ok && c.end == "" || c.end != "" && ok && !bounded:
			return nil, fmt.Errorf("arm64 Image: it has no symbol %v for the section %s", c.starts, c.name)
		case !ok:
			continue
		}
		add(c, c.name, addr)
		if bounded {
			c.typ = elf.SHT_PROGBITS
			add(c, c.rest, stop)
		}
	}
	slices.SortStableFunc(out, func(a, b placed) int { return cmp.Compare(a.addr, b.addr) })
	if out[0].addr != base {
		return nil, fmt.Errorf("arm64 Image: it begins with the section %s", out[0].name)
	}
	for i := range out {
		next := end
		if i+1 < len(out) {
			next = out[i+1].addr
		}
		if next < out[i].addr || next > end {
			return nil, fmt.Errorf("arm64 Image: the section %s is not in it", out[i].name)
		}
		out[i].size = next - out[i].addr
	}
	return slices.DeleteFunc(out, func(p placed) bool { return p.size == 0 }), nil
}
