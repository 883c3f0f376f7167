package kmod

import (
	"debug/elf"
	"fmt"
	"slices"

	"livepatch/elfpatch"
	"livepatch/elfpatch/kernel"
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
			g.point(at+p.at, p.symbol, p.addend)
		}
		g.sec.Data = append(g.sec.Data, r.data...)
	}
	g.sec.Size = uint64(len(g.sec.Data))
	return uint32(g.e.out.AddSymbol(elfpatch.Symbol{
		Name: name, Type: elf.STT_OBJECT, Bind: elf.STB_LOCAL, Section: g.sec.Index, Value: start, Size: g.sec.Size - start,
	}))
}

// point puts the address of a symbol into a place of the section.
func (g *region) point(at uint64, symbol uint32, addend int64) {
	g.e.rels[g.sec.Index] = append(g.e.rels[g.sec.Index], elfpatch.Rela{Offset: at, Type: g.e.ops.pointer, Symbol: symbol, Addend: addend})
}

// text is the section of the names in the structures.
type text struct {
	g  *region
	at map[string]uint32
}

func (e *emitter) names() *text {
	return &text{e.region(".rodata.livepatch", 0, 1), map[string]uint32{}}
}

func (t *text) symbol(s string) uint32 {
	sym, ok := t.at[s]
	if !ok {
		sym = t.bytes(fmt.Sprintf(".Lname.%d", len(t.at)), append([]byte(s), 0))
		t.at[s] = sym
	}
	return sym
}

func (t *text) bytes(name string, b []byte) uint32 {
	sec := t.g.sec
	sym := t.g.e.out.AddSymbol(elfpatch.Symbol{
		Name: name, Type: elf.STT_OBJECT, Bind: elf.STB_LOCAL, Section: sec.Index, Value: uint64(len(sec.Data)), Size: uint64(len(b)),
	})
	sec.Data = append(sec.Data, b...)
	sec.Size = uint64(len(sec.Data))
	return uint32(sym)
}

// patchSymbols are those of the record that the module hands over, and of
// struct module.
type patchSymbols struct{ patch, module uint32 }

// declareModule adds the symbol of struct module, which addModule puts in its
// section.
func (e *emitter) declareModule() uint32 {
	return uint32(e.out.AddSymbol(elfpatch.Symbol{Name: thisModule, Type: elf.STT_OBJECT, Bind: elf.STB_GLOBAL, Size: e.s.ABI.Structs["module"].Size}))
}

// describePatch adds the structures of the livepatch core: static ones, as in
// the kernel's samples/livepatch, which every version since 5.1 reads. Lists
// end with an empty record. It returns the symbols of struct klp_patch and
// struct module.
func (e *emitter) describePatch() (symbols patchSymbols) {
	names := e.names()
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
	symbols.module = e.declareModule()
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

// addEntries adds the code that hands the patch over, and struct module, which
// leads to it. A module of the direct flavour has no exit: it is never unloaded.
func (e *emitter) addEntries(p patchSymbols) {
	take, _ := e.s.takers()
	start := e.addFunctions(".init.text", []ownFunc{{initName, elf.STB_GLOBAL, e.ops.start(e, p.patch, take), e.s.Hashes.Init}})[0]
	var end uint32
	if e.s.Direct == nil {
		end = e.addFunctions(".exit.text", []ownFunc{{exitName, elf.STB_GLOBAL, e.ops.end(e), e.s.Hashes.Exit}})[0]
	}
	e.ops.describeCode(e)
	e.addModule(p.module, start, end)
}

// addModule adds struct module. start and end are the symbols of its init and
// exit functions, 0 for none.
func (e *emitter) addModule(symbol, start, end uint32) {
	g := e.region(".gnu.linkonce.this_module", elf.SHF_WRITE, 64)
	r := e.s.layouts().record("module")
	r.bytes("name", []byte(e.s.Name))
	if start != 0 {
		r.point("init", start, 0)
	}
	if end != 0 && e.s.layouts().has("module.exit") {
		r.point("exit", end, 0)
	}
	for _, ptr := range r.ptrs {
		g.point(ptr.at, ptr.symbol, ptr.addend)
	}
	g.sec.Data, g.sec.Size = r.data, uint64(len(r.data))
	e.out.Symbols[symbol].Section = g.sec.Index
}

// code is a function of the module's own, and what tables say of it.
type code struct {
	bytes   []byte
	rels    []elfpatch.Rela
	calls   []int   // offsets of calls
	returns []int   // and of jumps to the return thunk
	frames  []frame // where the stack pointer moves; none: nowhere
}

// frame says how far the stack pointer is below its place at the entry, from
// an offset in the code on.
type frame struct{ at, depth int }

// ownFunc is a function on its way into a section.
type ownFunc struct {
	name string
	bind elf.SymBind
	code code
	hash uint32 // of its type, which kCFI wants before it; 0 for none
}

// ownCode is a function that was added.
type ownCode struct {
	symbol uint32
	pad    int // bytes of NOPs before it
	code   code
}

// addFunctions adds functions in a section of their own, each behind the
// padding that the kernel expects before functions, and returns their symbols.
func (e *emitter) addFunctions(section string, list []ownFunc) (symbols []uint32) {
	sec := e.startFunctions(section)
	for _, f := range list {
		symbols = append(symbols, e.addFunction(sec, f))
	}
	return symbols
}

func (e *emitter) startFunctions(section string) *elfpatch.Section {
	return e.out.AddSection(elfpatch.Section{
		Name: section, Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | elf.SHF_EXECINSTR, Align: codeAlign, Data: []byte{},
	})
}

func (e *emitter) addFunction(sec *elfpatch.Section, f ownFunc) uint32 {
	fill := (codeAlign-len(sec.Data)%codeAlign)%codeAlign + e.s.Padding
	if e.s.CFI && f.hash != 0 {
		fill += codeAlign - kernel.TypeHashSize
	}
	sec.Data = append(sec.Data, e.ops.nops(fill)...)
	if e.s.CFI && f.hash != 0 {
		e.mark(sec, "$d")
		sec.Data = le.AppendUint32(sec.Data, f.hash)
		e.mark(sec, "$x")
	}
	start := uint64(len(sec.Data))
	sec.Data = append(sec.Data, f.code.bytes...)
	sec.Size = uint64(len(sec.Data))
	for _, r := range f.code.rels {
		r.Offset += start
		e.rels[sec.Index] = append(e.rels[sec.Index], r)
	}
	sym := uint32(e.out.AddSymbol(elfpatch.Symbol{
		Name: f.name, Type: elf.STT_FUNC, Bind: f.bind, Section: sec.Index, Value: start, Size: uint64(len(f.code.bytes)),
	}))
	e.described = append(e.described, ownCode{sym, fill, f.code})
	return sym
}

// mark says what follows in a section of code: data or code (AAELF64, mapping symbols).
func (e *emitter) mark(sec *elfpatch.Section, name string) {
	e.out.AddSymbol(elfpatch.Symbol{Name: name, Bind: elf.STB_LOCAL, Section: sec.Index, Value: uint64(len(sec.Data))})
}

// codeAlign is where functions begin (CONFIG_FUNCTION_ALIGNMENT).
const codeAlign = 16
