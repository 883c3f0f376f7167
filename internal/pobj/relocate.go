package pobj

import (
	"debug/elf"
	"errors"
	"fmt"

	"livepatch/elfpatch"
	"livepatch/elfpatch/match"
	"livepatch/internal/refusal"
	"livepatch/manifest"
)

// work is one section of a part while its relocations become the payload's.
type work struct {
	l    *linker
	part int
	p    *Part
	sec  *elfpatch.Section
	at   spot
	rels []elfpatch.Rela
	ext  map[int]int // externals of the part by symbol

	localDynamic bool // a local-dynamic sequence before was made local-exec
}

// errMissing says that a refusal was noted.
var errMissing = errors.New("refused")

func (l *linker) relocate(part int, p *Part) error {
	ext := map[int]int{}
	for i, e := range p.Externals {
		ext[e.Symbol] = i
	}
	for _, sec := range p.Object.Sections {
		at, ok := l.places[part][sec.Index]
		if !ok {
			continue
		}
		rels, err := p.Object.Relocations(sec)
		if err != nil {
			return err
		}
		w := work{l: l, part: part, p: p, sec: sec, at: at, rels: rels, ext: ext}
		for i := 0; i < len(rels); {
			n, err := w.one(i)
			if err != nil && err != errMissing {
				return fmt.Errorf("%s: %w", w.where(rels[i].Offset), err)
			}
			i += n
		}
	}
	return nil
}

// where names a place of the section by the symbol that covers it.
func (w *work) where(off uint64) string {
	for _, s := range w.p.Object.Symbols {
		if s.Section == w.sec.Index && (s.Type == elf.STT_FUNC || s.Type == elf.STT_OBJECT) && off >= s.Value && off-s.Value < s.Size {
			return fmt.Sprintf("%s: %s+%#x", w.p.Name, s.Name, off-s.Value)
		}
	}
	return fmt.Sprintf("%s: %s+%#x", w.p.Name, w.sec.Name, off)
}

func (w *work) refuse(code refusal.Code, off uint64, format string, args ...any) error {
	w.l.refuse(code, w.where(off), format, args...)
	return errMissing
}

// emit adds a relocation of the payload for the field at off of the section.
func (w *work) emit(off uint64, typ uint32, sym int, addend int64) {
	m := &w.l.mem[w.at.area]
	m.rels = append(m.rels, elfpatch.Rela{Offset: w.at.off + off, Type: typ, Symbol: uint32(sym), Addend: addend})
}

// bytes is the payload's copy of n bytes at off of the section, nil if there
// are fewer.
func (w *work) bytes(off uint64, n int) []byte {
	if w.at.area == bss || off > w.sec.Size || uint64(n) > w.sec.Size-off {
		return nil
	}
	return w.l.mem[w.at.area].data[w.at.off+off:][:n]
}

// one translates relocation i and returns how many it stood for.
func (w *work) one(i int) (int, error) {
	r := w.rels[i]
	info, ok := elfpatch.RelocInfo(w.l.m, r.Type)
	if !ok {
		return 1, w.refuse(refusal.Unsupported, r.Offset, "relocation type %d is not known", r.Type)
	}
	if info.Size > 0 && w.bytes(r.Offset, info.Size) == nil {
		return 1, w.refuse(refusal.Unsupported, r.Offset, "the field of %s is outside its section", info.Name)
	}
	if r.Symbol == 0 {
		return w.bare(r, info)
	}
	sym := w.p.Object.Symbols[r.Symbol]
	if sym.Section != elfpatch.Undefined {
		return 1, w.toOwn(r, info, definition{w.part, w.p, int(r.Symbol)})
	}
	k, ok := w.ext[int(r.Symbol)]
	if !ok {
		return 1, w.refuse(refusal.AddressUnknown, r.Offset, "nothing is known about %s", sym.Name)
	}
	e := &w.p.Externals[k]
	if d, ok := w.l.globals[e.Name]; ok && len(e.Known) == 0 && d.part != w.part {
		return 1, w.toOwn(r, info, d)
	}
	switch info.Kind {
	case elfpatch.KindData:
		if w.isBranch(r) {
			return 1, w.toBranch(r, e, k)
		}
		return 1, w.toAddress(r, e, k)
	case elfpatch.KindBranch:
		return 1, w.toBranch(r, e, k)
	case elfpatch.KindGOT:
		return 1, w.toSlot(r, e, k)
	}
	return w.threadLocal(i, e, info)
}

// bare handles a relocation without a symbol: nothing, or a marker.
func (w *work) bare(r elfpatch.Rela, info elfpatch.Reloc) (int, error) {
	if info.Kind == elfpatch.KindNone {
		return 1, nil
	}
	return 1, w.refuse(refusal.Unsupported, r.Offset, "%s names no symbol", info.Name)
}

// toOwn handles a reference to something of the patch itself.
func (w *work) toOwn(r elfpatch.Rela, info elfpatch.Reloc, d definition) error {
	sym, delta, ok := w.l.own(d.part, d.p, d.sym)
	s := d.p.Object.Symbols[d.sym]
	switch {
	case s.Section == elfpatch.Absolute:
		sym, delta, ok = w.l.absolute(s), 0, true
	case !ok && s.Type == elf.STT_TLS:
		return errMissing // refused with its section
	case !ok:
		return w.refuse(refusal.Unsupported, r.Offset, "it refers to %s, which a payload cannot hold", w.name(int(r.Symbol)))
	}
	switch info.Kind {
	case elfpatch.KindNone:
		return nil
	case elfpatch.KindData, elfpatch.KindBranch:
		w.emit(r.Offset, r.Type, sym, r.Addend+int64(delta))
		return nil
	case elfpatch.KindGOT:
		inside := int64(0)
		if w.l.m == elf.EM_AARCH64 {
			inside, r.Addend = r.Addend, 0
		}
		slot := w.l.slot(slotKey{w.l.absType(), sym, int64(delta) + inside})
		return w.throughSlot(r, w.l.areaSym[got], int64(slot))
	}
	return w.refuse(refusal.Unsupported, r.Offset, "%s to %s cannot be linked into a payload", info.Name, w.name(int(r.Symbol)))
}

func (w *work) name(sym int) string {
	s := w.p.Object.Symbols[sym]
	if s.Name == "" && s.Section > 0 && s.Section < len(w.p.Object.Sections) {
		return w.p.Object.Sections[s.Section].Name
	}
	return s.Name
}

// isBranch reports a call or jump with the relocation type of data, as old
// assemblers for x86-64 write them.
func (w *work) isBranch(r elfpatch.Rela) bool {
	if w.l.m != elf.EM_X86_64 || r.Type != uint32(elf.R_X86_64_PC32) || w.sec.Flags&elf.SHF_EXECINSTR == 0 {
		return false
	}
	return match.IsBranchField(w.sec.Data, int(r.Offset))
}

// toAddress handles a use of an external symbol's address.
func (w *work) toAddress(r elfpatch.Rela, e *External, k int) error {
	if a, ok := e.Known[match.Address]; ok {
		w.emit(r.Offset, r.Type, w.shareAddress(e, k, a.Value), r.Addend)
		return nil
	}
	info, _ := elfpatch.RelocInfo(w.l.m, r.Type)
	if e.Dynamic && info.Size == 8 && !info.PCRel {
		w.emit(r.Offset, r.Type, w.l.importDynamic(e.Name), r.Addend)
		return nil
	}
	if s, ok := e.Known[match.Slot]; ok && w.l.m == elf.EM_X86_64 {
		if w.loadInstead(r, e, s.Value) {
			return nil
		}
	}
	if e.Dynamic || len(e.Known) > 0 {
		return w.refuse(refusal.Unsupported, r.Offset,
			"%s is in another file, and the code takes its address without the GOT (compile with -fPIC)", e.Name)
	}
	return w.unknown(r.Offset, e)
}

// loadInstead turns lea x(%rip),%r into mov slot(%rip),%r where only the GOT
// entry of x is known.
func (w *work) loadInstead(r elfpatch.Rela, e *External, slot uint64) bool {
	const lea, mov = 0x8d, 0x8b
	if r.Type != uint32(elf.R_X86_64_PC32) || r.Addend != -4 || r.Offset < 3 {
		return false
	}
	b := w.bytes(r.Offset-3, 3)
	if b == nil || b[0]&0xf8 != 0x48 || b[1] != lea || b[2]&0xc7 != 5 {
		return false
	}
	b[1] = mov
	w.emit(r.Offset, r.Type, w.l.importTarget(e.Name+"@got", slot), r.Addend)
	return true
}

func (w *work) unknown(off uint64, e *External) error {
	return w.refuse(refusal.AddressUnknown, off, "the address of %s in the target cannot be found", e.Name)
}

// shareAddress imports an address of the target under the symbol's own name.
func (w *work) shareAddress(e *External, k int, value uint64) int {
	sym := w.l.importTarget(e.Name, value)
	w.l.share(Shared{w.part, k, w.l.syms[sym].Name, value, false})
	return sym
}

// toBranch handles a call or jump. It goes where the target's own calls go.
func (w *work) toBranch(r elfpatch.Rela, e *External, k int) error {
	a, direct := e.Known[match.Address]
	b, branch := e.Known[match.Branch]
	switch {
	case branch && (!direct || a.Value != b.Value):
		w.emit(r.Offset, r.Type, w.l.importTarget(e.Name+"@plt", b.Value), r.Addend)
		return nil
	case direct:
		w.emit(r.Offset, r.Type, w.shareAddress(e, k, a.Value), r.Addend)
		return nil
	}
	var slot slotRef
	if s, ok := e.Known[match.Slot]; ok {
		slot = slotRef{w.l.importTarget(e.Name+"@got", s.Value), 0}
	} else if s, ok := e.Known[match.CallSlot]; ok {
		slot = slotRef{w.l.importTarget(e.Name+"@got", s.Value), 0}
	} else if e.Dynamic {
		slot = w.l.slotFor(w.l.absType(), w.l.importDynamic(e.Name))
	} else {
		return w.unknown(r.Offset, e)
	}
	w.emit(r.Offset, r.Type, w.l.stub(e.Name, slot), r.Addend)
	return nil
}

// toSlot handles an access through the GOT: the target's own entry if it has
// one, so that the value is what the target's code sees; else an entry of the
// payload.
func (w *work) toSlot(r elfpatch.Rela, e *External, k int) error {
	if w.l.m == elf.EM_AARCH64 && r.Addend != 0 {
		// The addend chooses an entry of its own, for a place inside the symbol.
		a, ok := e.Known[match.Address]
		if !ok {
			return w.unknown(r.Offset, e)
		}
		s := w.l.slot(slotKey{w.l.absType(), w.shareAddress(e, k, a.Value), r.Addend})
		r.Addend = 0
		return w.throughSlot(r, w.l.areaSym[got], int64(s))
	}
	if s, ok := e.Known[match.Slot]; ok {
		return w.throughSlot(r, w.l.importTarget(e.Name+"@got", s.Value), 0)
	}
	if a, ok := e.Known[match.Address]; ok {
		s := w.l.slotFor(w.l.absType(), w.shareAddress(e, k, a.Value))
		return w.throughSlot(r, s.sym, s.addend)
	}
	if s, ok := e.Known[match.CallSlot]; ok && w.isIndirectBranch(r) {
		return w.throughSlot(r, w.l.importTarget(e.Name+"@got", s.Value), 0)
	}
	if e.Dynamic {
		s := w.l.slotFor(w.l.absType(), w.l.importDynamic(e.Name))
		return w.throughSlot(r, s.sym, s.addend)
	}
	return w.unknown(r.Offset, e)
}

// isIndirectBranch reports call *x@GOTPCREL(%rip) and jmp *x@GOTPCREL(%rip).
func (w *work) isIndirectBranch(r elfpatch.Rela) bool {
	if w.l.m != elf.EM_X86_64 || r.Offset < 2 {
		return false
	}
	b := w.bytes(r.Offset-2, 2)
	return b != nil && b[0] == 0xff && (b[1] == 0x15 || b[1] == 0x25)
}

// throughSlot relocates a field that names a GOT entry to a given word.
func (w *work) throughSlot(r elfpatch.Rela, sym int, addend int64) error {
	typ, ok := directType(w.l.m, r.Type)
	if !ok {
		info, _ := elfpatch.RelocInfo(w.l.m, r.Type)
		return w.refuse(refusal.Unsupported, r.Offset, "%s cannot be linked into a payload (compile with -fPIC)", info.Name)
	}
	w.emit(r.Offset, typ, sym, r.Addend+addend)
	return nil
}

// arm64GOTPCRel32 is R_AARCH64_GOTPCREL32, which package elf does not name.
const arm64GOTPCRel32 = 315

// directType is the relocation that writes the address of a word where the
// given one writes that of the GOT entry.
func directType(m elf.Machine, typ uint32) (uint32, bool) {
	if m == elf.EM_X86_64 {
		switch elf.R_X86_64(typ) {
		case elf.R_X86_64_GOTPCREL, elf.R_X86_64_GOTPCRELX, elf.R_X86_64_REX_GOTPCRELX,
			elf.R_X86_64_GOTTPOFF, elf.R_X86_64_TLSGD, elf.R_X86_64_TLSLD, elf.R_X86_64_GOTPC32_TLSDESC:
			return uint32(elf.R_X86_64_PC32), true
		}
		return 0, false
	}
	switch elf.R_AARCH64(typ) {
	case arm64GOTPCRel32:
		return uint32(elf.R_AARCH64_PREL32), true
	case elf.R_AARCH64_ADR_GOT_PAGE, elf.R_AARCH64_TLSIE_ADR_GOTTPREL_PAGE21,
		elf.R_AARCH64_TLSDESC_ADR_PAGE21, elf.R_AARCH64_TLSGD_ADR_PAGE21:
		return uint32(elf.R_AARCH64_ADR_PREL_PG_HI21), true
	case elf.R_AARCH64_LD64_GOT_LO12_NC, elf.R_AARCH64_TLSIE_LD64_GOTTPREL_LO12_NC, elf.R_AARCH64_TLSDESC_LD64_LO12_NC:
		return uint32(elf.R_AARCH64_LDST64_ABS_LO12_NC), true
	case elf.R_AARCH64_TLSDESC_ADD_LO12_NC, elf.R_AARCH64_TLSGD_ADD_LO12_NC:
		return uint32(elf.R_AARCH64_ADD_ABS_LO12_NC), true
	}
	return 0, false
}

// absolute adds a symbol with a fixed value.
func (l *linker) absolute(s elfpatch.Symbol) int {
	s.Name = l.unique(s.Name)
	s.Bind, s.Other = elf.STB_LOCAL, 0
	return l.addSymbol(symbol{s, dropped})
}

func (l *linker) share(s Shared) {
	if !l.seen[s] {
		l.seen[s] = true
		l.shared = append(l.shared, s)
	}
}

func (l *linker) importTarget(name string, addr uint64) int {
	return l.imp(name, manifest.Import{Kind: manifest.ImportTarget, Address: addr})
}

func (l *linker) importTLS(name string, off int64) int {
	return l.imp(name, manifest.Import{Kind: manifest.ImportTLSOffset, Offset: off})
}

func (l *linker) importDynamic(name string) int {
	return l.imp(name, manifest.Import{Kind: manifest.ImportDynamic, Name: name})
}

// imp returns the undefined symbol of an import; the same place under the same
// name is imported once.
func (l *linker) imp(name string, im manifest.Import) int {
	k := im
	k.Symbol = name
	if sym, ok := l.imported[k]; ok {
		return sym
	}
	im.Symbol = l.unique(name)
	typ := elf.STT_NOTYPE
	if im.Kind == manifest.ImportTLSOffset {
		typ = elf.STT_TLS
	}
	sym := l.addSymbol(symbol{elfpatch.Symbol{Name: im.Symbol, Type: typ, Bind: elf.STB_GLOBAL}, dropped})
	l.imported[k] = sym
	l.imports = append(l.imports, im)
	return sym
}
