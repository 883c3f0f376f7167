package kmod

import (
	"cmp"
	"debug/elf"
	"fmt"
	"slices"
	"strings"

	"livepatch/elfpatch"
	"livepatch/internal/refusal"
)

// Direct makes a module that needs no livepatch core: its trampolines are
// called by ftrace directly, and a base module keeps them (base.go). Symbols of
// the kernel that are not exported are found by their distance from one that is.
type Direct struct {
	Shared  bool   // no trampolines: ftrace calls one handler of the base module (base_shared.go)
	Anchor  string // an exported symbol of the kernel, in Spec.Bindings
	Address uint64 // of the anchor, where the kernel was linked
	Notes   uint64 // where the kernel has its build-id: the bytes of /sys/kernel/notes
	BuildID []byte
}

// The record of a patch, and behind it those of its functions, are what a
// patch module and the base module have in common. Offsets are bytes; all
// fields but the flags have 8.
const (
	patchGate     = 0  // flag: open. The first byte, so that the kernel prints it as a bool
	patchHeld     = 1  // flag: the module holds itself
	patchStuck    = 2  // flag: ftrace did not let go of a place
	patchReplaces = 3  // flag, shared dispatch: what the patch does not have is the original's
	patchCount    = 8  // of functions
	patchFuncs    = 16 // the first record of a function
	patchStride   = 24 // from one to the next
	patchLeave    = 32 // code that goes on with the old body
	patchModule   = 40 // struct module
	patchAttached = 48 // how many functions, from the first on, are on the stacks of their places
	patchNotes    = 56 // where the kernel has its build-id
	patchID       = 64 // the build-id
	patchIDSize   = 72
	patchName     = 80 // of the module
	patchSize     = 88

	// Of the shared dispatch.
	patchRegistered = 4  // flag: the ftrace_ops is registered
	patchClaims     = 5  // flag: it has places
	patchNext       = 88 // the next patch that is on
	patchOwner      = 96 // the next patch whose ftrace_ops is registered
	patchOps        = 104

	funcNext       = 0  // the next owner of a place
	funcSite       = 8  // what ftrace calls the place
	funcTrampoline = 16 // called from there
	funcPrev       = 24 // where the trampoline goes on while the gate is closed
	funcBelow      = 32 // the record below on the stack of the place
	funcOwner      = 40 // the record whose ftrace_ops is registered
	funcTop        = 48 // in an owner: the record on top
	funcName       = 56 // for messages
	funcOps        = 64 // struct ftrace_ops

	// A function of the shared dispatch; they are sorted by their places.
	entrySite        = 0
	entryReplacement = 8
	entryName        = 16
	entryOwned       = 24 // flag: the place is claimed by the ftrace_ops of the patch
	entrySize        = 1 << entryShift
	entryShift       = 5
)

// interfaceVersion is the version of the base module's symbols, as the kernel
// compares it, and its name (Interface): others for other records.
const interfaceVersion = 0x4c504402

// maxBuildID is what the code of the base module compares.
const maxBuildID = frameRoom

// directName begins the names of trampolines: /sys/kernel/tracing/enabled_functions shows them.
const directName = "direct."

// The symbols of a patch module that its code refers to.
const (
	directPatch = "livepatch_patch"
	directFuncs = "livepatch_funcs"
	directLeave = "direct_leave"
	directParam = "__param"
)

// The parameters of a patch module, files in /sys/module/NAME/parameters: the
// gate, and the functions, "name,position" with a space between them.
const (
	paramEnabled   = "enabled"
	paramFunctions = "functions"
	paramDispatch  = "dispatch" // "shared", of the shared dispatch only
)

// direct refuses what the flavour cannot do.
func (c *specCheck) direct() {
	d := c.s.Direct
	if n := len(d.BuildID); n == 0 || n > maxBuildID {
		c.refuse(refusal.Unsupported, "", "the kernel's build-id has %d bytes, it can be compared with up to %d", n, maxBuildID)
	}
	if b, ok := c.s.Bindings[d.Anchor]; !ok || b.Kind != Export {
		c.refuse(refusal.NotExported, d.Anchor, "the kernel is not known to export it")
	}
	if d.Shared && c.s.layouts().ops(c.s.Object.Machine).ip < 0 {
		c.refuse(refusal.NoDirectCalls, "", "the kernel's type information does not tell where ftrace keeps the instruction pointer (struct ftrace_regs), which the shared dispatch sets")
	}
	if len(c.s.States) > 0 {
		c.refuse(refusal.Unsupported, "", "states of the system are known to the livepatch core only")
	}
	for _, o := range c.s.Objects {
		if objectName(o.Name) != vmlinux {
			c.refuse(refusal.Unsupported, o.Name, "modules are patched through the livepatch core only, which waits for them")
		}
		for kind := range o.Callbacks {
			c.refuse(refusal.Unsupported, objectName(o.Name), "%s callbacks are called by the livepatch core only", kind)
		}
	}
}

// anchored turns a relocation to a symbol that is not exported into one to the
// anchor. Per-CPU variables of x86-64, which count from 0 and do not move with
// the kernel, become absolute symbols.
func (e *emitter) anchored(r elfpatch.Rela, b Binding, where string) (elfpatch.Rela, bool) {
	d := e.s.Direct
	switch {
	case objectName(b.Object) != vmlinux:
		e.refuse(refusal.Unsupported, where, "%s belongs to module %s and is not exported; without a livepatch core it cannot be found", b.Name, b.Object)
		return r, false
	case b.Address == 0:
		e.refuse(refusal.AddressUnknown, where, "the address of %s in the kernel is not known", b.Name)
		return r, false
	case b.Address < perCPU:
		r.Symbol = e.boundSymbol(elfpatch.Symbol{Name: fmt.Sprintf("percpu.%s,%d", b.Name, b.Pos), Section: elfpatch.Absolute, Value: b.Address, Bind: elf.STB_LOCAL})
		return r, true
	}
	r.Symbol = e.own(d.Anchor)
	r.Addend += int64(b.Address - d.Address)
	return r, true
}

// perCPU is above all offsets of per-CPU variables, below all addresses of code
// and data.
const perCPU = 1 << 32

// describeDirect adds the trampolines, the records of the patch and its
// parameters. It returns the symbols of the patch and of struct module.
func (e *emitter) describeDirect() (symbols patchSymbols) {
	var funcs []Func
	for _, o := range e.s.Objects {
		funcs = append(funcs, o.Funcs...)
	}
	if e.s.Direct.Shared {
		return e.describeShared(funcs)
	}
	d := e.s.Direct
	names := e.names()
	data := e.region(".data.livepatch", elf.SHF_WRITE, 8)
	symbols.module = e.declareModule()
	stride := uint64(funcOps) + (e.s.ABI.Structs["ftrace_ops"].Size+7)&^7
	records := make([]*record, len(funcs))
	for i := range records {
		records[i] = &record{data: make([]byte, stride)}
	}
	patch := &record{data: make([]byte, patchSize)}
	le.PutUint64(patch.data[patchStride:], stride)
	symbols.patch = data.put(directPatch, []*record{patch})
	first := data.put(directFuncs, records)
	// From here on the code can refer to the records; they refer to it when it is
	// there.
	e.labels = map[string]uint32{directPatch: symbols.patch, directFuncs: first}
	code := e.addTrampolines(funcs, stride)
	e.describeRecord(data, names, symbols, first, len(funcs))
	data.point(e.out.Symbols[symbols.patch].Value+patchLeave, code[0], 0)
	for i, f := range funcs {
		at := e.out.Symbols[first].Value + uint64(i)*stride
		data.point(at+funcSite, e.own(d.Anchor), int64(f.Site-d.Address))
		data.point(at+funcTrampoline, code[i+1], 0)
		data.point(at+funcName, names.symbol(f.Name), 0)
	}
	e.addParameters(data, names, funcs, symbols)
	return symbols
}

// describeRecord fills what every record of a patch has: n functions, from the
// record first on.
func (e *emitter) describeRecord(data *region, names *text, symbols patchSymbols, first uint32, n int) {
	d := e.s.Direct
	at := e.out.Symbols[symbols.patch].Value
	le.PutUint64(data.sec.Data[at+patchCount:], uint64(n))
	le.PutUint64(data.sec.Data[at+patchIDSize:], uint64(len(d.BuildID)))
	data.point(at+patchFuncs, first, 0)
	data.point(at+patchModule, symbols.module, 0)
	data.point(at+patchNotes, e.own(d.Anchor), int64(d.Notes-d.Address))
	data.point(at+patchID, names.bytes("build_id", d.BuildID), 0)
	data.point(at+patchName, names.symbol(e.s.Name), 0)
}

// describeShared is describeDirect for the shared dispatch: no code, and the
// functions in the order of their places, which the kernel keeps wherever it is
// moved to.
func (e *emitter) describeShared(funcs []Func) (symbols patchSymbols) {
	d := e.s.Direct
	funcs = slices.Clone(funcs)
	slices.SortStableFunc(funcs, func(a, b Func) int { return cmp.Compare(a.Site, b.Site) })
	names := e.names()
	data := e.region(".data.livepatch", elf.SHF_WRITE, 8)
	symbols.module = e.declareModule()
	patch := &record{data: make([]byte, patchOps+(e.s.ABI.Structs["ftrace_ops"].Size+7)&^7)}
	le.PutUint64(patch.data[patchStride:], entrySize)
	if e.s.Replace {
		patch.data[patchReplaces] = 1
	}
	entries := make([]*record, len(funcs))
	for i, f := range funcs {
		entries[i] = &record{data: make([]byte, entrySize), ptrs: []pointer{
			{entrySite, e.own(d.Anchor), int64(f.Site - d.Address)},
			{entryReplacement, e.definedSymbol(f.Replacement), 0},
			{entryName, names.symbol(f.Name), 0},
		}}
	}
	symbols.patch = data.put(directPatch, []*record{patch})
	e.describeRecord(data, names, symbols, data.put(directFuncs, entries), len(funcs))
	e.addParameters(data, names, funcs, symbols)
	return symbols
}

// addTrampolines adds the code that goes on with the old body, and of each
// function the code that ftrace calls. It returns their symbols.
func (e *emitter) addTrampolines(funcs []Func, stride uint64) []uint32 {
	list := []ownFunc{{name: directLeave, code: e.ops.leave(e)}}
	for i, f := range funcs {
		prev := int64(uint64(i)*stride) + funcPrev
		list = append(list, ownFunc{name: directName + f.Replacement, code: e.ops.trampoline(e, e.definedSymbol(f.Replacement), prev)})
	}
	return e.addFunctions(".text.livepatch", list)
}

// addParameters adds the files by which the patch is put on and taken off, and
// seen: struct kernel_param of each, and what it leads to.
func (e *emitter) addParameters(data *region, names *text, funcs []Func, symbols patchSymbols) {
	abi := e.s.layouts()
	var list []string
	for _, f := range funcs {
		list = append(list, fmt.Sprintf("%s,%d", f.Name, f.Sympos))
	}
	put := func(name, value string) uint32 {
		return data.put(name, []*record{{data: make([]byte, 8), ptrs: []pointer{{0, names.symbol(value), 0}}}})
	}
	functions := put("livepatch_functions", strings.Join(list, " "))
	_, set := e.s.takers()
	ops := abi.record("kernel_param_ops")
	ops.point("set", e.own(set), 0)
	ops.point("get", e.own("param_get_bool"), 0)
	enabled := data.put("livepatch_enabled", []*record{ops})
	param := func(name string, ops uint32, perm uint64, arg uint32) *record {
		r := abi.record("kernel_param")
		r.point("name", names.symbol(name), 0)
		r.point("mod", symbols.module, 0)
		r.point("ops", ops, 0)
		r.point("arg", arg, 0)
		r.bytes("perm", le.AppendUint16(nil, uint16(perm)))
		r.bytes("level", []byte{0xff}) // -1: at no level of the kernel's start
		return r
	}
	params := []*record{
		param(paramEnabled, enabled, 0o644, symbols.patch),
		param(paramFunctions, e.own("param_ops_charp"), 0o444, functions),
	}
	if e.s.Direct.Shared {
		params = append(params, param(paramDispatch, e.own("param_ops_charp"), 0o444, put("livepatch_dispatch", "shared")))
	}
	e.region("__param", 0, 8).put("livepatch_params", params)
}

// takers are the functions that a patch is handed over to: when the module is
// loaded, and by the parameter.
func (s *Spec) takers() (enable, set string) {
	switch {
	case s.Direct == nil:
		return enablePatch, ""
	case s.Direct.Shared:
		return sharedEnable, sharedSet
	}
	return directEnable, directSet
}
