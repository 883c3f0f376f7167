package stub

import (
	"debug/elf"
	"errors"
	"fmt"

	"livepatch/disasm"
	"livepatch/elfpatch"
	"livepatch/fentry"
)

const (
	fentryName  = "__fentry__"
	returnThunk = "__x86_return_thunk" // arch/x86/lib/retpoline.S, 6.12: where functions return through
)

// objects makes the two objects of a function.
type objects struct {
	code  *code
	fn    Function
	site  fentry.Func
	lead  int            // bytes of patchable NOPs before the function
	calls map[string]int // functions that it calls or jumps to, by name

	before, after *elfpatch.File
}

// make makes both.
func (o *objects) make(value Value) error {
	size := o.fn.Size
	if o.site.Size > 0 {
		size = min(size, o.site.Size)
	}
	if f := o.site.Ftrace; f != nil && *f < o.fn.Addr {
		o.lead = int(o.fn.Addr - *f)
	}
	body, ok := o.code.f.ReadAddr(o.fn.Addr-uint64(o.lead), o.lead+int(size))
	if !ok {
		return fmt.Errorf("its %d bytes at %#x are not all in the file", size, o.fn.Addr)
	}
	x86 := o.code.f.Machine == elf.EM_X86_64
	if err := o.makeBefore(append([]byte(nil), body...), x86); err != nil {
		return err
	}
	if x86 {
		return o.makeAfterX86(body[o.lead:], value)
	}
	return o.makeAfterARM64(body[o.lead:], value)
}

// object begins an object with the function in a section of its own.
func (o *objects) object(body []byte, lead int) (*elfpatch.File, *elfpatch.Section) {
	f := elfpatch.New(elf.ET_REL, o.code.f.Machine)
	f.AddSymbol(elfpatch.Symbol{Name: o.fn.Name + ".stub", Type: elf.STT_FILE, Bind: elf.STB_LOCAL, Section: elfpatch.Absolute})
	text := f.AddSection(elfpatch.Section{
		Name: ".text." + o.fn.Name, Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | elf.SHF_EXECINSTR, Align: 16, Data: body,
	})
	bind := elf.STB_LOCAL
	if s, ok := o.code.covering(o.fn.Addr); ok && s.Bind != elf.STB_LOCAL {
		bind = elf.STB_GLOBAL
	}
	f.AddSymbol(elfpatch.Symbol{
		Name: o.fn.Name, Type: elf.STT_FUNC, Bind: bind, Section: text.Index, Value: uint64(lead), Size: uint64(len(body) - lead),
	})
	return f, text
}

// A table names places of the text, in entries of one relocated field.
type table struct {
	name string
	size uint64
	typ  uint32
}

// Lists of what the compiler and objtool leave in objects: elfpatch/kernel has their
// sources.
var (
	fentryCalls   = table{"__mcount_loc", 8, uint32(elf.R_X86_64_64)}
	patchableNOPs = table{"__patchable_function_entries", 8, uint32(elf.R_AARCH64_ABS64)}
	returnSites   = table{".return_sites", 4, uint32(elf.R_X86_64_PC32)}
	unwindPlaces  = table{".orc_unwind_ip", 4, uint32(elf.R_X86_64_PC32)}
)

// add adds the table to an object, with one entry.
func (t table) add(f *elfpatch.File, text *elfpatch.Section, at int) error {
	sym := f.AddSymbol(elfpatch.Symbol{Type: elf.STT_SECTION, Bind: elf.STB_LOCAL, Section: text.Index})
	sec := f.AddSection(elfpatch.Section{Name: t.name, Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC, Align: t.size, Data: make([]byte, t.size)})
	return f.SetRelocations(sec, []elfpatch.Rela{{Type: t.typ, Symbol: uint32(sym), Addend: int64(at)}})
}

// makeBefore makes the object of what the image has. Calls and jumps that lead to
// the one function of a name are relocations, so that they are known by it.
func (o *objects) makeBefore(body []byte, x86 bool) error {
	o.calls = map[string]int{}
	known := map[string]uint32{}
	var rels []elfpatch.Rela
	f, text := o.object(body, o.lead)
	refer := func(name string) uint32 {
		if _, ok := known[name]; !ok {
			known[name] = uint32(f.AddSymbol(elfpatch.Symbol{Name: name, Bind: elf.STB_GLOBAL}))
		}
		return known[name]
	}
	base := o.fn.Addr - uint64(o.lead)
	site := int(o.site.Site - base)
	if x86 { // the compiler had a call there, whatever the build made of it
		if site < 0 || site+5 > len(body) {
			return errors.New("its patch site is not in it")
		}
		copy(body[site:], []byte{0xe8, 0, 0, 0, 0})
		rels = append(rels, elfpatch.Rela{Offset: uint64(site) + 1, Type: uint32(elf.R_X86_64_PLT32), Symbol: refer(fentryName), Addend: -4})
	}
	err := disasm.Walk(f.Machine, body, func(off int, in disasm.Inst) bool {
		to := base + uint64(off) + uint64(in.PCOff)
		if in.Flow != disasm.Call && in.Flow != disasm.Jump || in.PCRel.Size != 4 || to-base < uint64(len(body)) || x86 && off == site {
			return true
		}
		name, ok := o.code.named(to)
		if !ok {
			return true
		}
		o.calls[name]++
		r := elfpatch.Rela{Offset: uint64(off) + uint64(in.PCRel.Off), Symbol: refer(name)}
		switch {
		case x86:
			r.Type, r.Addend = uint32(elf.R_X86_64_PLT32), -4
			copy(body[r.Offset:], []byte{0, 0, 0, 0})
		case in.Flow == disasm.Call:
			r.Type = uint32(elf.R_AARCH64_CALL26)
			copy(body[r.Offset:], []byte{0, 0, 0, 0x94})
		default:
			r.Type = uint32(elf.R_AARCH64_JUMP26)
			copy(body[r.Offset:], []byte{0, 0, 0, 0x14})
		}
		rels = append(rels, r)
		return true
	})
	if err != nil {
		return fmt.Errorf("its code cannot be read: %w", err)
	}
	if err := f.SetRelocations(text, rels); err != nil {
		return err
	}
	o.before = f
	if x86 {
		return fentryCalls.add(f, text, site)
	}
	if o.lead > 0 {
		site = 0 // the first of the NOPs that the compiler left to be patched
	}
	return patchableNOPs.add(f, text, site)
}
