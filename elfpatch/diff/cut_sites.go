package diff

import (
	"bytes"
	"debug/elf"
	"slices"
	"strings"

	"livepatch/elfpatch"
	"livepatch/internal/refusal"
)

// sites lists the patch sites of the functions of the patch, so that they can
// be traced, and patched again. x86-64 lists the calls of __fentry__; its lists
// of patchable entries only say where the padding is.
func (b *tableMaker) sites() {
	if b.u.s.f.Machine == elf.EM_AARCH64 {
		b.entrySites()
	}
	b.callSites()
}

// entrySites keeps the places of arm64's patchable entries, in a section for
// each function where the object has it so.
func (b *tableMaker) entrySites() {
	for _, sec := range b.tablesNamed(pfeSection) {
		rels, ok := b.words(sec, 8)
		if !ok {
			continue
		}
		for _, r := range rels {
			p, _ := b.u.target(r)
			if p == nil || p.kind != function || !b.u.k.isIncluded(p) {
				continue
			}
			rel, ok := b.convert(r, r.Offset)
			if !ok {
				continue
			}
			out := b.u.sectionLike(sec, sec.Name)
			if sec.Flags&elf.SHF_LINK_ORDER != 0 {
				out.Flags |= elf.SHF_LINK_ORDER
				out.Link = uint32(b.u.k.places[p].sec.Index)
			}
			b.put(out, []tableRow{{make([]byte, 8), []elfpatch.Rela{rel}}})
		}
	}
}

// callSites keeps the places of calls of __fentry__ (or _mcount), and adds
// those that the object does not list: objtool or an old recordmcount would
// have done so for sections that it knew.
func (b *tableMaker) callSites() {
	listed := map[*piece]bool{}
	like := elfpatch.Section{Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC, Align: 8}
	var rows []tableRow
	for _, sec := range b.tablesNamed(mcountSection) {
		rels, ok := b.words(sec, 8)
		if !ok {
			continue
		}
		like = b.u.sectionLike(sec, sec.Name)
		for _, r := range rels {
			p, _ := b.u.target(r)
			if p == nil || p.kind != function || !b.u.k.isIncluded(p) {
				continue
			}
			if rel, ok := b.convert(r, r.Offset); ok {
				listed[p] = true
				rows = append(rows, tableRow{make([]byte, 8), []elfpatch.Rela{rel}})
			}
		}
	}
	for _, p := range b.u.k.order {
		if p.kind != function || p.prefix || listed[p] || b.u.s.f.Machine != elf.EM_X86_64 {
			continue
		}
		if off, ok := b.fentryCall(p); ok {
			rel := elfpatch.Rela{Type: uint32(elf.R_X86_64_64), Addend: b.moved(p, off)}
			b.u.k.bind(&rel, &ref{}, p)
			rows = append(rows, tableRow{make([]byte, 8), []elfpatch.Rela{rel}})
		}
	}
	like.Name = mcountSection
	b.put(like, rows)
}

// lastFentry is how far into a function its call of __fentry__ may have its
// field: behind endbr64 and the opcode.
const lastFentry = 5

// fentryCall finds the call of __fentry__ that a function starts with. Where an
// old recordmcount made it a NOP, because it did not list the section, it
// becomes a call again, which the kernel expects to find.
func (b *tableMaker) fentryCall(p *piece) (off int64, ok bool) {
	k := slices.IndexFunc(p.refs, func(r ref) bool {
		return r.to == nil && r.sym != 0 && b.u.s.f.Symbols[r.sym].Name == "__fentry__"
	})
	if k < 0 || p.refs[k].off < 1 || p.refs[k].off > lastFentry {
		return 0, false
	}
	at := b.u.k.places[p]
	field := at.off + uint64(b.moved(p, int64(p.refs[k].off)))
	if p.refs[k].typ == uint32(elf.R_X86_64_NONE) && field+4 <= uint64(len(at.sec.Data)) {
		copy(at.sec.Data[field-1:], []byte{0xe8, 0, 0, 0, 0}) // call __fentry__
		for i, r := range b.rels[at.sec] {
			if r.Offset == field && r.Type == uint32(elf.R_X86_64_NONE) {
				b.rels[at.sec][i].Type, b.rels[at.sec][i].Addend = uint32(elf.R_X86_64_PC32), -4
			}
		}
	}
	return int64(p.refs[k].off) - 1, true
}

// needless are notes that objtool does not read, or that it makes itself.
var needless = []string{".discard.addressable", ".discard.ksym", ".discard.sym_checksum", ".discard.klp"}

// notes keeps the notes for objtool about the code of the patch, where objtool
// has yet to run.
func (b *tableMaker) notes() {
	if !b.u.raw {
		return
	}
	for _, sec := range b.u.s.f.Sections {
		if !strings.HasPrefix(sec.Name, ".discard") || sec.Type == elf.SHT_RELA || sec.Type == elf.SHT_NOBITS ||
			slices.ContainsFunc(needless, func(name string) bool { return strings.HasPrefix(sec.Name, name) }) {
			continue
		}
		rels, ok := b.relocationsOf(sec)
		if !ok || len(rels) == 0 {
			continue
		}
		stride, ok := strideOf(sec, rels)
		if !ok {
			b.u.refuse(refusal.SpecialSection, sec.Name, "%d bytes and %d relocations are no table of equal entries", sec.Size, len(rels))
			continue
		}
		b.put(b.u.sectionLike(sec, sec.Name), b.keptNotes(sec, rels, stride))
	}
	b.keepLandingPads()
}

// keepLandingPads notes that the endbr64 of callbacks and replacements are
// needed: their addresses go into structures that are added behind objtool,
// which would take the instructions for needless and have them removed at boot
// (include/asm-generic: IBT_NOSEAL, 5.18).
func (b *tableMaker) keepLandingPads() {
	const name = ".discard.ibt_endbr_noseal"
	var rows []tableRow
	for _, p := range b.u.k.order {
		at := b.u.k.places[p]
		called := slices.ContainsFunc(b.u.callbacks, func(c requested) bool { return c.fn == p })
		if p.kind != function || p.parent != nil || p.twin == nil && !called || !bytes.HasPrefix(at.sec.Data[at.off:], endbr64) {
			continue
		}
		rel := elfpatch.Rela{Type: uint32(elf.R_X86_64_64)}
		b.u.k.bind(&rel, &ref{}, p)
		rows = append(rows, tableRow{make([]byte, 8), []elfpatch.Rela{rel}})
	}
	b.put(elfpatch.Section{Name: name, Type: elf.SHT_PROGBITS, Align: 1}, rows)
}

var endbr64 = []byte{0xf3, 0x0f, 0x1e, 0xfa}

// keptNotes are the entries, of a size, about the code of the patch.
func (b *tableMaker) keptNotes(sec *elfpatch.Section, rels []elfpatch.Rela, stride uint64) []tableRow {
	var rows []tableRow
	for _, r := range rels {
		if p, _ := b.u.target(r); p == nil || !b.u.k.isIncluded(p) {
			continue
		}
		if rel, ok := b.convert(r, r.Offset); ok {
			rows = append(rows, tableRow{sec.Data[r.Offset:][:stride], []elfpatch.Rela{rel}})
		}
	}
	return rows
}

// strideOf finds the size of the entries of a table of notes, of which each has
// one relocation, at its start.
func strideOf(sec *elfpatch.Section, rels []elfpatch.Rela) (uint64, bool) {
	n := uint64(len(rels))
	stride := sec.Size / n
	ok := sec.Size%n == 0 && (sec.EntSize <= 1 || sec.EntSize == stride)
	for i, r := range rels {
		ok = ok && r.Offset == uint64(i)*stride && r.Type == rels[0].Type
	}
	return stride, ok && stride > 0
}
