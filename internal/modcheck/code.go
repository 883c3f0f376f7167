package modcheck

import (
	"debug/elf"
	"strings"

	"livepatch/disasm"
	"livepatch/elfpatch"
	"livepatch/internal/refusal"
)

// checkText reads all code and asks of each instruction whether it may stand
// there: returns and indirect branches as the kernel's own are built, calls to the
// beginning of functions.
func (c *checker) checkText() {
	c.taken, c.outside = map[place]string{}, map[foreign]use{}
	c.dataPointers()
	sites := map[string]map[place]bool{}
	for _, name := range []string{".return_sites", ".retpoline_sites", ".call_sites", ".altinstructions", ".parainstructions", ".discard.retpoline_safe"} {
		sites[name] = c.tablePlaces(name)
	}
	before := c.refusals(whatMitigation)
	n := 0
	for _, s := range c.f.Sections {
		if executable(s) {
			c.readText(s, func(at place, in disasm.Inst) {
				n++
				c.checkInstruction(at, in, sites)
			})
		}
	}
	c.checkCodeRelocations()
	switch t := c.target.traits; {
	case !t.known:
		c.later(whatMitigation, "", "no image given says which mitigations the kernel is built with")
	case c.f.Machine != elf.EM_X86_64:
		c.ok(whatMitigation, "", "arm64 has no thunks that modules are built with")
	case c.refusals(whatMitigation) == before:
		c.ok(whatMitigation, "", "%d instructions; the kernel has %s", n, t.mitigations())
	}
	if v, _ := c.tag("retpoline"); c.target.traits.retpoline && v != "Y" {
		c.refuse(refusal.MitigationMissing, whatMitigation, ".modinfo", "retpoline=Y is missing; the kernel warns that the module is vulnerable")
	}
}

// tablePlaces are the places that a table names.
func (c *checker) tablePlaces(name string) map[place]bool {
	set := map[place]bool{}
	for _, s := range c.f.Sections {
		if s.Name != name {
			continue
		}
		for _, r := range c.refs[s.Index] {
			if to, ok := c.to(r); ok && r.Type != 0 {
				set[to] = true
			}
		}
	}
	return set
}

func (c *checker) checkInstruction(at place, in disasm.Inst, sites map[string]map[place]bool) {
	c.checkLocal(at, in)
	if c.f.Machine != elf.EM_X86_64 {
		return
	}
	t := c.target.traits
	bad := func(format string, args ...any) {
		c.refuse(refusal.MitigationMissing, whatMitigation, c.name(at), format, args...)
	}
	switch in.Flow {
	case disasm.Return:
		if t.rethunk && in.X86.Map == 0 && (in.X86.Opcode == 0xc3 || in.X86.Opcode == 0xc2) {
			bad("a plain ret, the kernel returns through __x86_return_thunk")
		}
	case disasm.IndirectJump, disasm.IndirectCall:
		if t.retpoline && !sites[".altinstructions"][at] && !sites[".parainstructions"][at] && !sites[".discard.retpoline_safe"][at] {
			bad("an indirect branch, the kernel's go through __x86_indirect_thunk_*")
		}
	case disasm.Jump, disasm.CondJump, disasm.Call:
		name, _ := c.callee(at, in)
		if isReturnThunk(name) && t.rethunk && !sites[".return_sites"][at] {
			bad("a return that .return_sites does not list")
		}
		if t.callDepth && in.Flow == disasm.Call && !counted(name) && !c.uncounted(at) && !sites[".call_sites"][at] {
			bad("a call that .call_sites does not list")
		}
		if isBranchThunk(name) && t.retpoline && !sites[".retpoline_sites"][at] {
			bad("an indirect branch that .retpoline_sites does not list")
		}
	}
}

// checkLocal looks at what an instruction refers to in its own section, as far
// as the assembler has put that into it without a relocation.
func (c *checker) checkLocal(at place, in disasm.Inst) {
	if in.PCRel.Size == 0 || in.Page {
		return
	}
	if _, relocated := c.at(at.plus(int64(in.PCRel.Off))); relocated {
		return
	}
	off, ok := in.Target(at.off)
	to := place{at.sec, off}
	switch {
	case !ok:
	case in.Mem:
		c.takePlace(to, at)
	case in.Flow == disasm.Call && c.f.Machine == elf.EM_X86_64: // assembler code of arm64 has subroutines inside of functions
		own, inside := c.functionOf(at)
		if inside && !own.contains(off) && len(c.functionsAt(to)) == 0 {
			c.refuse(refusal.RelocationInvalid, whatRelocation, c.name(at), "a call leads to %s, where no function begins", c.name(to))
		}
	}
}

// uncounted reports code whose calls are not counted: templates, and what runs
// once.
func (c *checker) uncounted(at place) bool {
	s := c.section(at.sec)
	return s.Name == ".altinstr_replacement" || freed(s)
}

// counted reports calls that .call_sites need not list, since other tables
// do or the kernel rewrites them: tools/objtool/check.c, annotate_call_site, 6.12.
func counted(name string) bool {
	return isBranchThunk(name) || name == "__fentry__" || strings.HasPrefix(name, "__SCT__")
}

// callee returns the name of the symbol that a branch is relocated to; of a
// livepatch symbol that of what it stands for.
func (c *checker) callee(at place, in disasm.Inst) (string, bool) {
	r, ok := c.at(at.plus(int64(in.PCRel.Off)))
	if !ok {
		return "", false
	}
	s, ok := c.symbol(r.Symbol)
	if !ok {
		return "", false
	}
	if _, name, _, klp := splitSymbol(s.Name); klp {
		return name, true
	}
	return s.Name, true
}

// notPointers are sections whose references to code are not meant to be
// called: tools/objtool/check.c, validate_ibt, 6.12, and those that tell the
// module's init what to patch.
func notPointer(s *elfpatch.Section) bool {
	switch s.Name {
	case ".altinstructions", ".ibt_endbr_seal", ".orc_unwind_ip", ".parainstructions", ".retpoline_sites", ".return_sites", ".call_sites", ".cfi_sites",
		".smp_locks", ".static_call_sites", "_error_injection_whitelist", "_kprobe_blacklist", "__bug_table", "__ex_table", "__jump_table", "__mcount_loc",
		".kcfi_traps", "__kcfi_traps", "__patchable_function_entries", ".kpatch.funcs", ".init.klp_funcs", "__klp_funcs", thisModule:
		return true
	}
	return false
}

// dataPointers notes functions whose address is in data. Those of klp_func are
// entered by ftrace, which returns into them: no indirect branch.
func (c *checker) dataPointers() {
	own := map[place]bool{}
	if c.patch != nil {
		for _, o := range c.patch.objects {
			for _, f := range o.funcs {
				if c.patch.direct != nil {
					own[f.at.plus(c.patch.direct.site())] = true
					own[f.at.plus(entryReplacement)] = c.patch.direct.shared // else a trampoline leads to it
					continue
				}
				own[f.at.plus(fnNew)] = true
			}
			for _, x := range o.calls {
				own[x.at] = true // has its own question
			}
		}
	}
	for _, r := range c.relas {
		if r.target == nil || r.target.Flags&elf.SHF_ALLOC == 0 || executable(r.target) || notPointer(r.target) {
			continue
		}
		for _, e := range r.entries {
			at := place{r.target.Index, e.Offset}
			if e.Type == abs64(c.f.Machine) && !own[at] {
				c.take(ref{e, r}, 0, at)
			}
			if c.inData(e.Type) && !own[at] {
				c.takeForeign(ref{e, r}, 0, at, true)
			}
		}
	}
}

// take notes a reference to the beginning of a function that is not a branch.
func (c *checker) take(r ref, add int64, at place) {
	to, ok := c.to(r)
	if !ok {
		return
	}
	c.takePlace(to.plus(add), at)
}

func (c *checker) takePlace(to, at place) {
	list := c.functionsAt(to)
	if !executable(c.section(to.sec)) || len(list) == 0 || strings.HasPrefix(list[0].name, "__SCT__") {
		return // trampolines of static calls are jumped to, and known by address to patch them
	}
	if _, known := c.taken[to]; !known {
		c.taken[to] = c.name(at)
	}
}

// checkCodeRelocations looks at what relocated operands of code lead to.
func (c *checker) checkCodeRelocations() {
	for _, r := range c.relas {
		if !executable(r.target) {
			continue
		}
		for _, e := range r.entries {
			if e.Type != 0 {
				c.checkOperand(ref{e, r}, place{r.target.Index, e.Offset})
			}
		}
	}
}

func (c *checker) checkOperand(r ref, at place) {
	in, start, ok := c.around(at)
	if c.f.Machine == elf.EM_AARCH64 && r.Type == abs64(c.f.Machine) { // data in text
		c.take(r, 0, at)
		c.takeForeign(r, 0, at, true)
		return
	}
	if !ok {
		c.refuse(refusal.RelocationInvalid, whatRelocation, c.name(at), "%s is no field of an instruction", elfpatch.RelocName(c.f.Machine, r.Type))
		return
	}
	add := int64(0)
	info, _ := elfpatch.RelocInfo(c.f.Machine, r.Type)
	if info.PCRel && c.f.Machine == elf.EM_X86_64 {
		add = int64(start.off) + int64(in.Len) - int64(at.off)
	}
	switch {
	case in.Flow == disasm.Call && info.Kind != elfpatch.KindNone:
		to, ok := c.to(r)
		if to = to.plus(add); ok && executable(c.section(to.sec)) && len(c.funcs[to.sec]) > 0 && len(c.functionsAt(to)) == 0 {
			c.refuse(refusal.RelocationInvalid, whatRelocation, c.name(at), "a call leads to %s, where no function begins", c.name(to))
		}
	case in.Flow == disasm.Jump || in.Flow == disasm.CondJump:
	default:
		c.take(r, add, start)
		if takes(c.f.Machine, r, in, at.off-start.off) {
			c.takeForeign(r, add, start, false)
		}
	}
}

// around returns the instruction that has a relocated field.
func (c *checker) around(at place) (disasm.Inst, place, bool) {
	t := c.text[at.sec]
	if c.f.Machine == elf.EM_AARCH64 {
		start := place{at.sec, at.off &^ 3}
		if !t.begins(start.off) {
			// Data in text, and code that no function has.
			return disasm.Inst{Flow: disasm.Jump}, start, true
		}
		in, _, ok := c.instruction(start)
		return in, start, ok
	}
	for back := uint64(1); back <= 14 && back <= at.off; back++ {
		start := place{at.sec, at.off - back}
		if !t.begins(start.off) {
			continue
		}
		in, _, ok := c.instruction(start)
		if !ok || uint64(in.Len) <= back {
			return disasm.Inst{}, start, false
		}
		is := func(f disasm.Field) bool { return f.Size > 0 && uint64(f.Off) == back }
		return in, start, is(in.PCRel) || is(in.X86.Disp) || is(in.X86.Imm)
	}
	return disasm.Inst{}, place{}, false
}
