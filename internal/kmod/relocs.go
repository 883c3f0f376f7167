package kmod

import (
	"cmp"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"livepatch/elfpatch"
	"livepatch/internal/refusal"
)

var le = binary.LittleEndian

// convertAll turns the relocations of all sections into those of the module.
func (e *emitter) convertAll() error {
	for i, sec := range e.in.Sections {
		if e.secs[i] == nil {
			continue
		}
		rels, err := e.in.Relocations(sec)
		if err != nil {
			return err
		}
		if sec.Name == sealed {
			rels = e.unseal(e.secs[i], rels)
		}
		for _, r := range rels {
			e.convert(sec, e.secs[i], r)
		}
	}
	return nil
}

// sealed is the table of landing pads that the kernel takes away because
// nothing jumps to them: objtool lists those whose address the object does not
// use (tools/objtool/check.c validate_ibt, 6.12).
const sealed = ".ibt_endbr_seal"

// unseal takes the functions out of the table whose addresses the module's own
// structures hold, which objtool has not seen: the kernel calls callbacks
// through them.
func (e *emitter) unseal(to *elfpatch.Section, rels []elfpatch.Rela) []elfpatch.Rela {
	type place struct {
		section int
		off     int64
	}
	used := map[place]bool{}
	named := map[string]bool{}
	for _, o := range e.s.Objects {
		for _, f := range o.Funcs {
			named[f.Replacement] = true
		}
		for _, sym := range o.Callbacks {
			named[sym] = true
		}
	}
	for _, s := range e.in.Symbols {
		if s.Section > 0 && named[s.Name] && s.Type != elf.STT_SECTION {
			used[place{s.Section, int64(s.Value)}] = true
		}
	}
	var kept []elfpatch.Rela
	for _, r := range rels {
		s := e.in.Symbols[r.Symbol]
		if !used[place{s.Section, int64(s.Value) + r.Addend}] {
			r.Offset = uint64(4 * len(kept))
			kept = append(kept, r)
		}
	}
	to.Data = make([]byte, 4*len(kept))
	to.Size = uint64(len(to.Data))
	return kept
}

// convert takes one relocation over: as it is where the module's loader can
// resolve it, as a livepatch relocation where only the livepatch core can.
func (e *emitter) convert(from, to *elfpatch.Section, r elfpatch.Rela) {
	where := fmt.Sprintf("%s+%#x", from.Name, r.Offset)
	info, known := elfpatch.RelocInfo(e.in.Machine, r.Type)
	if known && info.Kind == elfpatch.KindNone {
		return // marks an instruction for linkers or tools
	}
	size, ok := e.ops.loads[r.Type]
	if !ok {
		e.refuse(refusal.RelocationInvalid, where, "the kernel's loader knows no relocations of type %s", elfpatch.RelocName(e.in.Machine, r.Type))
		return
	}
	if to.Type == elf.SHT_NOBITS || r.Offset > to.Size || to.Size-r.Offset < uint64(size) {
		e.refuse(refusal.RelocationInvalid, where, "the relocation is not inside of the section's contents")
		return
	}
	if e.ops.wantsZero && slices.ContainsFunc(to.Data[r.Offset:r.Offset+uint64(size)], func(b byte) bool { return b != 0 }) {
		e.refuse(refusal.RelocationInvalid, where, "the field of a relocation is not zero, which the kernel's loader takes for a relocation that was applied already")
		return
	}
	sym := e.in.Symbols[r.Symbol]
	if r.Symbol != 0 && sym.Section == elfpatch.Undefined {
		e.bind(to, r, where)
		return
	}
	if r.Symbol != 0 && e.syms[r.Symbol] == 0 {
		e.refuse(refusal.RelocationInvalid, where, "it refers to %s, which is not part of the module", e.symbolText(r.Symbol))
		return
	}
	r.Symbol = e.syms[r.Symbol]
	e.rels[to.Index] = append(e.rels[to.Index], r)
}

func (e *emitter) symbolText(i uint32) string {
	s := e.in.Symbols[i]
	if s.Name == "" && s.Section > 0 && s.Section < len(e.in.Sections) {
		return "section " + e.in.Sections[s.Section].Name
	}
	return s.Name
}

// bind resolves a relocation to an undefined symbol.
func (e *emitter) bind(to *elfpatch.Section, r elfpatch.Rela, where string) {
	sym := e.in.Symbols[r.Symbol]
	b, ok := e.s.Bindings[sym.Name]
	if !ok {
		e.refuse(refusal.SymbolNotFound, where, "nothing is known of %s", sym.Name)
		return
	}
	if b.Name == "" {
		b.Name = sym.Name
	}
	switch b.Kind {
	case Export:
		r.Symbol = e.export(b, where)
	case Absent:
		if sym.Bind != elf.STB_WEAK {
			e.refuse(refusal.SymbolNotFound, where, "%s is not defined anywhere, and the reference is not weak", sym.Name)
			return
		}
		r.Symbol = e.boundSymbol(elfpatch.Symbol{Name: b.Name, Bind: elf.STB_WEAK})
	case KLP:
		if e.s.Direct != nil {
			if r, ok = e.anchored(r, b, where); !ok {
				return
			}
			break
		}
		target := klpTarget{to.Index, e.relocatedWith(b)}
		r.Symbol = e.klpSymbol(b, sym.Type, where)
		if target.object != vmlinux && e.isSpecial(to.Name) {
			e.refuse(refusal.TableEntry, where, "the kernel reads this table before it can resolve %s of module %s", b.Name, objectName(b.Object))
			return
		}
		if to.Name == callSites && r.Offset%8 == 4 && strings.HasPrefix(b.Name, callTrampoline) {
			e.refuse(refusal.TableEntry, where, "the kernel finds the key of a static call by the trampoline %s only if that is exported", b.Name)
			return
		}
		e.klp[target] = append(e.klp[target], r)
		return
	default:
		e.refuse(refusal.SymbolNotFound, where, "%s is bound in no known way (%q)", sym.Name, b.Kind)
		return
	}
	e.rels[to.Index] = append(e.rels[to.Index], r)
}

// export returns the undefined symbol that the module's loader resolves.
func (e *emitter) export(b Binding, where string) uint32 {
	if _, ok := e.imports[b.Name]; !ok {
		e.imports[b.Name] = b
		e.checkExport(b, where)
	}
	return e.boundSymbol(elfpatch.Symbol{Name: b.Name, Bind: elf.STB_GLOBAL})
}

// klpSymbol returns the symbol that the livepatch core resolves.
func (e *emitter) klpSymbol(b Binding, typ elf.SymType, where string) uint32 {
	name := fmt.Sprintf(".klp.sym.%s.%s,%d", objectName(b.Object), b.Name, b.Pos)
	if _, ok := e.bound[name]; !ok {
		e.checkKLP(b, where)
	}
	if typ != elf.STT_FUNC && typ != elf.STT_OBJECT {
		typ = elf.STT_NOTYPE
	}
	return e.boundSymbol(elfpatch.Symbol{Name: name, Type: typ, Bind: elf.STB_GLOBAL, Section: shnLivepatch})
}

func (e *emitter) boundSymbol(s elfpatch.Symbol) uint32 {
	i, ok := e.bound[s.Name]
	if !ok {
		i = uint32(e.out.AddSymbol(s))
		e.bound[s.Name] = i
	}
	return i
}

// relocatedWith returns the object that has to be there for a livepatch
// relocation: for symbols of the kernel the kernel, which always is, so that
// special sections find them resolved; else the object whose code is patched
// (kernel/livepatch/core.c, klp_write_section_relocs).
func (e *emitter) relocatedWith(b Binding) string {
	if objectName(b.Object) == vmlinux {
		return vmlinux
	}
	return objectName(b.For)
}

// addKLPRelocations adds the sections of livepatch relocations, one for each
// section and object.
func (e *emitter) addKLPRelocations() {
	all := make([]klpTarget, 0, len(e.klp))
	for t := range e.klp {
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b klpTarget) int {
		if a.object != b.object { // those of the kernel first
			if a.object == vmlinux || b.object == vmlinux {
				return cmp.Compare(b2i(a.object != vmlinux), b2i(b.object != vmlinux))
			}
			return cmp.Compare(a.object, b.object)
		}
		return cmp.Compare(a.section, b.section)
	})
	for _, t := range all {
		e.out.AddSection(elfpatch.Section{
			Name: ".klp.rela." + t.object + "." + e.out.Sections[t.section].Name, Type: elf.SHT_RELA,
			Flags: elf.SHF_ALLOC | elf.SHF_INFO_LINK | flagLivepatch,
			Link:  uint32(e.out.SymbolTable().Index), Info: uint32(t.section), Align: 8, EntSize: relaSize, Data: encodeRelas(e.klp[t]),
		})
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

const relaSize = 24

func encodeRelas(list []elfpatch.Rela) []byte {
	b := make([]byte, 0, len(list)*relaSize)
	for _, r := range list {
		b = le.AppendUint64(b, r.Offset)
		b = le.AppendUint32(b, r.Type)
		b = le.AppendUint32(b, r.Symbol)
		b = le.AppendUint64(b, uint64(r.Addend))
	}
	return b
}
