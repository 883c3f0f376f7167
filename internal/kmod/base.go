package kmod

import (
	"debug/elf"
	"fmt"
	"maps"
	"slices"

	"livepatch/elfpatch"
	"livepatch/internal/refusal"
)

// directExports are the exported functions of a kernel that the base module
// calls.
type directExports struct {
	register, modify, unregister string // of ftrace's direct calls
	claim, unclaim               string // of an ftrace_ops
	filter, free                 string // which place an ftrace_ops is for
	wait                         string // until no task is in code that it came to before
	read, compare, clear         string // memory
	hold, print                  string
}

// directNames are the exports for a kernel that has those of has. The first of
// several that is there is taken.
func directNames(has func(name string) bool) (directExports, error) {
	x := directExports{filter: "ftrace_set_filter_ip", free: "ftrace_free_filter", read: "copy_from_kernel_nofault", compare: "memcmp", clear: "memset", hold: "__module_get", print: "_printk"}
	for _, row := range []struct {
		to    *string
		names []string
	}{
		// Up to 6.3 register_ftrace_direct takes one place and no ftrace_ops
		// (include/linux/ftrace.h, 6.1 and 6.12).
		{&x.register, []string{"register_ftrace_direct_multi", "register_ftrace_direct"}},
		{&x.modify, []string{"modify_ftrace_direct_multi", "modify_ftrace_direct"}},
		{&x.unregister, []string{"unregister_ftrace_direct_multi", "unregister_ftrace_direct"}},
		// Where the kernel does not preempt itself both wait for the same
		// (include/linux/rcupdate.h, without CONFIG_TASKS_RCU).
		{&x.wait, []string{"synchronize_rcu_tasks", "synchronize_rcu"}},
		{&x.claim, []string{"register_ftrace_function"}}, {&x.unclaim, []string{"unregister_ftrace_function"}},
		{&x.filter, []string{x.filter}}, {&x.free, []string{x.free}}, {&x.read, []string{x.read}},
		{&x.compare, []string{x.compare}}, {&x.clear, []string{x.clear}}, {&x.hold, []string{x.hold}}, {&x.print, []string{x.print}},
	} {
		*row.to = ""
		for _, name := range row.names {
			if *row.to == "" && has(name) {
				*row.to = name
			}
		}
		if *row.to == "" {
			return x, refusal.New(refusal.NoDirectCalls, BaseName, "the kernel does not export %s", row.names[len(row.names)-1])
		}
	}
	return x, nil
}

// names lists the exports.
func (x directExports) names() []string {
	return []string{x.register, x.modify, x.unregister, x.claim, x.unclaim, x.filter, x.free, x.wait, x.read, x.compare, x.clear, x.hold, x.print}
}

// BaseExports lists the exports that the base module needs of a kernel. The
// error is a refusal if the kernel has no direct calls.
func (s *Spec) BaseExports(has func(name string) bool) ([]string, error) {
	x, err := directNames(has)
	if err != nil {
		return nil, err
	}
	own := x.names()
	if s.Versions != NoVersions {
		own = append(own, moduleLayout)
	}
	if s.Rethunk {
		own = append(own, returnThunk)
	}
	return own, nil
}

// withBase adds what the base module exports to the bindings of a patch.
func withBase(b map[string]Binding) map[string]Binding {
	b = maps.Clone(b)
	for _, name := range []string{directEnable, directSet, sharedEnable, sharedSet} {
		b[name] = Binding{Kind: Export, Object: BaseName, Name: name, CRC: interfaceVersion, HasCRC: true, GPL: true}
	}
	return b
}

// unwindEntry is the entry of the unwind tables for the first instruction of a
// replacement, or what is wrong with them.
func (s *Spec) unwindEntry() (entry []byte, fault string, err error) {
	ip := s.Object.Section(".orc_unwind_ip")
	if ip == nil || len(s.Objects) == 0 || len(s.Objects[0].Funcs) == 0 {
		return nil, "the object has no ORC tables, and the kernel unwinds by them (run objtool on the merged object)", nil
	}
	rels, err := s.Object.Relocations(ip)
	if err != nil {
		return nil, "", err
	}
	for _, sym := range s.Object.Symbols {
		if sym.Name == s.Objects[0].Funcs[0].Replacement && sym.Section > 0 && sym.Type != elf.STT_SECTION {
			entry, fault = x86ORCEntry(s.Object, map[int][]elfpatch.Rela{ip.Index: rels}, sym)
			return entry, fault, nil
		}
	}
	return nil, "the replacement " + s.Objects[0].Funcs[0].Replacement + " is not in the object", nil
}

// EmitBase makes the base module of the direct flavour for the kernel of a
// patch's Spec, of which it takes layouts, traits, the form of unwind tables, and
// Bindings, which has to have what BaseExports lists. The error is as for Emit.
func EmitBase(s Spec) ([]byte, error) {
	m := s.Object.Machine
	if s.ORC && m == elf.EM_X86_64 {
		entry, fault, err := s.unwindEntry()
		if err != nil {
			return nil, fmt.Errorf("emit %s: %w", BaseName, err)
		}
		if fault != "" {
			return nil, refusal.List{refusal.New(refusal.UnwindMissing, BaseName+": .orc_unwind", "%s", fault)}
		}
		s.orcEntry = entry
	}
	header := s.Object.Section(formatMark)
	s.Name, s.base, s.Direct = BaseName, true, nil
	s.Object = elfpatch.New(elf.ET_REL, m)
	e := &emitter{
		s: &s, in: s.Object, out: elfpatch.New(elf.ET_REL, m), ops: machines[m],
		bound: map[string]uint32{}, imports: map[string]Binding{}, rels: map[int][]elfpatch.Rela{}, klp: map[klpTarget][]elfpatch.Rela{},
	}
	if e.ops == nil {
		return nil, fmt.Errorf("emit %s: no modules for %v", s.Name, m)
	}
	c := &specCheck{s: &s}
	c.names()
	x, err := directNames(func(name string) bool { return s.Bindings[name].Kind == Export })
	if err != nil {
		return nil, refusal.List{err.(refusal.Refusal)}
	}
	if _, split := s.ABI.Structs["module"].Members["gpl_syms"]; !split {
		c.refuse(refusal.Unsupported, "", "the kernel has one table for all exports of a module, whose form is not known here")
	}
	if err := append(c.out, s.layouts().check(s.Name, s.wanted())...).Err(); err != nil {
		return nil, err
	}
	module := e.describeBase(x)
	e.ops.describeCode(e)
	if header != nil {
		e.out.AddSection(elfpatch.Section{Name: formatMark, Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC, Align: 4, Data: slices.Clone(header.Data)})
	}
	e.addModule(module, 0, 0)
	return e.finish()
}

// describeBase adds the data and the code of the base module. It returns the
// symbol of struct module.
func (e *emitter) describeBase(x directExports) uint32 {
	abi := e.s.layouts()
	names := e.names()
	data := e.region(".data.livepatch", elf.SHF_WRITE, 8)
	module := e.declareModule()
	zeros := func(name string, n int) uint32 { return data.put(name, []*record{{data: make([]byte, n)}}) }
	e.labels = map[string]uint32{
		baseMessage:   names.bytes(baseMessage, []byte(message)),
		baseFunctions: names.bytes(baseFunctions, []byte(theFunctions)),
		baseOwners:    zeros(baseOwners, 8),
		baseLock:      zeros(baseLock, 8),
		sharedHeads:   zeros(sharedHeads, patchOps),
		sharedFlags:   data.put(sharedFlags, []*record{{data: le.AppendUint64(nil, sharedOpsFlags)}}),
	}
	arg := int(abi.Structs["kernel_param"].Members["arg"].Offset)
	code := []*program{detachProgram(x), enableProgram(x), setProgram(directSet, directEnable, baseDetach, arg)}
	l := abi.ops(e.in.Machine)
	if l.ip >= 0 {
		code = append(code, handlerProgram(l), findProgram(), ownedProgram(), releaseProgram(x, l), pruneProgram(x), retireProgram(),
			enableSharedProgram(x, l), setProgram(sharedSet, sharedEnable, sharedRetire, arg))
	}
	e.addBaseCode(code)
	if l.ip >= 0 {
		keep := e.region("_kprobe_blacklist", 0, 8) // include/asm-generic/kprobes.h, 6.12
		keep.put("kprobes_keep_out", []*record{{data: make([]byte, 8), ptrs: []pointer{{0, e.labels[SharedHandler], 0}}}})
	}
	return module
}

// addBaseCode adds programs, which may call those before them, and exports
// those that are global, which are in the order of their names: the kernel
// searches them so.
func (e *emitter) addBaseCode(list []*program) {
	var strings []byte
	var values, namesAt []elfpatch.Rela
	var crcs []byte
	sec := e.startFunctions(".text.livepatch")
	text := e.out.AddSection(elfpatch.Section{Name: "__ksymtab_strings", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC, Align: 1, Data: []byte{}})
	textSymbol := uint32(e.out.AddSymbol(elfpatch.Symbol{Name: "exported", Type: elf.STT_OBJECT, Bind: elf.STB_LOCAL, Section: text.Index}))
	for _, p := range list {
		sym := e.addFunction(sec, ownFunc{name: p.name, code: e.assemble(p)})
		e.labels[p.name] = sym
		if !p.global {
			continue
		}
		at := uint64(ksymSize * len(values))
		values = append(values, elfpatch.Rela{Offset: at, Type: e.ops.distance, Symbol: sym})
		namesAt = append(namesAt, elfpatch.Rela{Offset: at + 4, Type: e.ops.distance, Symbol: textSymbol, Addend: int64(len(strings))})
		strings = append(append(strings, p.name...), 0)
		crcs = le.AppendUint32(crcs, interfaceVersion)
		e.out.Symbols[sym].Bind = elf.STB_GLOBAL
	}
	text.Data, text.Size = strings, uint64(len(strings))
	e.out.Symbols[textSymbol].Size = text.Size
	table := e.out.AddSection(elfpatch.Section{Name: "__ksymtab_gpl", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC, Align: 4, Data: make([]byte, ksymSize*len(values))})
	for i := range values {
		e.rels[table.Index] = append(e.rels[table.Index], values[i], namesAt[i])
	}
	if e.s.Versions != NoVersions {
		e.out.AddSection(elfpatch.Section{Name: "__kcrctab_gpl", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC, Align: 4, Data: crcs})
	}
}

// ksymSize is the size of struct kernel_symbol with references as distances:
// to the value, the name and the namespace, 0 for none (kernel/module/internal.h,
// 6.1 and 6.12).
const ksymSize = 12
