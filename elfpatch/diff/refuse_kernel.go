package diff

import (
	"debug/elf"
	"fmt"
	"slices"
	"strings"

	"livepatch/elfpatch"
	"livepatch/elfpatch/kernel"
	"livepatch/internal/refusal"
)

// refuseKernel notes what cannot be patched in a kernel.
func (c *comparison) refuseKernel() {
	for _, s := range []*side{c.orig, c.patched} {
		for _, err := range s.tables {
			c.refuse(refusal.SpecialSection, s.name, "%v", err)
		}
	}
	vdso := c.vdsoName()
	for _, b := range c.patched.pieces {
		if b.prefix || b.replacement && b.parent != nil || b.special != nil || b.kind != function && b.kind != variable || c.status(b) == Same || b.sec == 0 ||
			c.ignored[c.patched.f.Sections[b.sec].Name] {
			continue
		}
		if c.patched.f.Sections[b.sec].Flags&elf.SHF_GROUP != 0 {
			c.refuse(refusal.SectionGroup, c.nameOf(b), "it is in a section group, and %s", statusWord(c.status(b)))
		}
		if b.kind == function {
			c.refuseFunction(b, vdso)
		} else if c.status(b) == Changed && !b.live && (holdsFunctions(b) || holdsFunctions(b.twin)) {
			c.refuse(refusal.DataChanged, where(b, c.why[b].Off), "the constant changed (%s) and holds addresses of functions; what the kernel has set up points to the running copy, which keeps the old ones", change(c.why[b]))
		}
	}
	c.refuseExports()
	c.refuseRegistries()
}

// holdsFunctions reports a table of functions, such as the operations of a
// driver.
func holdsFunctions(p *piece) bool {
	return slices.ContainsFunc(p.refs, func(r ref) bool { return r.to != nil && r.to.kind == function && r.add == 0 })
}

func statusWord(s Status) string {
	if s == New {
		return "it is new"
	}
	return "it changed"
}

// refuseFunction refuses a changed or new function that the kernel would not
// run.
func (c *comparison) refuseFunction(b *piece, vdso string) {
	section := c.patched.f.Sections[b.sec].Name
	rule := kernel.TextOf(section)
	changed := c.status(b) == Changed
	if b.twin != nil {
		if old := kernel.TextOf(c.orig.f.Sections[b.twin.sec].Name); old != nil && old.Fate == kernel.TextInit && (rule == nil || rule.Fate != kernel.TextInit) {
			rule = old
		}
	}
	switch {
	case rule != nil && rule.Fate == kernel.TextInit && b.parent != nil:
		return // the function that it is a part of is
	case rule != nil && rule.Fate == kernel.TextInit:
		c.refuse(refusal.InitTextChanged, c.nameOf(b), "%s, and it runs only while the kernel or the module starts (section %s)", statusWord(c.status(b)), section)
		return
	case vdso != "" && b.parent == nil:
		c.refuse(refusal.VDSO, c.nameOf(b), "%s, and the object is part of the vDSO (it defines %s)", statusWord(c.status(b)), vdso)
		return
	}
	if changed && b.parent == nil && !b.twin.site {
		why := "its entry in the original has neither a call of __fentry__ nor room for one"
		if old := kernel.TextOf(c.orig.f.Sections[b.twin.sec].Name); old != nil && old.Fate == kernel.TextNever {
			why = "section " + c.orig.f.Sections[b.twin.sec].Name + " is never traced"
		} else if !c.orig.hasSites() {
			why = "no function of the object has, so it was built without tracing"
		}
		c.refuse(refusal.NoPatchSite, c.nameOf(b), "it changed and cannot be redirected: %s", why)
	}
	for _, e := range b.entries {
		if _, load := c.patched.bootLoadOf(e); c.patched.secs[e.sec].row.BootOnly && !load {
			c.refuse(refusal.BootConstant, describe(c.patched, b, c.patched.codePlace(e)),
				"%s, and the instruction holds a constant that the kernel fills in at boot, in its own image only (%s)", statusWord(c.status(b)), c.patched.f.Sections[e.sec].Name)
			break
		}
	}
}

func (s *side) hasSites() bool {
	return slices.ContainsFunc(s.pieces, func(p *piece) bool { return p.site })
}

// vdsoName is a name that only an object of the vDSO defines, "" if there is
// none.
func (c *comparison) vdsoName() string {
	for _, s := range []*side{c.orig, c.patched} {
		for i, sym := range s.f.Symbols {
			if sym.Bind == elf.STB_LOCAL || s.bySym[i] == nil || s.bySym[i].kind != function {
				continue
			}
			if kernel.HasPrefix(kernel.VDSO, sym.Name) != nil {
				return sym.Name
			}
		}
	}
	return ""
}

// An export is what an object says of a symbol that it exports.
type export struct {
	how string // section and strings
	crc string // "" if the object does not hold it
}

// refuseExports refuses new exports, and those that are not what they were.
func (c *comparison) refuseExports() {
	old, now := c.orig.exports(), c.patched.exports()
	for _, name := range sortedKeys(now) {
		a, b := old[name], now[name]
		switch {
		case a == nil:
			c.refuse(refusal.ExportChanged, name, "it is exported and was not before")
		case a.how != b.how:
			c.refuse(refusal.ExportChanged, name, "it was exported as %s and is now as %s", a.how, b.how)
		case a.crc != b.crc && a.crc != "" && b.crc != "":
			c.refuse(refusal.ExportChanged, name, "its checksum changed from %s to %s: a type that modules share is another one", a.crc, b.crc)
		}
	}
	for _, name := range sortedKeys(old) {
		if now[name] == nil {
			c.delta.Warnings = append(c.delta.Warnings, name+" is exported no longer; the running kernel goes on exporting it")
		}
	}
}

// exports lists the exported symbols of an object. Names of the tables are
// those of include/linux/export.h and export-internal.h of 6.12, and of
// include/asm-generic/export.h of 5.10.
func (s *side) exports() map[string]*export {
	all := map[string]*export{}
	get := func(name string) *export {
		if all[name] == nil {
			all[name] = &export{}
		}
		return all[name]
	}
	crc := map[string]string{}
	for i := range s.f.Symbols {
		sym := &s.f.Symbols[i]
		if name, ok := strings.CutPrefix(sym.Name, "__ksymtab_"); ok && sym.Section > 0 && sym.Section < len(s.f.Sections) {
			section, _, _ := strings.Cut(s.f.Sections[sym.Section].Name, "+")
			get(name).how = strings.TrimLeft(section, "_")
		} else if name, ok := strings.CutPrefix(sym.Name, "__export_symbol_"); ok && sym.Section > 0 && sym.Section < len(s.f.Sections) {
			get(name).how = s.exportStrings(sym)
		} else if name, ok := strings.CutPrefix(sym.Name, "__crc_"); ok {
			crc[name] = s.checksum(sym)
		}
	}
	for name, e := range all {
		e.crc = crc[name]
	}
	return all
}

// exportStrings reads the license and the namespace of an export.
func (s *side) exportStrings(sym *elfpatch.Symbol) string {
	sec := s.f.Sections[sym.Section]
	if sym.Value > uint64(len(sec.Data)) {
		return ""
	}
	license, rest, _ := cutString(sec.Data[sym.Value:])
	space, _, _ := cutString(rest)
	return fmt.Sprintf("license %q, namespace %q", license, space)
}

func (s *side) checksum(sym *elfpatch.Symbol) string {
	switch {
	case sym.Section == elfpatch.Absolute:
		return fmt.Sprintf("%#08x", uint32(sym.Value))
	case sym.Section > 0 && sym.Section < len(s.f.Sections):
		if sec := s.f.Sections[sym.Section]; uint64(len(sec.Data)) >= 4 && sym.Value <= uint64(len(sec.Data))-4 {
			return dataText(sec.Data, int(sym.Value), len(sec.Data))
		}
	}
	return ""
}

// refuseRegistries refuses what is new in tables that the kernel has read.
func (c *comparison) refuseRegistries() {
	old := c.orig.registered()
	for _, x := range c.patched.registered() {
		k := slices.IndexFunc(old, func(o registration) bool { return o == x })
		if k >= 0 {
			old = slices.Delete(old, k, k+1)
			continue
		}
		if !c.ignored[x.section] {
			c.refuse(refusal.BootTable, x.what, "it is new in section %s (%s), which the kernel reads only once", x.section, x.row.What)
		}
	}
}

// A registration is an entry of a Registry.
type registration struct {
	row           *kernel.Section
	section, what string
}

// registered lists what the entries of the tables are about: the variable that
// an entry is, or what it refers to.
func (s *side) registered() []registration {
	var all []registration
	for i, sec := range s.f.Sections {
		row := s.secs[i].row
		if row == nil || row.Use != kernel.Registry || row.Harmless || sec.Type == elf.SHT_RELA {
			continue
		}
		named := false
		for _, p := range s.secs[i].pieces {
			if p.kind == variable {
				named = true
				all = append(all, registration{row, sec.Name, plainName(p.name)})
			}
		}
		for _, r := range s.secs[i].rels {
			if named {
				break
			}
			ref := s.explicit(r, 0)
			s.settle(&ref)
			if ref.to != nil && ref.to.kind != literal {
				all = append(all, registration{row, sec.Name, plainName(ref.to.name)})
			} else {
				all = append(all, registration{row, sec.Name, s.refText(&ref)})
			}
		}
	}
	return all
}

// plainName is a name without the numbers that macros and compilers put into it.
func plainName(name string) string {
	if kernel.HasPrefix(kernel.UniquePrefixes, name) != nil {
		name = strings.TrimRight(name, "0123456789")
		if k := strings.LastIndex(name, "__"); strings.HasPrefix(name, "__initcall__kmod_") && k > 0 {
			name = strings.TrimRight(name[:k], "_0123456789") + name[k:] // …__124_60_f5: counter and line
		}
	}
	return stem(name)
}
