package kmod

import (
	"debug/elf"
	"strings"

	"livepatch/elfpatch"
	"livepatch/elfpatch/kernel"
	"livepatch/internal/refusal"
)

// groups says into which section those are merged whose names only add that of
// the function or variable in them: the kernel keeps an entry for each section
// of a module. The first row that fits counts; what fits none keeps its name.
// The .data..NAME sections have a meaning each, and none is another's prefix.
var groups = []struct{ prefix, into string }{
	{".text.unlikely.", ".text.unlikely"},
	{".text.hot.", ".text.hot"},
	{".text..", ""}, // .text..refcount and the like
	{".text.", ".text"},
	{".data..percpu", ".data..percpu"}, // the kernel's own have finer parts, modules have one (kernel/module/main.c find_pcpusec)
	{".data..", ""},
	{".data.rel.ro.", ".data.rel.ro"},
	{".data.", ".data"},
	{".rodata.str1.", ""},
	{".rodata.cst", ""},
	{".rodata..", ""},
	{".rodata.", ".rodata"},
	{".bss..", ""},
	{".bss.", ".bss"},
}

// groupName returns the name of the section that one of a cut object is merged
// into.
func groupName(name string) string {
	for _, g := range groups {
		if !strings.HasPrefix(name, g.prefix) {
			continue
		}
		if g.into != "" {
			return g.into
		}
		return name
	}
	return name
}

// isTable tells whether the kernel reads a section entry by entry, so that
// nothing may come between those of two objects.
func isTable(m elf.Machine, name string) bool {
	row := kernel.Lookup(m, name)
	return row != nil && (len(row.Layouts) > 0 || row.Use == kernel.Unwind || row.Use == kernel.Sites)
}

// paravirtSites is a table whose entries start at multiples of 8, the last one
// cut short (arch/x86/include/asm/paravirt_types.h, 6.1).
const paravirtSites = ".parainstructions"

// formatMark is a section that is the same in every object of one kernel: a
// digest of the format of its unwind tables.
const formatMark = ".orc_header"

// placeSections appends the sections of a part to those of their groups.
func (g *merger) placeSections(part int) {
	f := g.parts[part].Cut.Object
	at := make([]placement, len(f.Sections))
	for i, s := range f.Sections {
		switch s.Type {
		case elf.SHT_NULL, elf.SHT_SYMTAB, elf.SHT_STRTAB, elf.SHT_RELA, elf.SHT_REL, elf.SHT_SYMTAB_SHNDX:
			continue
		case elf.SHT_GROUP:
			g.refuse(part, refusal.Unsupported, s.Name, "the object has a section group")
			continue
		}
		if i > 0 {
			at[i] = g.place(part, s)
		}
	}
	for i, s := range f.Sections {
		if to := at[i].sec; to != nil && s.Flags&elf.SHF_LINK_ORDER != 0 && int(s.Link) < len(at) && at[s.Link].sec != nil && to.Link == 0 {
			to.Link = uint32(at[s.Link].sec.Index)
		}
	}
	g.placed = append(g.placed, at)
}

// The limits of what is merged: far beyond what a patch needs, and well below
// what a hostile object could ask for with a few bytes.
const (
	maxAlign = 1 << 16
	maxSize  = 1 << 28
)

// place appends one section to that of its group.
func (g *merger) place(part int, s *elfpatch.Section) placement {
	name := groupName(s.Name)
	if s.Align > maxAlign || s.Size > maxSize || g.groups[name] != nil && g.groups[name].Size > maxSize {
		g.refuse(part, refusal.Unsupported, s.Name, "%d bytes, aligned to %d, are more than a patch can have", s.Size, s.Align)
		return placement{}
	}
	to := g.groups[name]
	if to == nil {
		c := *s
		c.Name, c.Addr, c.Offset, c.Link, c.Info = name, 0, 0, 0, 0
		c.Flags &^= elf.SHF_GROUP | elf.SHF_INFO_LINK
		c.Align = max(s.Align, 1)
		if s.Type != elf.SHT_NOBITS {
			c.Data = append([]byte{}, s.Data...)
		}
		g.groups[name] = g.out.AddSection(c)
		return placement{g.groups[name], 0}
	}
	if name == formatMark {
		if string(to.Data) != string(s.Data) {
			g.refuse(part, refusal.ObjectsUnrelated, s.Name, "the objects have unwind tables of different formats")
		}
		return placement{to, 0}
	}
	const same = elf.SHF_ALLOC | elf.SHF_EXECINSTR | elf.SHF_TLS
	if to.Flags&same != s.Flags&same {
		g.refuse(part, refusal.Unsupported, s.Name, "another object has a section of this name with other flags")
		return placement{}
	}
	if to.EntSize != s.EntSize || (to.Flags^s.Flags)&(elf.SHF_MERGE|elf.SHF_STRINGS) != 0 {
		to.EntSize = 0
		to.Flags &^= elf.SHF_MERGE | elf.SHF_STRINGS
	}
	to.Flags |= s.Flags & elf.SHF_WRITE
	off := g.alignIn(to, s)
	to.Align = max(to.Align, s.Align)
	switch {
	case to.Type == elf.SHT_NOBITS && s.Type == elf.SHT_NOBITS:
		to.Size = off + s.Size
		return placement{to, off}
	case to.Type == elf.SHT_NOBITS:
		to.Type, to.Data = s.Type, make([]byte, to.Size)
	}
	g.pad(to, off)
	if s.Type == elf.SHT_NOBITS {
		to.Data = append(to.Data, make([]byte, s.Size)...)
	} else {
		to.Data = append(to.Data, s.Data...)
	}
	to.Size = uint64(len(to.Data))
	return placement{to, off}
}

// alignIn returns the place for the contents of s at the end of to.
func (g *merger) alignIn(to, s *elfpatch.Section) uint64 {
	align := max(s.Align, 1)
	if to.Name == paravirtSites {
		align = 8
	} else if isTable(g.m, to.Name) {
		align = 1
	}
	return (to.Size + align - 1) / align * align
}

// pad fills a section up to a length, code with instructions that do nothing.
func (g *merger) pad(to *elfpatch.Section, size uint64) {
	n := int(size) - len(to.Data)
	if to.Flags&elf.SHF_EXECINSTR != 0 {
		nops := machines[g.m].nops(n)
		to.Data = append(append(to.Data, make([]byte, n-len(nops))...), nops...)
		return
	}
	to.Data = append(to.Data, make([]byte, n)...)
}
