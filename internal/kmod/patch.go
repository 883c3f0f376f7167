package kmod

import (
	"debug/elf"
	"fmt"
	"slices"

	"livepatch/elfpatch"
)

// The names that the kernel and its tools give the parts of a module
// (scripts/mod/modpost.c, 6.12).
const (
	initName   = "init_module"
	exitName   = "cleanup_module"
	thisModule = "__this_module"
)

// region is a section of the module that records are put into one by one.
type region struct {
	e   *emitter
	sec *elfpatch.Section
}

func (e *emitter) region(name string, flags elf.SectionFlag, align uint64) *region {
	return &region{e, e.out.AddSection(elfpatch.Section{Name: name, Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | flags, Align: align, Data: []byte{}})}
}

// put appends records, gives them a symbol and returns it.
func (g *region) put(name string, list []*record) uint32 {
	for len(g.sec.Data)%8 != 0 {
		g.sec.Data = append(g.sec.Data, 0)
	}
	start := uint64(len(g.sec.Data))
	for _, r := range list {
		at := uint64(len(g.sec.Data))
		for _, p := range r.ptrs {
			g.e.rels[g.sec.Index] = append(g.e.rels[g.sec.Index], elfpatch.Rela{Offset: at + p.at, Type: g.e.ops.pointer, Symbol: p.symbol, Addend: p.addend})
		}
		g.sec.Data = append(g.sec.Data, r.data...)
	}
	g.sec.Size = uint64(len(g.sec.Data))
	return uint32(g.e.out.AddSymbol(elfpatch.Symbol{
		Name: name, Type: elf.STT_OBJECT, Bind: elf.STB_LOCAL, Section: g.sec.Index, Value: start, Size: g.sec.Size - start,
	}))
}

// text is the section of the names in the structures.
type text struct {
	g  *region
	at map[string]uint32
}

func (t *text) symbol(s string) uint32 {
	sym, ok := t.at[s]
	if !ok {
		sec := t.g.sec
		sym = uint32(t.g.e.out.AddSymbol(elfpatch.Symbol{
			Name: fmt.Sprintf(".Lname.%d", len(t.at)), Type: elf.STT_OBJECT, Bind: elf.STB_LOCAL, Section: sec.Index,
			Value: uint64(len(sec.Data)), Size: uint64(len(s) + 1),
		}))
		sec.Data = append(append(sec.Data, s...), 0)
		sec.Size = uint64(len(sec.Data))
		t.at[s] = sym
	}
	return sym
}

// describePatch adds the structures of the livepatch core: static ones, as in
// the kernel's samples/livepatch, which every version since 5.1 reads. Lists
// end with an empty record. It returns the symbols of struct klp_patch and
// struct module.
func (e *emitter) describePatch() (symbols struct{ patch, module uint32 }) {
	names := &text{e.region(".rodata.livepatch", 0, 1), map[string]uint32{}}
	data := e.region(".data.livepatch", elf.SHF_WRITE, 8)
	abi := e.s.layouts()
	var objects []*record
	for i, o := range e.ordered() {
		var funcs []*record
		for _, f := range o.Funcs {
			r := abi.record("klp_func")
			r.point("old_name", names.symbol(f.Name), 0)
			r.point("new_func", e.definedSymbol(f.Replacement), 0)
			r.uint64("old_sympos", uint64(f.Sympos))
			funcs = append(funcs, r)
		}
		list := data.put(fmt.Sprintf("klp_funcs.%d", i), append(funcs, abi.record("klp_func")))
		r := abi.record("klp_object")
		if objectName(o.Name) != vmlinux {
			r.point("name", names.symbol(o.Name), 0)
		}
		r.point("funcs", list, 0)
		for _, kind := range callbackKinds {
			if sym, ok := o.Callbacks[kind]; ok {
				r.point("callbacks."+string(kind), e.definedSymbol(sym), 0)
			}
		}
		objects = append(objects, r)
	}
	objs := data.put("klp_objects", append(objects, abi.record("klp_object")))
	symbols.module = uint32(e.out.AddSymbol(elfpatch.Symbol{Name: thisModule, Type: elf.STT_OBJECT, Bind: elf.STB_GLOBAL, Size: abi.Structs["module"].Size}))
	patch := abi.record("klp_patch")
	patch.point("mod", symbols.module, 0)
	patch.point("objs", objs, 0)
	if len(e.s.States) > 0 {
		patch.point("states", data.put("klp_states", e.states()), 0)
	}
	if e.s.Replace {
		patch.bytes("replace", []byte{1})
	}
	symbols.patch = data.put("klp_patch", []*record{patch})
	return symbols
}

func (e *emitter) states() []*record {
	var out []*record
	for _, s := range e.s.States {
		r := e.s.layouts().record("klp_state")
		r.uint64("id", s.ID)
		r.uint32("version", s.Version)
		out = append(out, r)
	}
	return append(out, e.s.layouts().record("klp_state"))
}

// ordered returns the objects, the kernel first.
func (e *emitter) ordered() []Object {
	list := slices.Clone(e.s.Objects)
	slices.SortStableFunc(list, func(a, b Object) int {
		return b2i(objectName(a.Name) != vmlinux) - b2i(objectName(b.Name) != vmlinux)
	})
	return list
}

// addEntries adds the code that hands the patch to the livepatch core, and
// struct module, which leads to it.
func (e *emitter) addEntries(p struct{ patch, module uint32 }) {
	start := e.addCode(".init.text", initName, e.ops.start(e, p.patch))
	end := e.addCode(".exit.text", exitName, e.ops.end(e))
	e.ops.describeCode(e)
	g := e.region(".gnu.linkonce.this_module", elf.SHF_WRITE, 64)
	r := e.s.layouts().record("module")
	r.bytes("name", []byte(e.s.Name))
	r.point("init", start, 0)
	if e.s.layouts().has("module.exit") {
		r.point("exit", end, 0)
	}
	for _, ptr := range r.ptrs {
		e.rels[g.sec.Index] = append(e.rels[g.sec.Index], elfpatch.Rela{Offset: ptr.at, Type: e.ops.pointer, Symbol: ptr.symbol, Addend: ptr.addend})
	}
	g.sec.Data, g.sec.Size = r.data, uint64(len(r.data))
	e.out.Symbols[p.module].Section = g.sec.Index
}

// code is a function of the module's own.
type code struct {
	bytes []byte
	rels  []elfpatch.Rela
}

// addCode adds a function in a section of its own, behind the padding that the
// kernel expects before functions, and returns its symbol.
func (e *emitter) addCode(section, name string, c code) uint32 {
	pad := uint64(e.s.Padding)
	data := append(e.ops.nops(e.s.Padding), c.bytes...)
	sec := e.out.AddSection(elfpatch.Section{
		Name: section, Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | elf.SHF_EXECINSTR, Align: 16, Data: data,
	})
	for _, r := range c.rels {
		r.Offset += pad
		e.rels[sec.Index] = append(e.rels[sec.Index], r)
	}
	return uint32(e.out.AddSymbol(elfpatch.Symbol{
		Name: name, Type: elf.STT_FUNC, Bind: elf.STB_GLOBAL, Section: sec.Index, Value: pad, Size: uint64(len(c.bytes)),
	}))
}
