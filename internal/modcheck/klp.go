package modcheck

import (
	"debug/elf"
	"strconv"
	"strings"

	"livepatch/elfpatch"
	"livepatch/elfpatch/kernel"
	"livepatch/internal/refusal"
	"livepatch/manifest"
)

// checkSymbols asks for the rules of the livepatch ELF format
// (Documentation/livepatch/module-elf-format.rst; kernel/livepatch/core.c:
// klp_resolve_symbols, klp_write_section_relocs), and whether the target has
// each symbol.
func (c *checker) checkSymbols() {
	before := c.refusals(whatRelocation) + c.refusals(whatSymbol)
	symtab := uint32(c.symtab())
	seen := map[string]bool{}
	used := map[uint32]bool{}
	sections := 0
	for _, r := range c.relas {
		if !r.klp {
			continue
		}
		sections++
		owner := c.checkSection(r, symtab)
		if seen[r.sec.Name] {
			c.refuse(refusal.KLPFormat, whatRelocation, r.sec.Name, "the section is there twice")
		}
		seen[r.sec.Name] = true
		for i, e := range r.entries {
			used[e.Symbol] = true
			c.checkEntry(r, owner, i, e)
		}
		c.checkReach(r, owner)
	}
	for i, s := range c.f.Symbols {
		isKLP := strings.HasPrefix(s.Name, klpSym)
		switch {
		case i == 0 || !isKLP && s.Section != shnLivepatch:
		case !isKLP:
			// klp-build leaves such symbols where it moved relocations from
			// (tools/objtool/klp-post-link.c, 6.19); nothing refers to them.
			if used[uint32(i)] {
				c.refuse(refusal.KLPFormat, whatSymbol, s.Name, "a livepatch symbol that is not named %s…", klpSym)
			}
		case s.Section != shnLivepatch:
			c.refuse(refusal.KLPFormat, whatSymbol, s.Name, "the symbol is not marked as a livepatch symbol (SHN_LIVEPATCH)")
		default:
			c.checkSymbol(s.Name)
		}
	}
	if c.refusals(whatRelocation)+c.refusals(whatSymbol) == before {
		c.ok(whatSymbol, "", "%s, %s of livepatch relocations", count(len(used), "livepatch symbol"), count(sections, "section"))
	}
}

// symtab is the index of the symbol table.
func (c *checker) symtab() int {
	for _, s := range c.f.Sections {
		if s.Type == elf.SHT_SYMTAB {
			return s.Index
		}
	}
	return 0
}

// checkSection checks the header of a section of livepatch relocations and
// returns the object in its name.
func (c *checker) checkSection(r *relaSection, symtab uint32) string {
	s := r.sec
	bad := func(format string, args ...any) {
		c.refuse(refusal.KLPFormat, whatRelocation, s.Name, format, args...)
	}
	if s.Type != elf.SHT_RELA {
		bad("the section is of type %v, not SHT_RELA", s.Type)
	} else if s.Size%relaSize != 0 || s.EntSize != relaSize {
		bad("%d bytes with entries of %d are no table of relocations", s.Size, s.EntSize)
	}
	if s.Flags&shfLivepatch == 0 {
		bad("the section is not marked SHF_RELA_LIVEPATCH; the kernel applies it before its symbols have addresses")
	}
	if s.Flags&elf.SHF_ALLOC == 0 {
		bad("the section is not loaded (SHF_ALLOC)")
	}
	if s.Flags&elf.SHF_INFO_LINK == 0 {
		bad("the section does not say that it applies to another (SHF_INFO_LINK)")
	}
	if s.Link != symtab {
		bad("the section is linked to section %d, the symbols are in %d", s.Link, symtab)
	}
	rest, ok := strings.CutPrefix(s.Name, klpRela)
	owner, target, dot := strings.Cut(rest, ".")
	if !ok || !dot || target == "" {
		bad("the name is not %sOBJECT.SECTION", klpRela)
		return ""
	}
	if reason := badObjectName(owner); reason != "" {
		c.refuse(refusal.NameLimit, whatRelocation, s.Name, "the name of the object %s", reason)
	}
	switch {
	case r.target == nil:
		bad("the section applies to section %d, there are %d", s.Info, len(c.f.Sections))
	case r.target.Name != target:
		bad("the section applies to %s, its name says %s", r.target.Name, target)
	case r.target.Flags&elf.SHF_ALLOC == 0:
		bad("%s is not loaded, so the relocations are never applied", target)
	case owner != vmlinux && freed(r.target):
		bad("%s is freed after init, the relocations of %s are applied later", target, owner)
	}
	if c.patch != nil && owner != vmlinux && !c.patch.object(owner) {
		bad("the patch has no object %s, so the relocations are never applied", owner)
	}
	if row := kernel.Lookup(c.f.Machine, target); row != nil && row.Use == kernel.Entries && owner != vmlinux {
		bad("%s is processed when the module is loaded, the relocations of %s are applied later", target, owner)
	}
	return owner
}

// checkReach looks for branches that the livepatch core has to fill when the code of the
// patch is read-only. On arm64 they reach 128 MB, and for a function that is farther away the kernel
// writes a stub into that code (module_emit_plt_entry, arch/arm64/kernel/module-plts.c,
// 7.2), which is an oops.
func (c *checker) checkReach(r *relaSection, owner string) {
	n := 0
	for _, e := range r.entries {
		if e.Type == uint32(elf.R_AARCH64_CALL26) || e.Type == uint32(elf.R_AARCH64_JUMP26) {
			n++
		}
	}
	if c.f.Machine == elf.EM_AARCH64 && owner != vmlinux && n > 0 {
		c.later(whatRelocation, r.sec.Name, "%s of functions of %s reach 128 MB; the kernel has to load both modules within that", count(n, "call"), owner)
	}
}

// checkEntry checks one livepatch relocation; its place and type are looked at
// with those of ordinary relocations.
func (c *checker) checkEntry(r *relaSection, owner string, i int, e elfpatch.Rela) {
	where := r.sec.Name + " entry " + strconv.Itoa(i)
	s, ok := c.symbol(e.Symbol)
	switch {
	case !ok || e.Symbol == 0:
		c.refuse(refusal.KLPFormat, whatRelocation, where, "it refers to symbol %d, there are %d", e.Symbol, len(c.f.Symbols))
		return
	case s.Section != shnLivepatch:
		if !strings.HasPrefix(s.Name, klpSym) { // the symbol is refused by itself
			c.refuse(refusal.KLPFormat, whatRelocation, where, "%q is no livepatch symbol", s.Name)
		}
		return
	}
	object, symbol, _, ok := splitSymbol(s.Name)
	if !ok || owner == "" {
		return // refused by name
	}
	if owner != vmlinux && object == vmlinux {
		c.refuse(refusal.KLPFormat, whatRelocation, where, "relocations of module %s may not refer to %s of vmlinux", owner, symbol)
	}
	if owner == vmlinux && object != vmlinux {
		c.refuse(refusal.KLPFormat, whatRelocation, where, "%s of module %s is used by relocations of vmlinux, which are applied whether or not the module is loaded", symbol, object)
	}
}

// checkSymbol checks the name of a livepatch symbol and finds what it names.
func (c *checker) checkSymbol(name string) {
	object, symbol, pos, ok := splitSymbol(name)
	if !ok {
		c.refuse(refusal.KLPFormat, whatSymbol, name, "the name is not %sOBJECT.SYMBOL,POSITION", klpSym)
		return
	}
	position, err := strconv.ParseUint(pos, 10, 32)
	if err != nil {
		c.refuse(refusal.KLPFormat, whatSymbol, name, "the position %q is no number", pos)
		return
	}
	if object != vmlinux {
		if reason := badObjectName(object); reason != "" {
			c.refuse(refusal.NameLimit, whatSymbol, name, "the name of the object %s", reason)
			return
		}
	}
	if len(object) > manifest.MaxModuleName || len(symbol) >= c.target.symbolLimit || symbol == "" {
		c.refuse(refusal.NameLimit, whatSymbol, name, "the name of the symbol has %d bytes, the kernel reads 1 to %d", len(symbol), c.target.symbolLimit-1)
		return
	}
	if o, i := c.resolve(whatSymbol, name, object, symbol, position); o != nil && i >= 0 {
		c.checkStays(name, o, &o.symbols[i])
	}
}

// resolve finds a symbol of an object by name and position, as
// klp_find_object_symbol does, and reports when that fails. The index is in the
// symbols of the object; -1 when it cannot be told or was refused.
func (c *checker) resolve(what, where, owner, symbol string, position uint64) (*image, int) {
	o := c.target.object(owner)
	if o == nil {
		c.laterObject(owner)
		return nil, -1
	}
	list := o.named(symbol)
	switch n := uint64(len(list)); {
	case n == 0:
		c.refuse(refusal.SymbolNotFound, what, where, "%s has no symbol %s", owner, symbol)
	case position == 0 && n > 1:
		c.refuse(refusal.AddressAmbiguous, what, where, "%s has %d symbols %s, and the position is 0", owner, n, symbol)
	case position > n:
		c.refuse(refusal.WrongPosition, what, where, "position %d, but %s has %d symbols %s", position, owner, n, symbol)
	default:
		return o, list[max(position, 1)-1]
	}
	return o, -1
}

// laterObject notes once that an object was not given.
func (c *checker) laterObject(owner string) {
	if c.target.missing[owner] {
		return
	}
	c.target.missing[owner] = true
	c.later(whatSymbol, owner, "no file given says what symbols it has")
}
