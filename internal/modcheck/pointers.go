package modcheck

import (
	"cmp"
	"debug/elf"
	"maps"
	"slices"
	"strconv"
	"strings"

	"livepatch/disasm"
	"livepatch/elfpatch"
	"livepatch/elfpatch/kernel"
	"livepatch/internal/kimage"
	"livepatch/internal/refusal"
)

// Functions of the kernel and of its modules whose address a patch takes. An
// indirect call needs a landing pad at their entries, and has none where the
// compiler knew of direct calls only. Nor where objtool found that nothing took
// the address: it lists those in .ibt_endbr_seal (tools/objtool/check.c,
// validate_ibt and create_ibt_endbr_seal_sections, 6.12), and the kernel writes
// a NOP over each endbr64 of the list, of its own at boot and of a module's when
// that is loaded (arch/x86/kernel/alternative.c, apply_seal_endbr;
// arch/x86/kernel/module.c, module_finalize). Kernels that turn kCFI into
// FineIBT move all landing pads before the functions, and poison those of the same
// list (cfi_rewrite_endbr, poison_cfi), so the list answers for them as well.
// ftrace, and so livepatch, redirects functions behind their landing pads,
// which therefore stay. Exported functions are not on the list, as the entries
// for them count as uses, but for that the list itself is asked.

// foreign is a symbol that the module refers to and another object defines.
type foreign struct {
	owner, name string
	pos         uint64
}

// use is where the address of a function is taken.
type use struct {
	at   place
	data bool
}

// takeForeign notes a reference, not by a branch, to a symbol of the kernel or
// of a module. What lies behind a symbol's address is no function.
func (c *checker) takeForeign(r ref, add int64, at place, data bool) {
	s, ok := c.symbol(r.Symbol)
	if !ok || r.Symbol == 0 || r.Type == 0 {
		return
	}
	x, ok := c.anchored(r, add)
	if !ok && r.Addend+add == 0 {
		x, ok = c.foreignOf(s)
	}
	if !ok {
		return
	}
	if old, known := c.outside[x]; !known || data && !old.data {
		c.outside[x] = use{at, data}
	}
}

// takes reports an operand that is an address, and not what is there. There is
// data among the kernel's code, such as x86_verw_sel of 6.12. On arm64 adrp is
// half of both; the other half tells.
func takes(m elf.Machine, r ref, in disasm.Inst, field uint64) bool {
	if m == elf.EM_AARCH64 {
		switch elf.R_AARCH64(r.Type) {
		case elf.R_AARCH64_ADR_PREL_PG_HI21, elf.R_AARCH64_ADR_PREL_PG_HI21_NC, elf.R_AARCH64_LD_PREL_LO19,
			elf.R_AARCH64_LDST8_ABS_LO12_NC, elf.R_AARCH64_LDST16_ABS_LO12_NC, elf.R_AARCH64_LDST32_ABS_LO12_NC,
			elf.R_AARCH64_LDST64_ABS_LO12_NC, elf.R_AARCH64_LDST128_ABS_LO12_NC:
			return false
		}
		return true
	}
	memory := in.X86.Disp.Size > 0 && uint64(in.X86.Disp.Off) == field
	return !memory || in.X86.Map == 0 && in.X86.Opcode == lea
}

const lea = 0x8d // Intel SDM, "LEA"

// foreignOf says what a livepatch symbol or an undefined one stands for.
func (c *checker) foreignOf(s *elfpatch.Symbol) (foreign, bool) {
	if s.Section == shnLivepatch {
		owner, name, position, ok := splitSymbol(s.Name)
		pos, err := strconv.ParseUint(position, 10, 32)
		return foreign{owner, name, pos}, ok && err == nil
	}
	if s.Section != int(elf.SHN_UNDEF) || s.Name == "" {
		return foreign{}, false
	}
	e, ok := c.export(s.Name)
	return foreign{owner: e.Module, name: s.Name}, ok
}

// inData reports relocations of data that may be pointers to functions, whole
// or as distances.
func (c *checker) inData(typ uint32) bool {
	info, ok := elfpatch.RelocInfo(c.f.Machine, typ)
	return ok && !info.Insn && info.Kind != elfpatch.KindNone && info.Size >= 4
}

// checkOutside asks of each function of the kernel or a module whose address
// the patch takes whether an indirect call may lead to it. It returns how many
// there are.
func (c *checker) checkOutside() int {
	n := 0
	for _, x := range slices.SortedFunc(maps.Keys(c.outside), func(a, b foreign) int {
		return cmp.Or(cmp.Compare(a.owner, b.owner), cmp.Compare(a.name, b.name), cmp.Compare(a.pos, b.pos))
	}) {
		u := c.outside[x]
		if notFunction(x.name) {
			continue
		}
		o := c.target.object(x.owner)
		if o == nil || o.file == nil {
			c.laterOutside(x.owner)
			continue
		}
		s := o.find(x)
		if s == nil || !o.isCode(s) {
			continue // refused as a symbol, or data
		}
		addr := s.Addr
		n++
		reason := o.noLanding(addr)
		if reason == "" {
			continue
		}
		if r := c.usedBefore()[x.owner]; r != nil && holds(r.operands, addr, addr+1) && !u.data && !o.seals()[addr] {
			continue // what the kernel takes it for is no call, since it would not work
		}
		c.refuse(refusal.LandingPadMissing, whatEntry, c.name(u.at), "it takes the address of %s of %s, %s", x.name, x.owner, reason)
	}
	return n
}

// notFunction reports symbols of text that mark its parts, and the trampolines of
// static calls, which are known by address to be written.
func notFunction(name string) bool { return kernel.IsLabel(name) || strings.HasPrefix(name, "__SCT__") }

// laterOutside notes once that the code of an object was not given.
func (c *checker) laterOutside(owner string) {
	const mark = "code of "
	if c.target.missing[mark+owner] {
		return
	}
	c.target.missing[mark+owner] = true
	c.later(whatEntry, owner, "no file given says whether its functions that the module takes the address of begin with %s", padName(c.f.Machine))
}

// find returns a symbol. Nothing is said of those that cannot be found: that is
// refused where symbols and imports are checked.
func (o *image) find(x foreign) *kimage.Symbol {
	list := o.named(x.name)
	switch n := uint64(len(list)); {
	case n == 1 && x.pos <= 1:
		return &o.symbols[list[0]]
	case n == 0 || x.pos > n:
		return nil
	case x.pos > 0:
		return &o.symbols[list[x.pos-1]]
	}
	// An export, whose name static functions have too.
	for _, i := range list {
		if s := &o.symbols[i]; s.Type >= 'A' && s.Type <= 'Z' {
			return s
		}
	}
	return nil
}

// isCode reports a symbol of code. Linked kernels may have all their data in a
// section that is executable as well as writable, and symbols are then of text by
// kallsyms (Debian's 7.2 for x86-64).
func (o *image) isCode(x *kimage.Symbol) bool {
	if !strings.ContainsRune("tTwW", rune(x.Type)) {
		return false
	}
	for _, s := range o.file.Sections {
		if executable(s) && s.Flags&elf.SHF_WRITE == 0 && x.Addr >= s.Addr && x.Addr-s.Addr < s.Size {
			return true
		}
	}
	return false
}

// noLanding says why an indirect call may not lead to an address, "" if it may.
func (o *image) noLanding(addr uint64) string {
	m := o.file.Machine
	switch b, ok := o.file.ReadAddr(addr, 4); {
	case !ok || !isPad(m, b):
		return "which does not begin with " + padName(m) + ": calls through pointers to it end in an oops"
	case o.seals()[addr]:
		return "whose endbr64 the kernel overwrites since nothing else takes it (.ibt_endbr_seal): calls through pointers to it end in an oops"
	}
	return ""
}

// seals are the functions whose endbr64 is overwritten: each entry is 32 bits
// wide, and counts from itself.
func (o *image) seals() map[uint64]bool {
	if o.sealed != nil {
		return o.sealed
	}
	o.sealed = map[uint64]bool{}
	add := func(at uint64, b []byte) {
		for ; len(b) >= 4; at, b = at+4, b[4:] {
			o.sealed[at+uint64(int64(int32(le.Uint32(b))))] = true
		}
	}
	found := false
	for _, s := range o.file.Sections {
		if s.Name == sealTable && s.Flags&elf.SHF_ALLOC != 0 {
			found = true
			add(s.Addr, s.Data)
		}
	}
	if found {
		return o.sealed
	}
	from, ok1 := o.addr("__ibt_endbr_seal")
	to, ok2 := o.addr("__ibt_endbr_seal_end")
	if ok1 && ok2 && to > from && to-from < maxModule {
		if b, ok := o.file.ReadAddr(from, int(to-from)); ok {
			add(from, b)
		}
	}
	return o.sealed
}

const sealTable = ".ibt_endbr_seal"

// old returns the function that another replaces, nil if it is not known.
func (c *checker) old(owner string, f patched) (*image, *kimage.Symbol) {
	o := c.target.object(owner)
	if o == nil || o.file == nil {
		return nil, nil
	}
	list := o.named(f.name)
	if f.pos > uint64(len(list)) || len(list) == 0 {
		return nil, nil
	}
	return o, &o.symbols[list[max(f.pos, 1)-1]]
}
