package kmod

import (
	"bytes"
	"debug/elf"
	"fmt"

	"livepatch/elfpatch"
	"livepatch/internal/refusal"
)

// On x86-64 the kernel's module loader knows few relocations and takes a field
// that is not zero for damage. Returns may have to go through a thunk, whose
// jumps are listed in .return_sites and rewritten when the module is loaded.
// Tasks are unwound by ORC tables: code without entries makes stacks
// unreliable, and a patch could not be taken back while such code is on one.
// Modules live in the upper 2 GB of the address space, so that addresses fit
// sign-extended 32 bits.

var x86 = machine{
	// arch/x86/kernel/module.c, 6.12
	loads: map[uint32]int{
		uint32(elf.R_X86_64_64): 8, uint32(elf.R_X86_64_32): 4, uint32(elf.R_X86_64_32S): 4,
		uint32(elf.R_X86_64_PC32): 4, uint32(elf.R_X86_64_PLT32): 4, uint32(elf.R_X86_64_PC64): 8,
	},
	wantsZero:    true,
	pointer:      uint32(elf.R_X86_64_64),
	distance:     uint32(elf.R_X86_64_PC32),
	nops:         func(n int) []byte { return bytes.Repeat([]byte{0x90}, n) },
	start:        x86Start,
	end:          x86End,
	trampoline:   x86Trampoline,
	leave:        x86LeaveStub,
	enter:        x86Enter,
	encode:       x86Encode,
	branch:       x86Branch,
	describeCode: x86DescribeCode,
}

func x86Start(e *emitter, patch uint32, to string) code {
	return code{
		bytes: []byte{
			0xf3, 0x0f, 0x1e, 0xfa, // endbr64
			0x48, 0xc7, 0xc7, 0, 0, 0, 0, // mov $patch, %rdi
			0xe9, 0, 0, 0, 0, // jmp to
			0xcc, // int3, against straight-line speculation
		},
		rels: []elfpatch.Rela{
			{Offset: 7, Type: uint32(elf.R_X86_64_32S), Symbol: patch},
			{Offset: 12, Type: uint32(elf.R_X86_64_PLT32), Symbol: e.own(to), Addend: -4},
		},
	}
}

// x86Return is the offset of the return in x86End.
const x86Return = 4

func x86End(e *emitter) code {
	if !e.s.Rethunk {
		return code{bytes: []byte{
			0xf3, 0x0f, 0x1e, 0xfa, // endbr64
			0xc3, // ret
			0xcc, // int3
		}}
	}
	return code{
		bytes: []byte{
			0xf3, 0x0f, 0x1e, 0xfa, // endbr64
			0xe9, 0, 0, 0, 0, // jmp __x86_return_thunk
			0xcc, // int3
		},
		rels:    []elfpatch.Rela{{Offset: x86Return + 1, Type: uint32(elf.R_X86_64_PLT32), Symbol: e.own(returnThunk), Addend: -4}},
		returns: []int{x86Return},
	}
}

// x86DescribeCode lists the returns and, where the kernel counts them, the
// calls of the module's own code, and describes its frames.
func x86DescribeCode(e *emitter) {
	for _, t := range []struct {
		name  string
		on    bool
		sites func(code) []int
	}{
		{".return_sites", e.s.Rethunk, func(c code) []int { return c.returns }},
		{".call_sites", e.s.CallSites, func(c code) []int { return c.calls }},
	} {
		for _, own := range e.described {
			for _, off := range t.sites(own.code) {
				if t.on {
					e.addEntry(e.table(t.name, 4), make([]byte, 4), own.symbol, int64(off))
				}
			}
		}
	}
	if e.s.ORC {
		e.x86ORC()
	}
}

// table returns a table of the module, which may have entries already.
func (e *emitter) table(name string, align uint64) *elfpatch.Section {
	if s := e.out.Section(name); s != nil {
		return s
	}
	return e.out.AddSection(elfpatch.Section{Name: name, Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC, Align: align, Data: []byte{}})
}

// addEntry appends an entry whose first 4 bytes are the distance to a place
// behind a function of the module's own.
func (e *emitter) addEntry(sec *elfpatch.Section, entry []byte, function uint32, off int64) {
	e.rels[sec.Index] = append(e.rels[sec.Index], elfpatch.Rela{
		Offset: uint64(len(sec.Data)), Type: uint32(elf.R_X86_64_PC32), Symbol: function, Addend: off,
	})
	sec.Data = append(sec.Data, entry...)
	sec.Size = uint64(len(sec.Data))
}

// x86ORC describes the module's own functions by the entry for the first
// instruction of a function, whatever its format is: there the stack pointer is
// 8 bytes below that of the caller, which its first two bytes say (struct
// orc_entry, 5.10 and 6.12), and further below where a function has a frame. An
// entry of zeros, which every format has for what is no code, ends a function
// (tools/objtool/orc_gen.c, 5.10 and 6.12).
func (e *emitter) x86ORC() {
	entry := e.s.orcEntry
	if len(entry) == 0 {
		var fault string
		if entry, fault = x86ORCEntry(e.out, e.rels, e.firstCode()); fault != "" {
			e.refuse(refusal.UnwindMissing, ".orc_unwind", "%s", fault)
			return
		}
	}
	ip, unwind := e.table(".orc_unwind_ip", 4), e.table(".orc_unwind", 2)
	for _, own := range e.described {
		size := int64(e.out.Symbols[own.symbol].Size)
		frames := own.code.frames
		if len(frames) == 0 {
			frames = []frame{{0, 0}}
		}
		for i, f := range frames {
			at := int64(f.at)
			if i == 0 {
				at -= int64(own.pad)
			}
			if at >= size {
				continue
			}
			e.addEntry(ip, make([]byte, 4), own.symbol, at)
			deeper := bytes.Clone(entry)
			le.PutUint16(deeper, le.Uint16(entry)+uint16(f.depth))
			unwind.Data = append(unwind.Data, deeper...)
		}
		e.addEntry(ip, make([]byte, 4), own.symbol, size)
		unwind.Data = append(unwind.Data, make([]byte, len(entry))...)
	}
	unwind.Size = uint64(len(unwind.Data))
}

// firstCode is a function of the object: a replacement or a callback.
func (e *emitter) firstCode() elfpatch.Symbol {
	for _, o := range e.s.Objects {
		for _, f := range o.Funcs {
			return e.out.Symbols[e.definedSymbol(f.Replacement)]
		}
		for _, kind := range callbackKinds {
			if sym, ok := o.Callbacks[kind]; ok {
				return e.out.Symbols[e.definedSymbol(sym)]
			}
		}
	}
	return elfpatch.Symbol{}
}

// x86ORCEntry is the entry of a file's ORC tables for the first instruction of a
// function, or what is wrong with them. rels are the relocations by section. It
// is the last entry at or before the function in its section; the entry of zeros
// that ends a function may have the address of the next one's first.
func x86ORCEntry(f *elfpatch.File, rels map[int][]elfpatch.Rela, of elfpatch.Symbol) (entry []byte, fault string) {
	ip, unwind := f.Section(".orc_unwind_ip"), f.Section(".orc_unwind")
	if ip == nil || unwind == nil {
		return nil, "the object has no ORC tables, and the kernel unwinds by them (run objtool on the merged object)"
	}
	n := len(ip.Data) / 4
	if n == 0 || len(ip.Data)%4 != 0 || len(unwind.Data)%n != 0 || len(unwind.Data)/n < 4 || len(unwind.Data)/n > 16 {
		return nil, fmt.Sprintf("%d bytes for %d bytes of addresses", len(unwind.Data), len(ip.Data))
	}
	size := len(unwind.Data) / n
	bestAt := int64(-1)
	for _, r := range rels[ip.Index] {
		s := f.Symbols[r.Symbol]
		if s.Section != of.Section || of.Section == 0 || r.Type != uint32(elf.R_X86_64_PC32) || r.Offset%4 != 0 || r.Offset/4 >= uint64(n) {
			continue
		}
		i := int(r.Offset / 4)
		this := unwind.Data[i*size : (i+1)*size]
		ends := len(bytes.Trim(this, "\x00")) == 0
		if at := int64(s.Value) + r.Addend; at <= int64(of.Value) && (at > bestAt || at == bestAt && !ends) {
			entry, bestAt = this, at
		}
	}
	if entry == nil {
		return nil, "no entry covers the start of a replacement"
	}
	return bytes.Clone(entry), ""
}

// x86Trampoline is entered by the call at the function's site: on the stack is
// the return into the old function, then the one to the caller.
func x86Trampoline(e *emitter, replacement uint32, prev int64) code {
	c := code{
		bytes: []byte{
			0xf3, 0x0f, 0x1e, 0xfa, // endbr64
			0x80, 0x3d, 0, 0, 0, 0, 0, // cmpb $0, gate(%rip)
			0x74, 9, // je 1f
			0x48, 0x83, 0xc4, 8, // add $8, %rsp: not back into the old function
			0xe9, 0, 0, 0, 0, // jmp replacement
			0xff, 0x35, 0, 0, 0, 0, // 1: push prev(%rip)
		},
		rels: []elfpatch.Rela{
			{Offset: 6, Type: uint32(elf.R_X86_64_PC32), Symbol: e.labels[directPatch], Addend: patchGate - 5},
			{Offset: 18, Type: uint32(elf.R_X86_64_PLT32), Symbol: replacement, Addend: -4},
			{Offset: 24, Type: uint32(elf.R_X86_64_PC32), Symbol: e.labels[directFuncs], Addend: prev - 4},
		},
	}
	// To where prev says, with all registers as they are. Everywhere else the top
	// of the stack is a return address.
	c.frames = []frame{{0, 0}, {len(c.bytes), 8}}
	return e.x86Append(c, x86ReturnCode(e))
}

// x86LeaveStub returns into the old function.
func x86LeaveStub(e *emitter) code {
	return e.x86Append(code{bytes: []byte{
		0xf3, 0x0f, 0x1e, 0xfa, // endbr64
	}}, x86ReturnCode(e))
}

// x86Append puts encoded instructions behind others.
func (e *emitter) x86Append(c code, r encoded) code {
	at := len(c.bytes)
	c.bytes = append(c.bytes, r.bytes...)
	for _, w := range r.rels {
		c.rels = append(c.rels, elfpatch.Rela{Offset: uint64(at) + w.at, Type: w.typ, Symbol: e.named(w.to), Addend: w.addend})
	}
	for _, off := range r.sites.returns {
		c.returns = append(c.returns, at+off)
	}
	return c
}
