package modcheck

import (
	"bytes"
	"debug/elf"
	"fmt"

	"livepatch/elfpatch"
	"livepatch/elfpatch/kernel"
	"livepatch/internal/refusal"
)

// layoutOf tells the form of a table's entries: that of the target's structure
// if its size is known, else the one that the relocations fit. nil if there is none.
func (m *module) layoutOf(s *elfpatch.Section, row *kernel.Section, size uint64) *kernel.Layout {
	var at []uint64
	for _, r := range m.refs[s.Index] {
		if r.Type != 0 {
			at = append(at, r.Offset)
		}
	}
	entry := s.EntSize
	if size != 0 {
		entry = size
	}
	l, err := kernel.Split(row, s.Size, entry, at)
	if err != nil {
		return nil
	}
	return l
}

// checkTables asks of every entry of a special section whether it is whole and
// leads to an instruction of the kind that it is about.
func (c *checker) checkTables() {
	for _, s := range c.f.Sections {
		row := kernel.Lookup(c.f.Machine, s.Name)
		if s.Size == 0 || row == nil || len(row.Layouts) == 0 || row.Use != kernel.Entries && row.Use != kernel.Sites && row.Use != kernel.Unwind {
			continue
		}
		if s.Flags&elf.SHF_ALLOC == 0 {
			// The kernel finds tables by name, and relocates only what is loaded.
			c.refuse(refusal.TableEntry, whatTable, s.Name, "the table is not loaded, so its entries are never relocated")
			continue
		}
		c.checkTable(s, row)
	}
}

func (c *checker) checkTable(s *elfpatch.Section, row *kernel.Section) {
	before := c.refusals(whatTable)
	size := c.target.entrySize[s.Name]
	l := c.layoutOf(s, row, size)
	if l == nil {
		if size != 0 {
			c.refuse(refusal.TableEntry, whatTable, s.Name, "%d bytes and their relocations are no table of entries of %d bytes, which the kernel has", s.Size, size)
		} else {
			c.refuse(refusal.TableEntry, whatTable, s.Name, "%d bytes and their relocations fit no known form of entries", s.Size)
		}
		return
	}
	for off := uint64(0); off < s.Size; off += l.Size {
		c.checkRow(s, l, off)
	}
	if c.refusals(whatTable) == before {
		c.ok(whatTable, s.Name, "%s of %d bytes", entries(l.Count(s.Size)), l.Size)
	}
}

func entries(n int) string {
	if n == 1 {
		return "1 entry"
	}
	return fmt.Sprintf("%d entries", n)
}

// checkRow checks one entry; that it has its relocations is known.
func (c *checker) checkRow(s *elfpatch.Section, l *kernel.Layout, off uint64) {
	where := offsetName(s.Name, off)
	bad := func(format string, args ...any) { c.refuse(refusal.TableEntry, whatTable, where, format, args...) }
	number := func(kind kernel.FieldKind) uint64 {
		f, ok := l.Field(kind)
		b := c.bytes(place{s.Index, off + uint64(f.Off)}, uint64(f.Size))
		if !ok || len(b) == 0 {
			return 0
		}
		return uint64(b[0])
	}
	for _, f := range l.Fields {
		if !f.Kind.IsRef() {
			continue
		}
		r, ok := c.at(place{s.Index, off + uint64(f.Off)})
		if !ok {
			continue // optional
		}
		to, inside := c.to(r)
		switch f.Kind {
		case kernel.FieldCode:
			if !inside || !executable(c.section(to.sec)) {
				bad("it leads to %s, not to code of the module", c.refName(r))
			} else if text := c.wrongCode(s.Name, l, to, number(kernel.FieldCodeLen)); text != "" {
				bad("it leads to %s, %s", c.name(to), text)
			}
		case kernel.FieldTarget:
			if !inside || !executable(c.section(to.sec)) || !c.text[to.sec].bounds(to.off) {
				bad("its target %s is no instruction of the module", c.refName(r))
			}
		case kernel.FieldReplacement:
			c.checkReplacement(bad, r, to, [2]uint64{number(kernel.FieldCodeLen), number(kernel.FieldReplLen)})
		case kernel.FieldString:
			if inside && c.f.Machine == elf.EM_X86_64 && s.Name == "__bug_table" {
				if _, ok := c.str(to); !ok {
					bad("%s is no string", c.refName(r))
				}
			}
		}
	}
}

func (c *checker) checkReplacement(bad func(string, ...any), r ref, to place, lengths [2]uint64) {
	sec := c.section(to.sec)
	if lengths[1] == 0 {
		return // nothing is copied; the field may lead anywhere, or to a callback
	}
	switch {
	case sec == nil || !executable(sec):
		bad("its replacement %s is no code of the module", c.refName(r))
	case to.off > sec.Size || lengths[1] > sec.Size-to.off:
		bad("its replacement at %s has no %d bytes", c.name(to), lengths[1])
	case lengths[1] > lengths[0]:
		bad("the replacement has %d bytes, the code %d", lengths[1], lengths[0])
	case !c.text[sec.Index].begins(to.off) || !c.text[sec.Index].bounds(to.off+lengths[1]):
		bad("its replacement at %s is not made of whole instructions", c.name(to))
	}
}

// refName says what a relocation refers to.
func (c *checker) refName(r ref) string {
	if to, ok := c.to(r); ok {
		return c.name(to)
	}
	if s, ok := c.symbol(r.Symbol); ok && s.Name != "" {
		return s.Name
	}
	return "nowhere"
}

// wrongCode says why a place cannot be what an entry of a table is about; "" if
// it can. size is the length that the entry gives, or 0.
func (c *checker) wrongCode(table string, l *kernel.Layout, at place, size uint64) string {
	t := c.text[at.sec]
	if table == ".orc_unwind_ip" {
		return ""
	}
	if !t.begins(at.off) {
		return "where no instruction begins"
	}
	if size > 0 && !t.bounds(at.off+size) {
		return "and its end cuts an instruction"
	}
	in, b, ok := c.instruction(at)
	if !ok {
		return "which is no instruction"
	}
	want := codeOf(c.f.Machine, table)
	if table == "__bug_table" && l.Size == formatBug {
		want = nil
	}
	if want == nil || want.is(b) || (table == "__jump_table" && in.Nop) {
		return ""
	}
	return "which is no " + want.what
}

// formatBug is the size of entries with a format. The code of a WARN with one loads the address
// of the entry and calls a static call; the entry leads between the two
// (arch/x86/include/asm/bug.h, 6.19).
const formatBug = 16

// A codeRule says what instruction the entries of a table are about.
type codeRule struct {
	table, what string
	is          func(b []byte) bool // bytes of the instruction
}

// codeOf returns the rule of a table, nil if any instruction will do.
func codeOf(m elf.Machine, table string) *codeRule {
	rules := x86Code
	if m == elf.EM_AARCH64 {
		rules = arm64Code
	}
	for i := range rules {
		if rules[i].table == table {
			return &rules[i]
		}
	}
	return nil
}

// x86Code is what arch/x86/kernel/alternative.c, static_call.c, jump_label.c and traps.c of
// 6.12 expect; "cs" prefixes pad branches (tools/objtool/check.c).
var x86Code = []codeRule{
	{"__bug_table", "ud2 or ud1", func(b []byte) bool {
		b = bytes.TrimLeft(b, "\x66\x67\x2e\x48\x40")
		return bytes.HasPrefix(b, []byte{0x0f, 0x0b}) || bytes.HasPrefix(b, []byte{0x0f, 0xb9})
	}},
	{".static_call_sites", "call, jump or return", func(b []byte) bool { return len(b) >= 5 && isBranch(b) }},
	{".retpoline_sites", "call or jump", func(b []byte) bool { return isBranch(bytes.TrimLeft(b, "\x2e")) }},
	{".return_sites", "jump", func(b []byte) bool { return b[0] == 0xe9 || len(b) == 6 && b[0] == 0x0f && b[1]&0xf0 == 0x80 }},
	{".call_sites", "call", func(b []byte) bool { return b[0] == 0xe8 }},
	{".ibt_endbr_seal", "endbr64", func(b []byte) bool { return bytes.Equal(b, endbr64) }},
	{".smp_locks", "instruction with a lock prefix", func(b []byte) bool { b = bytes.TrimLeft(b, "\x66"); return b[0] == 0xf0 || b[0] == 0x3e }},
	{".kcfi_traps", "ud2", func(b []byte) bool { return bytes.Equal(b, []byte{0x0f, 0x0b}) }},
	{"__kcfi_traps", "ud2", func(b []byte) bool { return bytes.Equal(b, []byte{0x0f, 0x0b}) }},
	{".cfi_sites", "mov $hash,%eax", func(b []byte) bool { return len(b) == 5 && b[0] == 0xb8 }},
	{"__jump_table", "jump or NOP", func(b []byte) bool { return b[0] == 0xeb || b[0] == 0xe9 }},
	{"__mcount_loc", "call of __fentry__", func(b []byte) bool { return b[0] == 0xe8 || bytes.Equal(b, []byte{0x0f, 0x1f, 0x44, 0, 0}) }},
	{"__patchable_function_entries", "NOP", func(b []byte) bool { return b[0] == 0x90 || bytes.HasPrefix(b, []byte{0x0f, 0x1f}) }},
}

// isBranch: call, jmp, or a conditional jump of six bytes.
func isBranch(b []byte) bool {
	return len(b) > 0 && (b[0] == 0xe8 || b[0] == 0xe9) || len(b) == 6 && b[0] == 0x0f && b[1]&0xf0 == 0x80
}

// arm64Code: arch/arm64/include/asm/bug.h, jump_label.h and
// arch/arm64/kernel/ftrace.c of 6.12.
var arm64Code = []codeRule{
	{"__bug_table", "brk", func(b []byte) bool { return le.Uint32(b)&0xffe0001f == 0xd4200000 }},
	{"__jump_table", "b or nop", func(b []byte) bool { return le.Uint32(b)&0xfc000000 == 0x14000000 || le.Uint32(b) == arm64Nop }},
	{"__patchable_function_entries", "nop", func(b []byte) bool { return le.Uint32(b) == arm64Nop }},
}

const arm64Nop = 0xd503201f
