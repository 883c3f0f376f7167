package match

import (
	"bytes"
	"cmp"
	"debug/elf"
	"encoding/binary"
	"slices"

	"livepatch/disasm"
	"livepatch/elfpatch"
	"livepatch/elfpatch/kernel"
)

// Kernels rewrite their own code: before the link (objtool makes no-ops of jumps
// that a static key disables, and of calls of __fentry__), and at boot. So the
// object of a kernel and the image may hold different bytes at places that the
// tables of the object name. What stands there is one of few forms, and those
// are all that is let through: a no-op for a jump or the other way round, of the
// same length; a no-op for a call of __fentry__. Where the image has a jump, it
// leads where the table says. Everything that a kernel rewrites at boot only
// (alternatives, static calls, retpolines, lock prefixes) is the same in the
// object and in the image's file, and is compared like all other code.

const (
	jumpTable   = "__jump_table"
	mcountTable = "__mcount_loc"
	fentryName  = "__fentry__"
)

// A site is a place in a function of the object that a table names.
type site struct {
	off    uint64 // in its section
	table  string
	sym    uint32 // of a jump: where it leads, symbol and addend
	addend int64
}

// No-ops that the kernel's tools write: arch/x86/include/asm/nops.h (6.12).
var (
	x86Nop2 = []byte{0x66, 0x90}
	x86Nop5 = []byte{0x0f, 0x1f, 0x44, 0x00, 0x00}
)

const (
	opJmpShort = 0xeb
	jmpShort   = 2 // bytes
	jmpNear    = 5
)

// readSites reads the tables of the object that name places in its code.
func (o *object) readSites() error {
	o.sites = map[int][]site{}
	for _, s := range o.f.Sections {
		if _, ok := siteKind(s.Name); !ok || s.Size == 0 {
			continue
		}
		// Where the file is compared like everywhere, an odd table costs only a count.
		if err := o.readTable(s); err != nil && comparedAtSite(s.Name) {
			return err
		}
	}
	for _, list := range o.sites {
		slices.SortFunc(list, func(a, b site) int { return cmp.Compare(a.off, b.off) })
	}
	return nil
}

func (o *object) readTable(s *elfpatch.Section) error {
	row := kernel.Lookup(o.f.Machine, s.Name)
	rels, err := o.relocations(s.Index)
	if err != nil || row == nil || len(rels) == 0 {
		return err
	}
	at := map[uint64]elfpatch.Rela{}
	offsets := make([]uint64, len(rels))
	for i, r := range rels {
		at[r.Offset], offsets[i] = r, r.Offset
	}
	l, err := kernel.Split(row, s.Size, s.EntSize, offsets)
	if err != nil {
		return &elfpatch.FormatError{Where: "section " + s.Name, Text: err.Error()}
	}
	code, _ := l.Field(kernel.FieldCode)
	target, jumps := l.Field(kernel.FieldTarget)
	for e := range uint64(l.Count(s.Size)) {
		r, ok := at[e*l.Size+uint64(code.Off)]
		sec := o.defined(int(r.Symbol))
		if !ok || sec == nil {
			continue
		}
		x := site{off: o.f.Symbols[r.Symbol].Value + uint64(r.Addend), table: s.Name}
		if t, ok := at[e*l.Size+uint64(target.Off)]; jumps && ok {
			x.sym, x.addend = t.Symbol, t.Addend
		} else if s.Name == jumpTable {
			continue
		}
		o.sites[sec.Index] = append(o.sites[sec.Index], x)
	}
	return nil
}

// findSites notes the sites inside a function, offsets from its start.
func (o *object) findSites(f *function) {
	all := o.sites[f.sec.Index]
	lo, _ := slices.BinarySearchFunc(all, f.off, func(s site, off uint64) int { return cmp.Compare(s.off, off) })
	for _, s := range all[lo:] {
		if s.off-f.off >= f.size {
			break
		}
		if !comparedAtSite(s.table) {
			k, _ := siteKind(s.table)
			f.atBoot[k]++
			continue
		}
		s.off -= f.off
		f.sites = append(f.sites, s)
	}
}

// atSite returns the span of a site whose bytes the kernel's build or boot
// changed; n is how many relocations, from i on, are in it. It is nil where the
// plain comparison applies.
func (w *window) atSite(s site, i int) *span {
	off := int(s.off)
	if w.m == elf.EM_AARCH64 {
		return w.armSite(s, i)
	}
	if s.table == mcountTable {
		return w.fentrySite(off, i)
	}
	n := jumpLen(w.old[off:])
	m := jumpLen(w.new[off:])
	if n == 0 || m != n || isNop(w.old[off:off+n]) == isNop(w.new[off:off+n]) {
		return nil
	}
	sp := &span{lo: off, hi: off + n, n: w.relsIn(i, off, off+n), kind: JumpLabel}
	if isNop(w.new[off : off+n]) {
		return sp
	}
	sp.refs = []ref{w.jumpRef(s, off, jumpTo(w.new[off:off+n], w.addr+s.off))}
	return sp
}

func (w *window) jumpRef(s site, off int, target uint64) ref {
	return ref{off: off, sym: int(s.sym), addend: s.addend, use: Address, value: target, mask: whole}
}

// relsIn counts the relocations from i on whose fields begin in [lo, hi).
func (w *window) relsIn(i, lo, hi int) int {
	n := 0
	for i+n < len(w.rels) && int(w.rels[i+n].Offset) < hi && int(w.rels[i+n].Offset) >= lo {
		n++
	}
	return n
}

// jumpLen is the length of the jump or no-op that static keys use, 0 for
// anything else.
func jumpLen(b []byte) int {
	switch {
	case bytes.HasPrefix(b, x86Nop2), len(b) >= jmpShort && b[0] == opJmpShort:
		return jmpShort
	case bytes.HasPrefix(b, x86Nop5), len(b) >= jmpNear && b[0] == opJmp:
		return jmpNear
	}
	return 0
}

func isNop(b []byte) bool { return bytes.Equal(b, x86Nop2) || bytes.Equal(b, x86Nop5) }

// jumpTo is where a jump of x86-64 leads.
func jumpTo(b []byte, pc uint64) uint64 {
	if len(b) == jmpShort {
		return pc + jmpShort + uint64(int64(int8(b[1])))
	}
	return pc + jmpNear + uint64(int64(int32(binary.LittleEndian.Uint32(b[1:]))))
}

// fentrySite is the call of __fentry__ in one of the files and a no-op in the
// other.
func (w *window) fentrySite(off, i int) *span {
	if off+jmpNear > len(w.old) || off+jmpNear > len(w.new) {
		return nil
	}
	n := w.relsIn(i, off, off+jmpNear)
	at := *w
	at.old, at.new, at.addr = w.old[off:off+jmpNear], w.new[off:off+jmpNear], w.addr+uint64(off)
	if !at.isFentry(w.rels[i : i+n]) {
		return nil
	}
	return &span{lo: off, hi: off + jmpNear, n: n, kind: FentryCall}
}

// isFentry reports a window on one instruction, with its relocations, that calls
// __fentry__ in one of the files and is a no-op in the other.
func (w *window) isFentry(rels []elfpatch.Rela) bool {
	switch {
	case w.old[0] == opCall && isNop(w.new):
		return len(rels) == 1 && w.obj.symbolName(int(rels[0].Symbol)) == fentryName
	case isNop(w.old) && w.new[0] == opCall:
		return len(rels) == 0 && w.img.isNamed(jumpTo(w.new, w.addr), fentryName)
	}
	return false
}

// armSite is a branch in one of the files and a no-op in the other.
func (w *window) armSite(s site, i int) *span {
	off := int(s.off)
	old, cur, ok := w.insns(off)
	if !ok || s.table != jumpTable {
		return nil
	}
	sp := &span{lo: off, hi: off + instSize, n: w.relsIn(i, off, off+instSize), kind: JumpLabel}
	switch {
	case cur == insnNop && old&branchMask == insnB:
		return sp
	case old == insnNop && cur&branchMask == insnB:
		sp.refs = []ref{w.jumpRef(s, off, branch26(cur, w.addr+s.off))}
		return sp
	}
	return nil
}

// isNamed reports whether the image has a symbol of a name at an address.
func (img *image) isNamed(addr uint64, name string) bool {
	return slices.ContainsFunc(img.named[name], func(n named) bool { return n.addr == addr })
}

// isKernel reports an image that is linked at addresses which programs cannot
// have.
func isKernel(f *elfpatch.File) bool {
	return slices.ContainsFunc(f.Segments, func(p elfpatch.Segment) bool { return p.Type == elf.PT_LOAD && p.VAddr >= 1<<63 })
}

// decodeX86 decodes one instruction; ok is false for bytes that are none.
func decodeX86(b []byte) (in disasm.Inst, ok bool) {
	in, err := disasm.Decode(elf.EM_X86_64, b)
	return in, err == nil && in.Len > 0
}
