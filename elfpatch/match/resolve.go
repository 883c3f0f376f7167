package match

import (
	"debug/elf"
	"encoding/binary"
	"strings"

	"livepatch/elfpatch"
)

// Resolve returns what is known about a symbol of the before object. What the
// proven functions do not show may come from a symbol table, or from other
// functions of the object that use the symbol, which are then placed too. It is
// false when nothing is known.
func (p *Proof) Resolve(sym int) (Resolved, bool) {
	if sym <= 0 || sym >= len(p.p.obj.f.Symbols) {
		return nil, false
	}
	r := p.p.resolve(sym)
	if len(r) == 0 || p.p.wantsAddress(sym, r) {
		p.p.callWitnesses(sym)
		r = p.p.resolve(sym)
		if p.p.img.kernel && p.p.wantsAddress(sym, r) && p.p.askData() == nil {
			r = p.p.resolve(sym)
		}
	}
	if a, ok := r[Address]; ok && a.Value == 0 && p.p.img.f.Type == elf.ET_DYN && p.p.obj.f.Symbols[sym].Section == elfpatch.Undefined {
		// A weak symbol that nobody defines: 0 wherever the target is loaded.
		delete(r, Address)
	}
	if p.Preemptible(sym) {
		// Where the library itself has it is not what programs use.
		delete(r, Address)
		for use, place := range p.p.img.slotsOf(p.p.obj.plainName(sym)) {
			if _, ok := r[use]; !ok {
				r[use] = place
			}
		}
	}
	return r, len(r) > 0
}

// Preemptible reports whether another file of the process may define a symbol
// instead of the target: the target is a library that exports it, and reaches
// it by name.
func (p *Proof) Preemptible(sym int) bool {
	s := p.p.obj.f.Symbols[sym]
	if isLocal(s) || elf.SymVis(s.Other&3) == elf.STV_PROTECTED || !p.p.img.preemptible {
		return false
	}
	for _, n := range p.p.img.named[p.p.obj.plainName(sym)] {
		if n.exported {
			return true
		}
	}
	return false
}

// wantsAddress reports whether a symbol that the object defines still lacks the
// one thing that every use of it can be made from.
func (p *prover) wantsAddress(sym int, r Resolved) bool {
	sec := p.obj.defined(sym)
	if sec == nil {
		return false
	}
	use := Address
	if sec.Flags&elf.SHF_TLS != 0 {
		use = TPOffset
	}
	_, ok := r[use]
	return !ok
}

func (p *prover) resolve(sym int) Resolved {
	out := Resolved{}
	for use := Address; use < numUses; use++ {
		k, off := p.obj.keyOf(use, sym, 0)
		if use == TLSModule && !p.threadLocal(sym) {
			continue
		}
		if a := p.facts[k]; a != nil {
			out[use] = Place{a.value + off, a.first, a.uses}
		}
	}
	if _, ok := out[Address]; !ok {
		if s, ok := out[Slot]; ok {
			if v, ok := p.slotValue(s.Value); ok {
				out[Address] = Place{v, s.Found, s.Uses}
			}
		}
	}
	if _, ok := out[Address]; !ok && !p.threadLocal(sym) {
		if n, ok := p.fromTables(sym); ok {
			out[Address] = Place{Value: n.addr, Found: string(n.found)}
		}
	}
	return out
}

func (p *prover) threadLocal(sym int) bool {
	sec := p.obj.defined(sym)
	return p.obj.f.Symbols[sym].Type == elf.STT_TLS || sec != nil && sec.Flags&elf.SHF_TLS != 0
}

// slotValue is the address that a GOT entry holds, if it cannot be another one
// at run time: the file says it, or a relative relocation.
func (p *prover) slotValue(addr uint64) (uint64, bool) {
	s, ok := p.img.slotAt(addr)
	if ok {
		return uint64(s.addend), s.name == "" && isRelative(p.obj.f.Machine, s.typ)
	}
	b, ok := p.img.f.ReadAddr(addr, 8)
	if !ok || p.img.f.Type == elf.ET_DYN && !p.img.kernel {
		return 0, false
	}
	v := binary.LittleEndian.Uint64(b)
	return v, v != 0
}

// fromTables looks a symbol up by name, or by another symbol of its section.
func (p *prover) fromTables(sym int) (named, bool) {
	if n, ok := p.unique(sym); ok {
		return n, true
	}
	sec := p.obj.defined(sym)
	if sec == nil || pieces(sec) || p.obj.replaceable(sym) {
		return named{}, false
	}
	for i, s := range p.obj.f.Symbols {
		if s.Section != sec.Index || p.obj.plainName(i) == "" || p.obj.replaceable(i) {
			continue
		}
		if n, ok := p.unique(i); ok {
			n.addr += p.obj.f.Symbols[sym].Value - s.Value
			return n, true
		}
	}
	return named{}, false
}

// unique returns the only symbol of the target that can be symbol i; of several
// static ones that of the same source file.
func (p *prover) unique(i int) (named, bool) {
	all := p.candidates(i)
	if len(all) > 1 && p.obj.file != "" {
		var same []named
		for _, n := range all {
			if n.file == p.obj.file {
				same = append(same, n)
			}
		}
		all = same
	}
	for _, n := range all {
		if n.addr != all[0].addr {
			return named{}, false
		}
	}
	if len(all) == 0 {
		return named{}, false
	}
	return all[0], true
}

// callWitnesses places the functions of the object that use a symbol, or
// anything else of its section, so that their fields show where it is.
func (p *prover) callWitnesses(sym int) {
	if p.helped[sym] {
		return
	}
	p.helped[sym] = true
	want := p.obj.defined(sym)
	if want != nil && (pieces(want) || p.obj.replaceable(sym)) {
		want = nil
	}
	for i, s := range p.obj.f.Symbols {
		if s.Type != elf.STT_FUNC || p.funcs[i] != nil {
			continue
		}
		f, err := p.obj.function(i)
		if err != nil || f == nil {
			continue
		}
		if f.sec == want || f.uses(p.obj, sym, want) {
			p.want(f, false)
		}
	}
	p.settle()
}

func (f *function) uses(o *object, sym int, sec *elfpatch.Section) bool {
	for _, r := range f.rels {
		if int(r.Symbol) == sym || sec != nil && o.defined(int(r.Symbol)) == sec {
			return true
		}
	}
	return false
}

// Outside describes a name that the before object does not use: what the target
// itself knows under it. The target's own definition comes first, else the
// entry of its GOT or PLT through which it reaches another file.
func (p *Proof) Outside(name string) (Resolved, bool) {
	plain, _, _ := strings.Cut(name, "@")
	img, out := p.p.img, Resolved{}
	if n, ok := img.definition(plain, p.p.debug); ok {
		out[Address] = Place{Value: n.addr, Found: string(n.found)}
		return out, true
	}
	out = img.slotsOf(plain)
	return out, len(out) > 0
}

// slotsOf finds the words of the target that hold the address of a name.
func (img *image) slotsOf(name string) Resolved {
	out := Resolved{}
	for _, s := range img.slots {
		if use, ok := pointerSlot(img.f.Machine, s.typ); ok && s.name == name && s.addend == 0 {
			out[use] = Place{Value: s.addr, Found: string(ByDynSymbol)}
		}
	}
	return out
}

// pointerSlot tells the relocations of GOT entries that hold an address.
func pointerSlot(m elf.Machine, typ uint32) (Use, bool) {
	glob, jump := uint32(elf.R_X86_64_GLOB_DAT), uint32(elf.R_X86_64_JMP_SLOT)
	if m == elf.EM_AARCH64 {
		glob, jump = uint32(elf.R_AARCH64_GLOB_DAT), uint32(elf.R_AARCH64_JUMP_SLOT)
	}
	switch typ {
	case glob:
		return Slot, true
	case jump:
		return CallSlot, true
	}
	return 0, false
}

// definition finds the one global definition of a name.
func (img *image) definition(name string, debug *elfpatch.File) (named, bool) {
	own := &image{f: img.f, named: map[string][]named{}}
	wanted := map[string]bool{name: true}
	own.addSymbols(img.f.Symbols, wanted, BySymbol)
	if debug != nil {
		own.addSymbols(debug.Symbols, wanted, ByDebug)
	}
	if syms, err := img.f.DynSymbols(); err == nil {
		for _, s := range syms {
			if s.Name == name && s.Section != elfpatch.Undefined && !s.Hidden {
				own.add(name, named{addr: s.Value, size: s.Size, typ: s.Type, found: ByDynSymbol})
			}
		}
	}
	var global []named
	for _, n := range own.named[name] {
		if !n.local {
			global = append(global, n)
		}
	}
	if len(global) != 1 || global[0].typ == elf.STT_TLS || global[0].typ == elf.STT_GNU_IFUNC {
		return named{}, false
	}
	return global[0], true
}
