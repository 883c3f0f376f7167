package kmod

import (
	"debug/elf"
	"fmt"
	"strings"

	"livepatch/internal/kimage"
	"livepatch/internal/refusal"
)

// check refuses what the kernel would refuse of the names in a Spec, or would
// read as something else.
func (s *Spec) check() refusal.List {
	c := &specCheck{s: s, defined: map[string]int{}}
	if s.ABI == nil {
		return nil // layouts.check says so
	}
	c.names()
	for i, sym := range s.Object.Symbols {
		if sym.Section > 0 && sym.Section < len(s.Object.Sections) && sym.Type != elf.STT_SECTION {
			c.defined[sym.Name] = i
		}
	}
	c.objects()
	if s.Direct != nil {
		c.direct()
	} else {
		c.states()
	}
	return c.out
}

type specCheck struct {
	s       *Spec
	defined map[string]int // symbols of the object
	out     refusal.List
}

func (c *specCheck) refuse(code refusal.Code, where, format string, args ...any) {
	at := c.s.Name
	if where != "" {
		at += ": " + where
	}
	c.out = append(c.out, refusal.New(code, at, format, args...))
}

func (c *specCheck) names() {
	s := c.s
	if reason := moduleNameFault(s.Name); reason != "" {
		c.refuse(refusal.NameLimit, "", "the name of the module %s", reason)
	}
	if s.Name == BaseName && !s.base {
		c.refuse(refusal.NameLimit, "", "the name is that of the base module of patches of direct calls; name the patch otherwise")
	}
	if !strings.Contains(strings.TrimSpace(s.Vermagic), " ") || strings.ContainsRune(s.Vermagic, 0) {
		c.refuse(refusal.WrongVermagic, "", "%q is no vermagic of a kernel", s.Vermagic)
	}
	for _, l := range [][]string{s.Info, s.ImportNS, s.Depends, {s.License, s.Srcversion}} {
		for _, text := range l {
			if strings.ContainsRune(text, 0) {
				c.refuse(refusal.ModuleFormat, ".modinfo", "%q has a zero in it", text)
			}
		}
	}
	for _, text := range s.Info {
		if k, _, ok := strings.Cut(text, "="); !ok || ownInfo[k] {
			c.refuse(refusal.ModuleFormat, ".modinfo", "%q is not an entry that can be added", text)
		}
	}
	for _, d := range s.Depends {
		if reason := moduleNameFault(d); reason != "" {
			c.refuse(refusal.NameLimit, "depends", "the name %q %s", d, reason)
		}
	}
	if !isGPL(s.license()) {
		c.refuse(refusal.NotExported, "", "%s is exported to modules under GPL only, this one is under %q", enablePatch, s.license())
	}
	c.typeHashes()
	if s.Padding < 0 || s.Padding > maxPadding {
		c.refuse(refusal.Unsupported, "", "%d bytes of padding before functions", s.Padding)
	}
}

// typeHashes refuses kernels that check indirect calls in ways that the module would fail.
func (c *specCheck) typeHashes() {
	const checks = "the kernel checks indirect calls (kCFI), and "
	switch s := c.s; {
	case !s.CFI:
	case s.Object.Machine != elf.EM_AARCH64:
		c.refuse(refusal.Unsupported, "", checks+"the entries of the module would lack their hashes")
	case s.Direct != nil: // arch/arm64/Kconfig, 7.2: direct calls need CALL_OPS, and those depend on !CFI
		c.refuse(refusal.Unsupported, "", checks+"with that ftrace of arm64 has no direct calls; a kernel with a livepatch core takes --flavour klp")
	case s.Hashes == kimage.EntryHashes{}:
		c.refuse(refusal.Unsupported, "", checks+"how it hashes the types of functions is not known")
	}
}

// maxPadding is the largest CONFIG_FUNCTION_PADDING_BYTES (arch/x86/Kconfig, 6.12: 59 with kCFI).
const maxPadding = 64

// moduleNameFault says why the kernel, or the parser of livepatch names, does
// not take a module's name; "" if it does.
func moduleNameFault(name string) string {
	if name == "" {
		return "is empty"
	}
	if len(name) >= moduleName {
		return fmt.Sprintf("has %d characters, the kernel reads %d", len(name), moduleName-1)
	}
	for _, r := range name {
		if r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') {
			return fmt.Sprintf("has the character %q (modules are named with letters, digits and underscores)", r)
		}
	}
	return ""
}

// symbolNameFault says why the livepatch core does not take the name of a
// symbol. separator is the character that ends names where it reads them.
func symbolNameFault(name, separator string, size int) string {
	switch {
	case name == "":
		return "is empty"
	case len(name) >= size:
		return fmt.Sprintf("has %d characters, the kernel reads %d", len(name), size-1)
	case separator != "" && strings.Contains(name, separator):
		return fmt.Sprintf("has a %q, which ends it", separator)
	case strings.ContainsRune(name, 0):
		return "has a zero in it"
	}
	return ""
}

func (c *specCheck) objects() {
	if len(c.s.Objects) == 0 {
		c.refuse(refusal.KLPStructures, "", "nothing is patched")
	}
	seen := map[string]bool{}
	for i := range c.s.Objects {
		o := &c.s.Objects[i]
		name := objectName(o.Name)
		if reason := moduleNameFault(name); reason != "" {
			c.refuse(refusal.NameLimit, name, "the name of the object %s", reason)
		}
		if seen[name] {
			c.refuse(refusal.KLPStructures, name, "the object is listed twice")
		}
		if name == c.s.Name {
			c.refuse(refusal.KLPStructures, name, "the module would patch itself")
		}
		seen[name] = true
		if len(o.Funcs) == 0 && len(o.Callbacks) == 0 {
			c.refuse(refusal.KLPStructures, name, "the object has neither functions nor callbacks")
		}
		c.funcs(name, o)
	}
}

func (c *specCheck) funcs(object string, o *Object) {
	type key struct {
		name string
		pos  int
	}
	seen := map[key]bool{}
	for _, f := range o.Funcs {
		at := object + ": " + f.Name
		if reason := symbolNameFault(f.Name, "", c.s.layouts().symbolName()); reason != "" {
			c.refuse(refusal.NameLimit, at, "the name of the function %s", reason)
		}
		if f.Sympos < 0 {
			c.refuse(refusal.WrongPosition, at, "positions count from 1, %d", f.Sympos)
		}
		// The kernel takes 0 and 1 for different functions although they name the
		// same one, and a function cannot be unique and the second of its name.
		if seen[key{f.Name, f.Sympos}] || f.Sympos == 1 && seen[key{f.Name, 0}] || f.Sympos == 0 && seen[key{f.Name, 1}] {
			c.refuse(refusal.KLPStructures, at, "the function is listed twice")
		}
		seen[key{f.Name, f.Sympos}] = true
		c.code(at, f.Replacement, "replacement")
	}
	for kind, sym := range o.Callbacks {
		if kind != PrePatch && kind != PostPatch && kind != PreUnpatch && kind != PostUnpatch {
			c.refuse(refusal.KLPStructures, object, "no callback is called %q", kind)
		} else if !c.s.layouts().has("klp_object.callbacks." + string(kind)) {
			c.refuse(refusal.KLPStructures, object, "the kernel knows no %s callbacks", kind)
		}
		c.code(object+": "+string(kind), sym, "callback")
	}
}

// code refuses a symbol that is no function of the object.
func (c *specCheck) code(at, name, what string) {
	i, ok := c.defined[name]
	if !ok {
		c.refuse(refusal.KLPStructures, at, "the %s %s is not in the object", what, name)
		return
	}
	sym := c.s.Object.Symbols[i]
	sec := c.s.Object.Sections[sym.Section]
	if sec.Flags&elf.SHF_EXECINSTR == 0 || sec.Flags&elf.SHF_ALLOC == 0 || sym.Value >= sec.Size {
		c.refuse(refusal.KLPStructures, at, "the %s %s is not code", what, name)
	}
}

func (c *specCheck) states() {
	s := c.s
	if s.Replace && !s.layouts().has("klp_patch.replace") {
		c.refuse(refusal.KLPStructures, "", "the kernel's livepatch core cannot replace other patches")
	}
	if len(s.States) > 0 && (!s.layouts().has("klp_patch.states") || !s.layouts().has("klp_state.id") || !s.layouts().has("klp_state.version")) {
		c.refuse(refusal.KLPStructures, "", "the kernel's livepatch core knows no states")
	}
	seen := map[uint64]bool{}
	for _, st := range s.States {
		if st.ID == 0 {
			c.refuse(refusal.KLPStructures, "", "a state has the number 0, which ends their list")
		}
		if seen[st.ID] {
			c.refuse(refusal.KLPStructures, "", "the state %d is listed twice", st.ID)
		}
		seen[st.ID] = true
	}
}

// checkExport refuses an imported symbol that the kernel would not resolve for
// this module.
func (e *emitter) checkExport(b Binding, where string) {
	if reason := symbolNameFault(b.Name, "", e.s.layouts().symbolName()); reason != "" {
		e.refuse(refusal.NameLimit, where, "the name of %s %s", b.Name, reason)
	}
	if b.GPL && !isGPL(e.s.license()) {
		e.refuse(refusal.NotExported, where, "%s is exported to modules under GPL only, this one is under %q", b.Name, e.s.license())
	}
	if strings.HasPrefix(b.Namespace, moduleNamespace) {
		e.refuse(refusal.NamespaceMissing, where, "%s is exported to certain modules only (%s)", b.Name, b.Namespace)
	}
	if o := objectName(b.Object); o != vmlinux {
		if reason := moduleNameFault(o); reason != "" {
			e.refuse(refusal.NameLimit, where, "the name of module %q %s", o, reason)
		}
	}
	if e.s.Versions == BasicVersions && b.HasCRC && len(b.Name) >= versionName {
		e.refuse(refusal.NameLimit, where, "%s has %d characters, a version of this kernel's modules has room for %d", b.Name, len(b.Name), versionName-1)
	}
}

// moduleNamespace begins namespaces that modules cannot import
// (kernel/module/main.c verify_module_namespace, 6.16).
const moduleNamespace = "module:"

// checkKLP refuses a symbol that the livepatch core would not find.
func (e *emitter) checkKLP(b Binding, where string) {
	object := objectName(b.Object)
	if reason := moduleNameFault(object); reason != "" {
		e.refuse(refusal.NameLimit, where, "the name of object %q %s", object, reason)
	}
	if reason := symbolNameFault(b.Name, ",", e.s.layouts().symbolName()); reason != "" {
		e.refuse(refusal.NameLimit, where, "the name of %s %s", b.Name, reason)
	}
	if b.Pos < 0 {
		e.refuse(refusal.WrongPosition, where, "positions count from 1, %s is to be at %d", b.Name, b.Pos)
	}
	with := e.relocatedWith(b)
	if with == vmlinux && object != vmlinux {
		e.refuse(refusal.KLPFormat, where, "code of the kernel refers to %s of module %s, which need not be there", b.Name, object)
	}
	if with == vmlinux {
		return
	}
	for i := range e.s.Objects {
		if objectName(e.s.Objects[i].Name) == with {
			return
		}
	}
	e.refuse(refusal.KLPFormat, where, "%s would be resolved when module %s is there, which is not patched", b.Name, with)
}

// definedSymbol returns the symbol of the module for one of the object.
func (e *emitter) definedSymbol(name string) uint32 {
	sym := e.defs[name]
	if sym == 0 {
		e.refuse(refusal.KLPStructures, name, "the symbol is not part of the module")
	}
	return sym
}
