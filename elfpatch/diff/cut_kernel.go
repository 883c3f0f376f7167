package diff

import (
	"cmp"
	"debug/elf"
	"fmt"
	"slices"
	"strings"

	"livepatch/elfpatch"
	"livepatch/elfpatch/kernel"
	"livepatch/internal/refusal"
)

// CutOptions is what CutFor is told of the target and the rest of the patch.
type CutOptions struct {
	// Elsewhere are changed functions, as symbols of the patched object, that
	// another object of the patch replaces: they are referred to where the
	// target has them.
	Elsewhere map[int]bool

	// ModuleKey tells, for kernel objects, whether the static key or static-call key ("__SCK__name")
	// of a name is defined by a module, and by which. Nil: all are vmlinux's.
	ModuleKey func(symbol string) (module string, ok bool)
	// Strides holds, for kernel objects by section, the size of an entry that the target's types
	// give ("__bug_table": 12). Objects that say otherwise are refused.
	Strides map[string]uint64
}

// KernelCut is what a cut kernel object holds besides code and data.
type KernelCut struct {
	Callbacks []Callback
	ImportNS  []string // namespaces that the patched object imports
	Warnings  []string
	Tables    []TableCount // of Object, in the order of its sections
	// Raw: objtool has not seen the objects. It has to run on Object, whose
	// relocations are made so that it can, and which holds notes for it
	// (.discard.*).
	Raw bool
}

// Callback is a function that the kernel calls when a patch comes or goes.
type Callback struct {
	Kind   string // "pre_patch", "post_patch", "pre_unpatch" or "post_unpatch"
	Symbol int    // in Object
}

// TableCount is how many entries of a table about code the cut kept.
type TableCount struct {
	Section string
	Entries int
}

// kernelCutter is what a cutter knows of kernels.
type kernelCutter struct {
	k         *cutter
	s         *side // the patched object
	opt       CutOptions
	raw       bool
	callbacks []requested
	dropped   map[*piece]bool       // entries that new code does without
	unset     map[*piece]bool       // entries whose key is one that nobody sets
	offKey    int                   // the symbol of that key
	stilled   map[*piece][]uint64   // jumps and calls, by offset, that become NOPs
	loads     map[*piece][]bootLoad // of variables, in the place of constants
	warnings  []string
	warned    map[string]bool
	joined    map[string]*elfpatch.Section // sections of out that several pieces share
	forms     map[string]*kernel.Layout    // of their entries
	symbols   map[*elfpatch.Section]int    // section symbols of out
	tables    map[string]int
	bodies    map[int][]body   // of functions, by section of the patched object
	entered   map[int][]uint64 // see patchable
}

type requested struct {
	kind string
	fn   *piece
}

func newKernelCutter(k *cutter, opt CutOptions) *kernelCutter {
	return &kernelCutter{
		k: k, s: k.c.patched, opt: opt, raw: k.c.m == elf.EM_X86_64 && k.c.patched.f.Section(".orc_unwind_ip") == nil,
		dropped: map[*piece]bool{}, unset: map[*piece]bool{}, stilled: map[*piece][]uint64{}, loads: map[*piece][]bootLoad{}, warned: map[string]bool{},
		joined: map[string]*elfpatch.Section{}, forms: map[string]*kernel.Layout{}, symbols: map[*elfpatch.Section]int{}, tables: map[string]int{}, bodies: map[int][]body{},
	}
}

var callbackKinds = map[kernel.RequestKind]string{
	kernel.PrePatch: "pre_patch", kernel.PostPatch: "post_patch", kernel.PreUnpatch: "pre_unpatch", kernel.PostUnpatch: "post_unpatch",
}

// requests includes the callbacks that the author asked for.
func (u *kernelCutter) requests() {
	has := map[string]bool{}
	for _, sec := range u.s.f.Sections {
		kind := callbackKinds[kernel.RequestOf(sec.Name)]
		if kind == "" || sec.Type == elf.SHT_RELA {
			continue
		}
		rels, err := sortedRelocations(u.s.f, sec)
		if err != nil {
			u.refuse(refusal.SpecialSection, sec.Name, "%v", err)
			continue
		}
		for _, r := range rels {
			p, delta := u.target(r)
			switch {
			case p == nil || p.kind != function || delta != 0:
				u.refuse(refusal.SpecialSection, sec.Name, "entry at +%#x names no function of the object", r.Offset)
			case has[kind]:
				u.refuse(refusal.CallbackDuplicate, p.name, "the object has another %s callback", kind)
			default:
				has[kind] = true
				u.callbacks = append(u.callbacks, requested{kind, p})
				u.k.include(p)
			}
		}
	}
}

func (u *kernelCutter) refuse(code refusal.Code, where, format string, args ...any) {
	u.k.refusals = append(u.k.refusals, refusal.New(code, u.k.c.opt.Name+": "+where, format, args...))
}

func (u *kernelCutter) warn(format string, args ...any) {
	if w := fmt.Sprintf(format, args...); !u.warned[w] {
		u.warned[w] = true
		u.warnings = append(u.warnings, w)
	}
}

// result is what the cut says of itself.
func (u *kernelCutter) result() *KernelCut {
	out := &KernelCut{ImportNS: importNS(u.s.f), Warnings: u.warnings, Raw: u.raw}
	for _, c := range u.callbacks {
		out.Callbacks = append(out.Callbacks, Callback{c.kind, u.k.included[c.fn]})
	}
	for _, sec := range u.k.out.Sections {
		if n := u.tables[sec.Name]; n > 0 && sec.Type != elf.SHT_RELA {
			out.Tables = append(out.Tables, TableCount{sec.Name, n})
			delete(u.tables, sec.Name)
		}
	}
	return out
}

// importNS lists the namespaces that .modinfo imports. In objects of the kernel
// itself a tag follows the name of the file: "xfs.import_ns=…".
func importNS(f *elfpatch.File) []string {
	var all []string
	for _, sec := range f.Sections {
		if sec.Name != ".modinfo" || sec.Type == elf.SHT_NOBITS {
			continue
		}
		for _, tag := range strings.Split(string(sec.Data), "\x00") {
			name, value, ok := strings.Cut(tag, "=")
			if ok && (name == "import_ns" || strings.HasSuffix(name, ".import_ns")) && !slices.Contains(all, value) {
				all = append(all, value)
			}
		}
	}
	return all
}

// mayBeRoot reports whether the patch may bring a piece for its own sake:
// tables that the kernel collects, and what starting up uses, would not be
// seen by it.
func (u *kernelCutter) mayBeRoot(p *piece) bool {
	if p.kind == entry || p.prefix || p.sec > 0 && u.s.secs[p.sec].row != nil {
		return false
	}
	return p.sec <= 0 || u.goneAfterStart(p) == ""
}

// goneAfterStart names the section of a piece that the kernel gives back, or
// that only the hypervisor sees; "" for all others.
func (u *kernelCutter) goneAfterStart(p *piece) string {
	name := u.s.f.Sections[p.sec].Name
	if rule := kernel.TextOf(name); p.kind == function && rule != nil &&
		(rule.Fate == kernel.TextInit || rule.Fate == kernel.TextExit || strings.HasPrefix(name, ".hyp.") || name == ".idmap.text") {
		return name
	}
	if p.kind != function && (kernel.HasPrefix(kernel.InitData, name) != nil || strings.HasPrefix(name, ".hyp.")) {
		return name
	}
	return ""
}

// check refuses what cannot be part of a module.
func (u *kernelCutter) check(p *piece) {
	if p.sec > 0 && u.goneAfterStart(p) != "" {
		u.refuse(refusal.InitMemory, p.name, "it would have to be in the patch, but is in %s", u.goneAfterStart(p))
	}
	if p.kind == function && u.raw && u.s.f.Section(".static_call_sites") == nil {
		u.checkCalls(p)
	}
}

// followEntries includes the entries of tables about a piece of code.
func (u *kernelCutter) followEntries(p *piece) {
	for _, e := range p.entries {
		if !u.k.isIncluded(e) && !u.dropped[e] && u.admit(p, e) {
			u.k.include(e)
			u.followReplacement(e)
		}
	}
	u.followSupport(p)
}

// admit decides whether the patch has an entry about its code.
func (u *kernelCutter) admit(p, e *piece) bool {
	sec := &u.s.secs[e.sec]
	name := u.s.f.Sections[e.sec].Name
	for i := range e.refs {
		if r := &e.refs[i]; r.to != nil && (r.to.kind == function || u.s.isSupportCode(r.to)) && (r.add < -mostPrefix || r.add > int64(r.to.size)) {
			u.refuse(refusal.SpecialSection, name, "entry at +%#x leads out of %s", e.off, r.to.name)
			return false
		}
	}
	if sec.row.BootOnly {
		if l, ok := u.s.bootLoadOf(e); ok {
			u.loads[p] = append(u.loads[p], l)
			u.dropped[e] = true
			return false
		}
		if u.k.c.status(p) == Same { // of others Compare says so
			u.refuse(refusal.BootConstant, where(p, uint64(max(u.s.codePlace(e), 0))), "%s: the kernel writes this constant only into its own image", name)
		}
		return false
	}
	field, ok := sec.layout.Field(kernel.FieldKey)
	if !ok {
		return true
	}
	key := e.fieldRef(field)
	if key == nil || key.to != nil && u.k.isOwn(key.to) {
		return true // the patch brings the key
	}
	symbol := u.keyName(key)
	if bare, ok := strings.CutPrefix(symbol, sctPrefix); ok {
		symbol = sckPrefix + bare
	}
	owner, foreign := u.ownerOf(symbol)
	if !foreign {
		return true
	}
	at := uint64(max(u.s.codePlace(e), 0))
	static := strings.HasPrefix(symbol, sckPrefix)
	switch {
	case isHarmless(symbol) || key.to != nil && u.isDescriptor(key.to):
		u.warn("%s: %s of module %s is off in the new code", p.name, harmlessName(symbol), owner)
		if u.raw && !static {
			u.unset[e] = true
			return true
		}
		u.dropped[e] = true
		if !static && key.add&hackedKey != 0 {
			u.stilled[p] = append(u.stilled[p], at)
		}
	case static:
		u.refuse(refusal.StaticCallModule, where(p, at), "static call %q belongs to module %s", strings.TrimPrefix(symbol, sckPrefix), owner)
	default:
		u.refuse(refusal.StaticKeyModule, where(p, at), "static key %q belongs to module %s", symbol, owner)
	}
	return false
}

const (
	sckPrefix = "__SCK__" // key of a static call
	sctPrefix = "__SCT__" // its trampoline
	// In the key of a jump-table entry: the jump stands for a NOP that objtool
	// puts there (arch/x86/include/asm/jump_label.h, 6.12).
	hackedKey = 2
)

func (u *kernelCutter) ownerOf(symbol string) (string, bool) {
	if u.opt.ModuleKey == nil || symbol == "" {
		return "", false
	}
	return u.opt.ModuleKey(symbol)
}

// keyName is the name of the variable that a reference leads to.
func (u *kernelCutter) keyName(r *ref) string {
	if r.to != nil {
		return r.to.name
	}
	return u.s.f.Symbols[r.sym].Name
}

// isHarmless reports keys of tracepoints: without them new code does not trace,
// and is right otherwise.
func isHarmless(symbol string) bool {
	return strings.HasPrefix(symbol, "__tracepoint_") || strings.HasPrefix(symbol, sckPrefix+"tp_func_")
}

func harmlessName(symbol string) string {
	for _, prefix := range []string{"__tracepoint_", sckPrefix + "tp_func_"} {
		if name, ok := strings.CutPrefix(symbol, prefix); ok {
			return fmt.Sprintf("tracepoint %q", name)
		}
	}
	return fmt.Sprintf("debug message %q", symbol)
}

func (u *kernelCutter) isDescriptor(p *piece) bool {
	return p.sec > 0 && u.s.secs[p.sec].row != nil && u.s.secs[p.sec].row.Use == kernel.Descriptors
}

// rekey makes the entry of a key that is off in new code name a key of the
// patch, which nobody sets. Without its entry objtool would take the code behind
// the jump for unreachable.
func (u *kernelCutter) rekey(e *piece, r *ref, rel *elfpatch.Rela) bool {
	field, _ := u.s.secs[e.sec].layout.Field(kernel.FieldKey)
	if !u.unset[e] || r.off != uint64(field.Off) {
		return false
	}
	if u.offKey == 0 {
		// struct static_key: a count, and a word whose low bits say that it is
		// off to begin with (include/linux/jump_label.h, 6.12).
		name := u.k.unique("livepatch_off_key")
		sec := u.k.out.AddSection(elfpatch.Section{
			Name: ".data." + name, Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | elf.SHF_WRITE, Align: 8, Data: make([]byte, 16),
		})
		u.offKey = u.k.out.AddSymbol(elfpatch.Symbol{Name: name, Type: elf.STT_OBJECT, Bind: elf.STB_LOCAL, Section: sec.Index, Size: 16})
	}
	rel.Symbol, rel.Addend = uint32(u.offKey), r.add&3 // the bits of the entry: what it does when the key is on, and what objtool does
	return true
}

// checkCalls looks at the static calls of code that objtool has not seen: it
// will make the table entries from the calls themselves.
func (u *kernelCutter) checkCalls(p *piece) {
	for i := range p.refs {
		r := &p.refs[i]
		if r.sym == 0 || r.to != nil && u.k.isOwn(r.to) {
			continue
		}
		bare, ok := strings.CutPrefix(u.keyName(r), sctPrefix)
		if !ok {
			continue
		}
		owner, foreign := u.ownerOf(sckPrefix + bare)
		switch {
		case !foreign:
		case isHarmless(sckPrefix + bare):
			u.warn("%s: %s of module %s is off in the new code", p.name, harmlessName(sckPrefix+bare), owner)
			u.stilled[p] = append(u.stilled[p], r.off-1)
		default:
			u.refuse(refusal.StaticCallModule, where(p, r.off), "static call %q belongs to module %s", bare, owner)
		}
	}
}

// still puts NOPs where a jump or call of a piece must not happen, and returns
// the relocations that are left.
func (u *kernelCutter) still(p *piece, list []elfpatch.Rela) []elfpatch.Rela {
	at := u.k.places[p]
	for _, off := range u.stilled[p] {
		if l := u.k.layouts[p]; l != nil {
			off = uint64(l.at(int64(off)))
		}
		code := at.sec.Data[min(at.off+off, uint64(len(at.sec.Data))):]
		nop := nopFor(code)
		copy(code, nop)
		from, to := at.off+off, at.off+off+uint64(len(nop))
		list = slices.DeleteFunc(list, func(r elfpatch.Rela) bool { return r.Offset >= from && r.Offset < to })
	}
	return list
}

// nopFor is the NOP as long as the jump or call of x86-64 that code starts with,
// nil if it starts with none.
func nopFor(code []byte) []byte {
	switch {
	case len(code) >= 5 && (code[0] == 0xe9 || code[0] == 0xe8):
		return []byte{0x0f, 0x1f, 0x44, 0x00, 0x00} // nopl 0(%rax,%rax,1)
	case len(code) >= 2 && code[0] == 0xeb:
		return []byte{0x66, 0x90} // xchg %ax,%ax
	}
	return nil
}

// finish adds the tables that are made anew for the code of the patch.
func (u *kernelCutter) finish(rels map[*elfpatch.Section][]elfpatch.Rela) {
	for _, p := range u.k.order {
		if u.k.places[p].sec == nil {
			continue
		}
		if len(u.stilled[p]) > 0 {
			rels[u.k.places[p].sec] = u.still(p, rels[u.k.places[p].sec])
		}
		if len(u.loads[p]) > 0 {
			rels[u.k.places[p].sec] = u.load(p, rels[u.k.places[p].sec])
		}
	}
	b := &tableMaker{u: u, rels: rels}
	b.unwind()
	b.sites()
	b.notes()
	u.keepCallKeys()
	for _, list := range rels {
		slices.SortStableFunc(list, func(x, y elfpatch.Rela) int { return cmp.Compare(x.Offset, y.Offset) })
	}
	u.judge(rels)
}

// judge refuses relocations that cannot be applied, and those of tables that
// lead out of what they name.
func (u *kernelCutter) judge(rels map[*elfpatch.Section][]elfpatch.Rela) {
	for _, sec := range u.k.out.Sections {
		for _, r := range rels[sec] {
			info, ok := elfpatch.RelocInfo(u.k.c.m, r.Type)
			if !ok || info.Kind == elfpatch.KindDynamic || r.Offset > sec.Size || uint64(info.Size) > sec.Size-r.Offset {
				u.refuse(refusal.RelocationInvalid, where(&piece{name: sec.Name}, r.Offset), "%s cannot be applied there", elfpatch.RelocName(u.k.c.m, r.Type))
				continue
			}
			sym := &u.k.out.Symbols[r.Symbol]
			if u.tables[sec.Name] == 0 || sym.Section <= 0 || info.Size == 0 {
				continue
			}
			if at := int64(sym.Value) + r.Addend; at < 0 || uint64(at) > u.k.out.Sections[sym.Section].Size {
				u.refuse(refusal.RelocationInvalid, where(&piece{name: sec.Name}, r.Offset), "it leads %d bytes into %s", at, u.k.out.Sections[sym.Section].Name)
			}
		}
	}
}

// keepCallKeys names the keys of the static calls in code that objtool has not
// seen. It looks for the key by its name.
func (u *kernelCutter) keepCallKeys() {
	if !u.raw {
		return
	}
	for _, e := range slices.Clone(u.k.list) {
		bare, ok := strings.CutPrefix(e.Name, sctPrefix)
		if !ok {
			continue
		}
		for i := range u.s.f.Symbols {
			sym := &u.s.f.Symbols[i]
			if sym.Name != sckPrefix+bare {
				continue
			}
			if p := u.s.bySym[i]; p == nil {
				u.k.undefined(&ref{sym: uint32(i)})
			} else if !u.k.isIncluded(p) {
				u.k.original(p, &ref{sym: uint32(i)})
			}
			break
		}
	}
}
