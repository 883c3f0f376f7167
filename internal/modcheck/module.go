// Package modcheck audits livepatch modules, whoever built them: it reads what
// a module would make the kernel do, and asks, without loading it, every
// question that the kernel's loader and livepatch core would ask, and those
// that they do not ask though the answer decides whether the patch is safe.
// docs/verify-modules.md lists the checks.
package modcheck

import (
	"cmp"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"livepatch/elfpatch"
	"livepatch/internal/kimage"
)

var le = binary.LittleEndian

const (
	shnLivepatch = 0xff20 - 0x10000            // include/uapi/linux/elf.h: SHN_LIVEPATCH
	shfLivepatch = elf.SectionFlag(0x00100000) // include/uapi/linux/elf.h: SHF_RELA_LIVEPATCH
	thisModule   = ".gnu.linkonce.this_module" // holds struct module
	relaSize     = 24                          // Elf64_Rela
	maxModule    = 1 << 27                     // bytes of a module that is unpacked here
	sectionLimit = int(elf.SHN_LORESERVE)      // e_shnum is 16 bits wide for the module loader
	klpRela      = ".klp.rela."                // Documentation/livepatch/module-elf-format.rst
	klpSym       = ".klp.sym."                 // the same
	vmlinux      = "vmlinux"
	initPrefix   = ".init"
)

// module is a module file with the indices that the checks need.
type module struct {
	f     *elfpatch.File
	info  []Modinfo
	relas []*relaSection
	refs  map[int][]ref      // by section: what relocations put where, by offset
	funcs map[int][]function // by section: STT_FUNC symbols, by start
}

// relaSection is a section of relocations.
type relaSection struct {
	sec     *elfpatch.Section
	target  *elfpatch.Section // nil if sh_info names none
	klp     bool              // has SHF_RELA_LIVEPATCH, or the name of such a section
	entries []elfpatch.Rela
}

// ref is one relocation that applies to a section.
type ref struct {
	elfpatch.Rela
	from *relaSection
}

// place is a byte of the module.
type place struct {
	sec int
	off uint64
}

// function is a STT_FUNC symbol that the module defines.
type function struct {
	name       string
	sec        int
	start, end uint64
}

func (f function) contains(off uint64) bool { return off >= f.start && off < f.end }

// open reads a module, compressed or not.
func open(b []byte) (*module, error) {
	b, err := kimage.Unpack(b)
	if err != nil {
		return nil, err
	}
	if len(b) > maxModule {
		return nil, fmt.Errorf("%d bytes are too many for a module", len(b))
	}
	f, err := elfpatch.Parse(b)
	if err != nil {
		return nil, err
	}
	if f.Type != elf.ET_REL {
		return nil, &elfpatch.FormatError{Where: "file header", Text: fmt.Sprintf("type %v, modules are relocatable", f.Type)}
	}
	m := &module{f: f, refs: map[int][]ref{}, funcs: map[int][]function{}}
	if s := f.Section(".modinfo"); s != nil {
		m.info = parseModinfo(s.Data)
	}
	m.readRelocations()
	m.readFunctions()
	return m, nil
}

// readRelocations does not use File.Relocations: that is strict about what it
// takes for relocations, and a wrong flag is to be reported, not skipped.
func (m *module) readRelocations() {
	for _, s := range m.f.Sections {
		if s.Type != elf.SHT_RELA && s.Flags&shfLivepatch == 0 && !strings.HasPrefix(s.Name, klpRela) {
			continue
		}
		r := &relaSection{sec: s, klp: s.Flags&shfLivepatch != 0 || strings.HasPrefix(s.Name, klpRela)}
		if s.Info > 0 && int64(s.Info) < int64(len(m.f.Sections)) {
			r.target = m.f.Sections[s.Info]
		}
		if s.Type == elf.SHT_RELA {
			r.entries = decodeRela(s.Data)
		}
		m.relas = append(m.relas, r)
		if r.target == nil {
			continue
		}
		for _, e := range r.entries {
			m.refs[r.target.Index] = append(m.refs[r.target.Index], ref{e, r})
		}
	}
	for _, list := range m.refs {
		slices.SortStableFunc(list, func(a, b ref) int { return cmp.Compare(a.Offset, b.Offset) })
	}
}

func decodeRela(b []byte) []elfpatch.Rela {
	list := make([]elfpatch.Rela, len(b)/relaSize)
	for i := range list {
		e := b[i*relaSize:]
		list[i] = elfpatch.Rela{Offset: le.Uint64(e), Type: le.Uint32(e[8:]), Symbol: le.Uint32(e[12:]), Addend: int64(le.Uint64(e[16:]))}
	}
	return list
}

func (m *module) readFunctions() {
	for i, s := range m.f.Symbols {
		sec := m.section(s.Section)
		if i == 0 || s.Type != elf.STT_FUNC || sec == nil || s.Value > sec.Size {
			continue
		}
		m.funcs[sec.Index] = append(m.funcs[sec.Index], function{s.Name, sec.Index, s.Value, s.Value + min(s.Size, sec.Size-s.Value)})
	}
	for i, list := range m.funcs {
		slices.SortStableFunc(list, func(a, b function) int { return cmp.Compare(a.start, b.start) })
		// Without a size, a function goes on to the next.
		next := m.f.Sections[i].Size
		for k := len(list) - 1; k >= 0; k-- {
			if list[k].end == list[k].start {
				list[k].end = next
			}
			if k > 0 && list[k].start > list[k-1].start {
				next = list[k].start
			}
		}
	}
}

// section returns the section of an index that a symbol or place has, nil if
// there is none.
func (m *module) section(i int) *elfpatch.Section {
	if i <= 0 || i >= len(m.f.Sections) {
		return nil
	}
	return m.f.Sections[i]
}

// symbol returns a symbol by index.
func (m *module) symbol(i uint32) (*elfpatch.Symbol, bool) {
	if int64(i) >= int64(len(m.f.Symbols)) {
		return nil, false
	}
	return &m.f.Symbols[i], true
}

// at returns the relocation of a field, if one begins exactly there.
// Relocations that write nothing are no answer.
func (m *module) at(p place) (ref, bool) {
	list := m.refs[p.sec]
	i, _ := slices.BinarySearchFunc(list, p.off, func(r ref, off uint64) int { return cmp.Compare(r.Offset, off) })
	for ; i < len(list) && list[i].Offset == p.off; i++ {
		if list[i].Type != 0 {
			return list[i], true
		}
	}
	return ref{}, false
}

// within returns the relocations that begin in a range.
func (m *module) within(p place, size uint64) []ref {
	list := m.refs[p.sec]
	find := func(off uint64) int {
		i, _ := slices.BinarySearchFunc(list, off, func(r ref, off uint64) int { return cmp.Compare(r.Offset, off) })
		return i
	}
	end := p.off + size
	if end < p.off {
		end = ^uint64(0)
	}
	return list[find(p.off):find(end)]
}

// to returns what a relocation refers to: symbol plus addend, in the module.
func (m *module) to(r ref) (place, bool) {
	s, ok := m.symbol(r.Symbol)
	if !ok || m.section(s.Section) == nil {
		return place{}, false
	}
	return place{s.Section, s.Value + uint64(r.Addend)}, true
}

// pointer follows the 8-byte pointer at a place.
func (m *module) pointer(p place) (place, bool) {
	r, ok := m.at(p)
	if !ok || r.Type != abs64(m.f.Machine) {
		return place{}, false
	}
	return m.to(r)
}

// bytes returns the bytes of a field, nil if they are not in the file.
func (m *module) bytes(p place, size uint64) []byte {
	s := m.section(p.sec)
	if s == nil || p.off > s.Size || size > s.Size-p.off {
		return nil
	}
	if s.Type == elf.SHT_NOBITS {
		if size > 1<<16 {
			return nil
		}
		return make([]byte, size)
	}
	if p.off+size > uint64(len(s.Data)) {
		return nil // SHT_NULL
	}
	return s.Data[p.off : p.off+size]
}

// str returns the NUL-terminated string at a place.
func (m *module) str(p place) (string, bool) {
	s := m.section(p.sec)
	if s == nil || s.Type == elf.SHT_NOBITS || p.off >= uint64(len(s.Data)) {
		return "", false
	}
	return cstring(s.Data[p.off:])
}

func cstring(b []byte) (string, bool) {
	const longest = 4096
	for i, c := range b[:min(len(b), longest)] {
		if c == 0 {
			return string(b[:i]), true
		}
	}
	return "", false
}

// functionsAt returns the functions that begin at a place.
func (m *module) functionsAt(p place) []function {
	list := m.funcs[p.sec]
	i, _ := slices.BinarySearchFunc(list, p.off, func(f function, off uint64) int { return cmp.Compare(f.start, off) })
	j := i
	for j < len(list) && list[j].start == p.off {
		j++
	}
	return list[i:j]
}

// functionOf returns the function that a place is in: the one that begins last.
func (m *module) functionOf(p place) (function, bool) {
	list := m.funcs[p.sec]
	i, found := slices.BinarySearchFunc(list, p.off, func(f function, off uint64) int { return cmp.Compare(f.start, off) })
	if found {
		return list[i], true
	}
	if i > 0 && list[i-1].contains(p.off) {
		return list[i-1], true
	}
	return function{}, false
}

// name says where a place is, for readers: "function+0x12" or "section+0x12".
func (m *module) name(p place) string {
	if f, ok := m.functionOf(p); ok {
		return offsetName(f.name, p.off-f.start)
	}
	if s := m.section(p.sec); s != nil {
		return offsetName(s.Name, p.off)
	}
	return "nowhere"
}

func offsetName(name string, off uint64) string {
	if off == 0 {
		return name
	}
	return fmt.Sprintf("%s+%#x", name, off)
}

func executable(s *elfpatch.Section) bool {
	const both = elf.SHF_ALLOC | elf.SHF_EXECINSTR
	return s != nil && s.Flags&both == both
}

// freed reports a section whose memory the kernel gives back after init:
// kernel/module/main.c, module_init_section.
func freed(s *elfpatch.Section) bool { return strings.HasPrefix(s.Name, initPrefix) }

// abs64 is the relocation of a pointer.
func abs64(m elf.Machine) uint32 {
	if m == elf.EM_AARCH64 {
		return uint32(elf.R_AARCH64_ABS64)
	}
	return uint32(elf.R_X86_64_64)
}

// Modinfo is one "key=value" of .modinfo.
type Modinfo struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

func parseModinfo(b []byte) []Modinfo {
	var list []Modinfo
	for _, s := range strings.Split(string(b), "\x00") {
		if key, value, ok := strings.Cut(s, "="); ok {
			list = append(list, Modinfo{key, value})
		}
	}
	return list
}

// tag returns the first value of a key, as the kernel does.
func (m *module) tag(key string) (string, bool) {
	for _, i := range m.info {
		if i.Key == key {
			return i.Value, true
		}
	}
	return "", false
}

func (m *module) tags(key string) []string {
	var list []string
	for _, i := range m.info {
		if i.Key == key {
			list = append(list, i.Value)
		}
	}
	return list
}
