package fentry

import (
	"cmp"
	"debug/elf"
	"fmt"
	"slices"
	"sort"
	"strings"

	"livepatch/elfpatch"
)

// text is one run of executable bytes: a section, or a segment of a file
// without section headers.
type text struct {
	name    string
	section int    // index in File.Sections, 0 for a segment
	addr    uint64 // of the first byte; 0 in ET_REL
	offset  uint64 // in the file
	bytes   []byte
	stubs   bool            // a procedure linkage table, or data of a kernel: code, but no functions
	relocs  []elfpatch.Rela // ET_REL: sorted by offset
	data    []span          // parts that mapping symbols call data
	starts  []Start         // sorted by address
	ends    []int           // where all functions up to the same index have ended
	near    bitmap          // the first bytes of functions, where a branch may matter
}

// span is a range of offsets in a text.
type span struct{ from, to int }

// place is an address in a text.
type place struct {
	text int // index in Finder.texts
	off  int // from the first byte of the text
}

func malformed(where, format string, args ...any) error {
	return &elfpatch.FormatError{Where: where, Text: fmt.Sprintf(format, args...)}
}

// readTexts collects the executable bytes of the file.
func (fd *Finder) readTexts() error {
	for _, s := range fd.file.Sections {
		if s.Flags&elf.SHF_EXECINSTR != 0 && s.Flags&elf.SHF_ALLOC != 0 && s.Type == elf.SHT_PROGBITS && len(s.Data) > 0 {
			fd.texts = append(fd.texts, text{
				name: s.Name, section: s.Index, addr: s.Addr, offset: s.Offset, bytes: s.Data,
				stubs: isStubs(s.Name) || fd.isExecutableData(s),
			})
		}
	}
	if len(fd.file.Sections) == 0 {
		for _, p := range fd.file.Segments {
			if p.Type != elf.PT_LOAD || p.Flags&elf.PF_X == 0 || p.FileSize == 0 {
				continue
			}
			if b, ok := fd.file.ReadAddr(p.VAddr, int(p.FileSize)); ok {
				fd.texts = append(fd.texts, text{addr: p.VAddr, offset: p.Offset, bytes: b})
			}
		}
	}
	if fd.file.Type == elf.ET_REL {
		for i := range fd.texts {
			fd.texts[i].addr = 0
		}
	}
	return fd.checkTexts()
}

// isStubs recognises the sections that linkers fill with jumps to other
// libraries.
func isStubs(name string) bool {
	return name == ".plt" || name == ".iplt" || strings.HasPrefix(name, ".plt.")
}

// isExecutableData recognises the data of a kernel that is executable, since
// some code is in it (7.2): its symbols name variables, as far as kallsyms can
// tell.
func (fd *Finder) isExecutableData(s *elfpatch.Section) bool {
	return fd.kernel != nil && fd.kernel.image && s.Flags&elf.SHF_WRITE != 0
}

// checkTexts refuses texts that share bytes of the file or addresses: no
// linker makes them, and reading the same bytes again for each of many section
// headers would take time out of proportion to the file.
func (fd *Finder) checkTexts() error {
	byOffset := make([]int, len(fd.texts))
	for i := range byOffset {
		byOffset[i] = i
	}
	slices.SortFunc(byOffset, func(a, b int) int { return cmp.Compare(fd.texts[a].offset, fd.texts[b].offset) })
	for n := 1; n < len(byOffset); n++ {
		a, b := &fd.texts[byOffset[n-1]], &fd.texts[byOffset[n]]
		if b.offset-a.offset < uint64(len(a.bytes)) && !fd.edited() {
			return malformed(b.where(), "its contents overlap those of %s", a.where())
		}
	}
	if fd.file.Type == elf.ET_REL {
		return nil
	}
	slices.SortStableFunc(fd.texts, func(a, b text) int { return cmp.Compare(a.addr, b.addr) })
	for i := range fd.texts {
		t := &fd.texts[i]
		if t.addr+uint64(len(t.bytes)) < t.addr {
			return malformed(t.where(), "it exceeds the address space")
		}
		if i > 0 && t.addr-fd.texts[i-1].addr < uint64(len(fd.texts[i-1].bytes)) {
			return malformed(t.where(), "its addresses overlap those of %s", fd.texts[i-1].where())
		}
	}
	return nil
}

// edited says whether sections were made rather than read: those have no
// offsets yet.
func (fd *Finder) edited() bool {
	for i := range fd.texts {
		if fd.texts[i].offset != 0 {
			return false
		}
	}
	return true
}

func (t *text) where() string {
	if t.section == 0 {
		return fmt.Sprintf("executable segment at %#x", t.addr)
	}
	return "section " + t.name
}

// at returns the address of an offset.
func (t *text) at(off int) uint64 { return t.addr + uint64(off) }

// reloc returns the relocations whose offset is in [from, to).
func (t *text) reloc(from, to int) []elfpatch.Rela {
	i := sort.Search(len(t.relocs), func(i int) bool { return t.relocs[i].Offset >= uint64(from) })
	j := i
	for j < len(t.relocs) && t.relocs[j].Offset < uint64(to) {
		j++
	}
	return t.relocs[i:j]
}

// isData says whether mapping symbols call any byte of [from, to) data.
func (t *text) isData(from, to int) bool {
	i := sort.Search(len(t.data), func(i int) bool { return t.data[i].to > from })
	return i < len(t.data) && t.data[i].from < to
}

// locate finds an address of a linked file, or an offset in a section.
func (fd *Finder) locate(section int, addr uint64) (place, bool) {
	if fd.file.Type == elf.ET_REL {
		i, ok := fd.bySection[section]
		if !ok || addr >= uint64(len(fd.texts[i].bytes)) {
			return place{}, false
		}
		return place{i, int(addr)}, true
	}
	i := sort.Search(len(fd.texts), func(i int) bool { return fd.texts[i].addr > addr }) - 1
	if i < 0 || addr-fd.texts[i].addr >= uint64(len(fd.texts[i].bytes)) {
		return place{}, false
	}
	return place{i, int(addr - fd.texts[i].addr)}, true
}

// readRelocs attaches to the texts of an object their relocations.
func (fd *Finder) readRelocs() error {
	if fd.file.Type != elf.ET_REL {
		return nil
	}
	for i := range fd.texts {
		t := &fd.texts[i]
		list, err := fd.file.Relocations(fd.file.Sections[t.section])
		if err != nil {
			return err
		}
		t.relocs = slices.Clone(list)
		slices.SortStableFunc(t.relocs, func(a, b elfpatch.Rela) int { return cmp.Compare(a.Offset, b.Offset) })
	}
	return nil
}

// readMapping notes which parts of the texts mapping symbols call data (ELF for
// the Arm 64-bit architecture, 5.5.4; x86-64 has none).
func (fd *Finder) readMapping(files ...*elfpatch.File) {
	if fd.machine != elf.EM_AARCH64 {
		return
	}
	type mark struct {
		off  int
		data bool
	}
	marks := make([][]mark, len(fd.texts))
	for _, f := range files {
		for i := range f.Symbols {
			s := &f.Symbols[i]
			if s.Type != elf.STT_NOTYPE || s.Section <= 0 || len(s.Name) < 2 || s.Name[0] != '$' {
				continue
			}
			kind, _, _ := strings.Cut(s.Name, ".")
			if kind != "$d" && kind != "$x" {
				continue
			}
			if p, ok := fd.locate(s.Section, s.Value); ok {
				marks[p.text] = append(marks[p.text], mark{p.off, kind == "$d"})
			}
		}
	}
	for i, list := range marks {
		slices.SortStableFunc(list, func(a, b mark) int { return cmp.Compare(a.off, b.off) })
		t := &fd.texts[i]
		for n, m := range list {
			to := len(t.bytes)
			if n+1 < len(list) {
				to = list[n+1].off
			}
			if m.data && to > m.off {
				t.data = append(t.data, span{m.off, to})
			}
		}
	}
}
