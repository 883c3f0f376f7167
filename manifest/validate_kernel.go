package manifest

import (
	"fmt"
	"strings"
)

func (c *checker) kernel(at string, k *Kernel) {
	c.word(at+".flavour", k.Flavour, []string{FlavourKLP, FlavourDirect})
	c.flavour(at, k)
	c.word(at+".machine", k.Machine, machines())
	c.text(at+".release", k.Release)
	c.text(at+".vermagic", k.Vermagic)
	c.buildID(at+".build_id", k.BuildID)
	c.moduleName(at+".module", k.Module)
	c.payload(at+".payload", &k.Payload, KernelMember)
	if len(k.Objtool) != 0 {
		c.bytes(at+".objtool", k.Objtool, 32)
	}
	c.count(at+".objects", len(k.Objects), 1, MaxTargets)
	c.count(at+".exports", len(k.Exports), 0, MaxList)
	c.count(at+".states", len(k.States), 0, MaxList)
	c.count(at+".warnings", len(k.Warnings), 0, MaxList)
	objects, replacement := map[string]bool{}, map[string]bool{}
	does := 0
	for i := range k.Objects {
		o, at := &k.Objects[i], fmt.Sprintf("%s.objects[%d]", at, i)
		if objects[o.Name] {
			c.add(at+".name", "%.60q is there twice", o.Name)
		}
		objects[o.Name] = true
		c.kernelObject(at, o, replacement)
		does += len(o.Functions) + len(o.Callbacks)
	}
	if does == 0 {
		c.add(at+".objects", "have neither a function nor a callback")
	}
	c.exports(at+".exports", k.Exports)
	states := map[uint64]bool{}
	for i, s := range k.States {
		if states[s.ID] {
			c.add(fmt.Sprintf("%s.states[%d].id", at, i), "%d is there twice", s.ID)
		}
		states[s.ID] = true
	}
	for i, w := range k.Warnings {
		c.text(fmt.Sprintf("%s.warnings[%d]", at, i), w)
	}
}

// flavour checks what one flavour has and the other has not.
func (c *checker) flavour(at string, k *Kernel) {
	if k.Flavour != FlavourDirect {
		if k.Base != nil {
			c.add(at+".base", "is for flavour %q", FlavourDirect)
		}
		if k.Dispatch != "" {
			c.add(at+".dispatch", "is for flavour %q", FlavourDirect)
		}
		if k.Consistency != "" {
			c.add(at+".consistency", "is for flavour %q", FlavourDirect)
		}
		return
	}
	if k.Dispatch != "" {
		c.word(at+".dispatch", k.Dispatch, []string{DispatchShared})
	}
	c.word(at+".consistency", k.Consistency, []string{ConsistencyCalls})
	if k.Base == nil {
		c.add(at+".base", "is missing")
	} else {
		c.word(at+".base.module", k.Base.Module, []string{BaseModule})
		c.payload(at+".base.payload", &k.Base.Payload, BaseMember)
	}
	if len(k.States) > 0 {
		c.add(at+".states", "are for flavour %q", FlavourKLP)
	}
	for i := range k.Objects {
		o := &k.Objects[i]
		if len(o.Callbacks) > 0 {
			c.add(fmt.Sprintf("%s.objects[%d].callbacks", at, i), "are for flavour %q", FlavourKLP)
		}
		if o.Name != Vmlinux {
			c.add(fmt.Sprintf("%s.objects[%d].name", at, i), "%.60q: flavour %q is for the kernel itself", o.Name, FlavourDirect)
		}
	}
}

func (c *checker) buildID(at string, id Hex) {
	if len(id) == 0 || len(id) > 64 {
		c.add(at, "has %d bytes, not 1 to 64", len(id))
	}
}

// moduleName checks the name of a module as the kernel keeps it.
func (c *checker) moduleName(at, s string) {
	ok := s != "" && len(s) <= MaxModuleName
	for i := range len(s) {
		b := s[i]
		ok = ok && (b == '_' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9')
	}
	if !ok {
		c.add(at, "%.60q is not the name of a module: 1 to %d letters, digits or '_'", s, MaxModuleName)
	}
}

func (c *checker) kernelObject(at string, o *KernelObject, replacement map[string]bool) {
	c.moduleName(at+".name", o.Name)
	c.buildID(at+".build_id", o.BuildID)
	c.optional(at+".srcversion", o.Srcversion)
	c.count(at+".functions", len(o.Functions), 0, MaxList)
	c.count(at+".symbols", len(o.Symbols), 0, MaxList)
	c.count(at+".callbacks", len(o.Callbacks), 0, len(CallbackKinds()))
	for i := range o.Functions {
		f, at := &o.Functions[i], fmt.Sprintf("%s.functions[%d]", at, i)
		if replacement[f.Replacement] {
			c.add(at+".replacement", "%.60q replaces another function too", f.Replacement)
		}
		replacement[f.Replacement] = true
		c.kernelFunction(at, f, o.Name)
	}
	for i := range o.Symbols {
		s, at := &o.Symbols[i], fmt.Sprintf("%s.symbols[%d]", at, i)
		c.kallsym(at, s.Name, s.Position)
		c.kernelSection(at, s.Section, o.Name)
		c.text(at+".found", s.Found)
		if s.Uses < 0 {
			c.add(at+".uses", "%d is negative", s.Uses)
		}
	}
	kinds := map[string]bool{}
	for i, b := range o.Callbacks {
		at := fmt.Sprintf("%s.callbacks[%d]", at, i)
		c.word(at+".kind", b.Kind, CallbackKinds())
		if kinds[b.Kind] {
			c.add(at+".kind", "%.40q is there twice", b.Kind)
		}
		kinds[b.Kind] = true
		c.text(at+".function", b.Function)
	}
}

func (c *checker) kernelFunction(at string, f *KernelFunction, object string) {
	c.kallsym(at, f.Name, f.Position)
	c.base(at+".object", f.Object)
	c.kernelSection(at, f.Section, object)
	if f.Size == 0 {
		c.add(at+".size", "is 0")
	}
	c.extent(at+".size", f.Address, f.Size)
	c.text(at+".replacement", f.Replacement)
	if f.NewSize == 0 || f.NewSize > MaxPayload {
		c.add(at+".new_size", "%d is not within 1 to %d", f.NewSize, MaxPayload)
	}
	c.bytes(at+".sha256", f.SHA256, 32)
	c.word(at+".proof", f.Proof, proofs())
	c.siteOf(at+".site", f.Site, f.Address, f.Size)
}

// kallsym checks a name and position as the livepatch core looks them up.
func (c *checker) kallsym(at, name string, position int) {
	c.text(at+".name", name)
	if strings.Contains(name, ",") {
		c.add(at+".name", "%.60q holds a comma", name)
	}
	if position < 0 || position > MaxList {
		c.add(at+".position", "%d is not within 0 to %d", position, MaxList)
	}
}

// kernelSection checks that places in modules, and only they, have a section.
func (c *checker) kernelSection(at, section, object string) {
	if (section == "") != (object == Vmlinux) {
		c.add(at+".section", "is %.40q in %.40q: addresses in modules count from a section, others do not", section, object)
	}
	c.optional(at+".section", section)
}

func (c *checker) exports(list string, exports []KernelExport) {
	names := map[string]bool{}
	for i, e := range exports {
		at := fmt.Sprintf("%s[%d]", list, i)
		c.text(at+".name", e.Name)
		c.optional(at+".namespace", e.Namespace)
		if e.CRC != nil {
			c.bytes(at+".crc", *e.CRC, 4)
		}
		if names[e.Name] {
			c.add(at+".name", "%.60q is there twice", e.Name)
		}
		names[e.Name] = true
	}
}
