package kmod

import (
	"bytes"
	"debug/elf"

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
	nops:         func(n int) []byte { return bytes.Repeat([]byte{0x90}, n) },
	start:        x86Start,
	end:          x86End,
	describeCode: x86DescribeCode,
}

func x86Start(e *emitter, patch uint32) code {
	return code{
		bytes: []byte{
			0xf3, 0x0f, 0x1e, 0xfa, // endbr64
			0x48, 0xc7, 0xc7, 0, 0, 0, 0, // mov $klp_patch, %rdi
			0xe9, 0, 0, 0, 0, // jmp klp_enable_patch
			0xcc, // int3, against straight-line speculation
		},
		rels: []elfpatch.Rela{
			{Offset: 7, Type: uint32(elf.R_X86_64_32S), Symbol: patch},
			{Offset: 12, Type: uint32(elf.R_X86_64_PLT32), Symbol: e.own(enablePatch), Addend: -4},
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
		rels: []elfpatch.Rela{{Offset: x86Return + 1, Type: uint32(elf.R_X86_64_PLT32), Symbol: e.own(returnThunk), Addend: -4}},
	}
}

func x86DescribeCode(e *emitter) {
	if e.s.Rethunk {
		sec := e.table(".return_sites", 4)
		e.addEntry(sec, make([]byte, 4), exitName, x86Return)
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
func (e *emitter) addEntry(sec *elfpatch.Section, entry []byte, function string, off int64) {
	for i, s := range e.out.Symbols {
		if s.Name == function && s.Bind == elf.STB_GLOBAL {
			e.rels[sec.Index] = append(e.rels[sec.Index], elfpatch.Rela{
				Offset: uint64(len(sec.Data)), Type: uint32(elf.R_X86_64_PC32), Symbol: uint32(i), Addend: off,
			})
		}
	}
	sec.Data = append(sec.Data, entry...)
	sec.Size = uint64(len(sec.Data))
}

// x86ORC describes the module's own two functions. Neither touches the stack,
// so that one entry each serves: the one that the object has for the entry of
// a replacement, whatever its format is. An entry of zeros, which every format
// has for what is no code, ends them (tools/objtool/orc_gen.c, 5.10 and 6.12).
func (e *emitter) x86ORC() {
	ip, unwind := e.out.Section(".orc_unwind_ip"), e.out.Section(".orc_unwind")
	if ip == nil || unwind == nil {
		e.refuse(refusal.UnwindMissing, "", "the object has no ORC tables, and the kernel unwinds by them (run objtool on the merged object)")
		return
	}
	n := len(ip.Data) / 4
	if n == 0 || len(ip.Data)%4 != 0 || len(unwind.Data)%n != 0 || len(unwind.Data)/n < 4 || len(unwind.Data)/n > 16 {
		e.refuse(refusal.UnwindMissing, ".orc_unwind", "%d bytes for %d bytes of addresses", len(unwind.Data), len(ip.Data))
		return
	}
	size := len(unwind.Data) / n
	at := e.x86ORCAtEntry(ip, unwind.Data)
	if at < 0 || at >= n {
		e.refuse(refusal.UnwindMissing, ".orc_unwind", "no entry covers the start of a replacement")
		return
	}
	entry := bytes.Clone(unwind.Data[at*size : (at+1)*size])
	for _, f := range []string{initName, exitName} {
		sym := e.definedGlobal(f)
		e.addEntry(ip, make([]byte, 4), f, -int64(sym.Value)) // with the padding
		e.addEntry(ip, make([]byte, 4), f, int64(sym.Size))
		unwind.Data = append(append(unwind.Data, entry...), make([]byte, size)...)
	}
	unwind.Size = uint64(len(unwind.Data))
}

// x86ORCAtEntry finds the entry for the first instruction of a replacement:
// the last one at or before it in its section. -1 if there is none. The entry
// of zeros that ends a function may have the address of the next one's first.
func (e *emitter) x86ORCAtEntry(ip *elfpatch.Section, unwind []byte) int {
	var of elfpatch.Symbol
	for _, o := range e.s.Objects {
		for _, f := range o.Funcs {
			if of.Section == 0 {
				of = e.out.Symbols[e.definedSymbol(f.Replacement)]
			}
		}
		for _, kind := range callbackKinds {
			if sym, ok := o.Callbacks[kind]; ok && of.Section == 0 {
				of = e.out.Symbols[e.definedSymbol(sym)]
			}
		}
	}
	best, bestAt := -1, int64(-1)
	for _, r := range e.rels[ip.Index] {
		s := e.out.Symbols[r.Symbol]
		if s.Section != of.Section || of.Section == 0 || r.Type != uint32(elf.R_X86_64_PC32) || r.Offset%4 != 0 {
			continue
		}
		i, size := int(r.Offset/4), len(unwind)/(len(ip.Data)/4)
		if i < 0 || (i+1)*size > len(unwind) {
			continue
		}
		ends := len(bytes.Trim(unwind[i*size:(i+1)*size], "\x00")) == 0
		if at := int64(s.Value) + r.Addend; at <= int64(of.Value) && (at > bestAt || at == bestAt && !ends) {
			best, bestAt = i, at
		}
	}
	return best
}

func (e *emitter) definedGlobal(name string) elfpatch.Symbol {
	for _, s := range e.out.Symbols {
		if s.Name == name && s.Bind == elf.STB_GLOBAL {
			return s
		}
	}
	panic("BUG: the module has no " + name)
}
