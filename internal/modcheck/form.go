package modcheck

import (
	"debug/elf"
	"strings"

	"livepatch/disasm"
	"livepatch/elfpatch"
	"livepatch/internal/refusal"
	"livepatch/manifest"
)

// checkFormat asks whether the file is a livepatch module at all. The answer
// is false when nothing else can be said.
func (c *checker) checkFormat() bool {
	if c.target.machine != elf.EM_NONE && c.f.Machine != c.target.machine {
		c.refuse(refusal.ModuleFormat, whatFormat, "", "the module is for %s, the kernel for %s", disasm.MachineName(c.f.Machine), disasm.MachineName(c.target.machine))
		return false
	}
	_, tagged := c.tag("livepatch")
	if c.unique(".modinfo") == nil || c.unique(thisModule) == nil {
		return false
	}
	direct := c.isDirect()
	if !tagged && !direct && !c.isBase() {
		c.refuse(refusal.NotALivepatch, whatFormat, "", ".modinfo has no livepatch=")
		return false
	}
	before := c.refusals(whatFormat)
	if tagged && direct {
		c.refuse(refusal.NotALivepatch, whatFormat, "", "livepatch= marks modules for the livepatch core; a kernel without one refuses them")
	}
	if tagged && !c.imported("klp_enable_patch") {
		c.refuse(refusal.NotALivepatch, whatFormat, "", "the module does not call klp_enable_patch")
	}
	c.checkSections()
	c.checkThisModule()
	c.checkModuleName()
	if c.refusals(whatFormat) == before {
		c.ok(whatFormat, "", "a livepatch module of %d sections", len(c.f.Sections))
	}
	if direct || c.isBase() {
		c.target.addBase()
	}
	return true
}

func (m *module) imported(name string) bool {
	for i, s := range m.f.Symbols {
		if i > 0 && s.Section == 0 && s.Name == name {
			return true
		}
	}
	return false
}

// unique returns the one section of a name.
func (c *checker) unique(name string) *elfpatch.Section {
	var found *elfpatch.Section
	for _, s := range c.f.Sections[min(1, len(c.f.Sections)):] {
		if s.Name != name {
			continue
		}
		if found != nil {
			c.refuse(refusal.ModuleFormat, whatFormat, name, "the section is there twice")
			return nil
		}
		found = s
	}
	if found == nil {
		c.refuse(refusal.ModuleFormat, whatFormat, name, "the section is missing")
	}
	return found
}

// checkSections asks what kernel/module/main.c asks of section headers and
// symbols before it looks at their meaning.
func (c *checker) checkSections() {
	if len(c.f.Sections) >= sectionLimit {
		c.refuse(refusal.ModuleFormat, whatFormat, "", "%d sections are more than the kernel counts", len(c.f.Sections))
	}
	if len(c.f.Symbols) < 2 {
		c.refuse(refusal.ModuleFormat, whatFormat, "", "the module has no symbols")
	}
	tables := 0
	for _, s := range c.f.Sections {
		if s.Type == elf.SHT_SYMTAB {
			tables++
		}
		const both = elf.SHF_WRITE | elf.SHF_EXECINSTR
		if s.Flags&elf.SHF_ALLOC != 0 && s.Flags&both == both {
			c.refuse(refusal.ModuleFormat, whatFormat, s.Name, "the section is writable and executable")
		}
	}
	if tables > 1 {
		c.refuse(refusal.ModuleFormat, whatFormat, "", "%d symbol tables, the kernel takes one", tables)
	}
	for i, s := range c.f.Symbols {
		switch {
		case i == 0:
		case s.Section == elfpatch.Common:
			c.refuse(refusal.ModuleFormat, whatFormat, s.Name, "the symbol is common; the kernel wants -fno-common")
		case s.Section > 0 && c.section(s.Section) == nil:
			c.refuse(refusal.ModuleFormat, whatFormat, s.Name, "the symbol is in section %d of %d", s.Section, len(c.f.Sections))
		}
	}
	if c.f.Machine == elf.EM_AARCH64 {
		c.checkPLTs()
	}
}

// checkPLTs: arch/arm64/kernel/module-plts.c and module.c of 6.12. The loader
// sizes these sections, and refuses modules without them.
func (c *checker) checkPLTs() {
	for _, name := range []string{".plt", ".init.plt", ".text.ftrace_trampoline"} {
		if c.f.Section(name) == nil {
			c.refuse(refusal.ModuleFormat, whatFormat, name, "the section is missing")
		}
	}
}

// checkThisModule asks for struct module: its size and what is relocated in it.
func (c *checker) checkThisModule() {
	s := c.f.Section(thisModule)
	if s.Type == elf.SHT_NOBITS || s.Flags&elf.SHF_ALLOC == 0 {
		c.refuse(refusal.ModuleFormat, whatFormat, thisModule, "the section has no contents that are loaded")
		return
	}
	l := c.target.structModule
	if l.size != 0 && s.Size != l.size {
		c.refuse(refusal.ModuleFormat, whatFormat, thisModule, "struct module has %d bytes, the kernel's %d", s.Size, l.size)
		return
	}
	name, ok := c.str(place{s.Index, l.name})
	if tag, tagged := c.tag("name"); !ok || name == "" || tagged && tag != name {
		c.refuse(refusal.ModuleFormat, whatFormat, thisModule, "struct module has the name %q, .modinfo %q", name, tag)
	}
	init, exit := c.pointers(s)
	switch {
	case c.isBase():
		if init != nil || exit != nil {
			c.refuse(refusal.ModuleFormat, whatFormat, thisModule, "the base module has nothing to do when it is loaded or unloaded")
		}
		return
	case init == nil:
		c.refuse(refusal.ModuleFormat, whatFormat, thisModule, "struct module has no init function; nothing would enable the patch")
	case l.size != 0 && init.off != l.init:
		c.refuse(refusal.ModuleFormat, whatFormat, thisModule, "init is at %d of struct module, the kernel's at %d", init.off, l.init)
	}
	switch {
	case c.isDirect():
		if exit != nil {
			c.refuse(refusal.ModuleFormat, whatFormat, thisModule, "struct module has an exit function; a module that ftrace calls directly can never be unloaded")
		}
	case exit == nil:
		c.refuse(refusal.ModuleFormat, whatFormat, thisModule, "struct module has no exit function; the module could never be unloaded")
	case l.size != 0 && exit.off != l.exit:
		c.refuse(refusal.ModuleFormat, whatFormat, thisModule, "exit is at %d of struct module, the kernel's at %d", exit.off, l.exit)
	}
}

// maxPointers bounds the relocations of struct module; there are two.
const maxPointers = 16

// pointers returns the fields of struct module that init and exit are in.
// Their symbols are always the same: include/linux/module.h, module_init.
func (c *checker) pointers(s *elfpatch.Section) (init, exit *place) {
	for i, r := range c.refs[s.Index] {
		if i == maxPointers {
			c.refuse(refusal.ModuleFormat, whatFormat, thisModule, "%d relocations are too many", len(c.refs[s.Index]))
			break
		}
		at := place{s.Index, r.Offset}
		to, ok := c.to(r)
		if !ok || r.Type != abs64(c.f.Machine) {
			c.refuse(refusal.ModuleFormat, whatFormat, thisModule, "the relocation at %d is no pointer into the module", r.Offset)
			continue
		}
		switch {
		case c.called(to, "init_module") && init == nil:
			init = &at
		case c.called(to, "cleanup_module") && exit == nil:
			exit = &at
		default:
			c.refuse(refusal.ModuleFormat, whatFormat, thisModule, "byte %d points to %s, which is neither init nor exit", r.Offset, c.name(to))
		}
	}
	return init, exit
}

// called reports whether a function of a name begins at a place.
func (c *checker) called(at place, name string) bool {
	for _, f := range c.functionsAt(at) {
		if f.name == name {
			return true
		}
	}
	return false
}

// checkModuleName: the name becomes a directory in sysfs, and livepatch
// sections are named after modules.
func (c *checker) checkModuleName() {
	if reason := badObjectName(c.title); reason != "" {
		c.refuse(refusal.NameLimit, whatFormat, c.title, "the name of the module %s", reason)
	}
	for i, s := range c.f.Symbols {
		if i > 0 && s.Section >= 0 && len(s.Name) >= c.target.symbolLimit {
			c.refuse(refusal.NameLimit, whatFormat, s.Name[:64]+"…", "the name of the symbol has %d bytes, the kernel's limit is %d", len(s.Name), c.target.symbolLimit-1)
		}
	}
}

// badObjectName says what is wrong with the name of a module, "" if nothing.
func badObjectName(name string) string {
	switch {
	case name == "":
		return "is empty"
	case len(name) > manifest.MaxModuleName:
		return "is longer than 55 bytes"
	case strings.ContainsAny(name, "./"):
		return "has a dot or slash"
	case strings.Contains(name, "-"):
		return "has a dash; the kernel writes _"
	}
	for _, r := range name {
		if r <= ' ' || r >= 0x7f {
			return "has a character that is not printed"
		}
	}
	return ""
}
