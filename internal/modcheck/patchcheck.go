package modcheck

import (
	"debug/elf"
	"fmt"
	"strings"

	"livepatch/elfpatch"
	"livepatch/internal/refusal"
)

// checkKernel asks whether the module was made for the kernel.
func (c *checker) checkKernel() {
	magic, ok := c.tag("vermagic")
	k := c.target.set.Kernel
	switch {
	case !ok:
		c.refuse(refusal.WrongVermagic, whatKernel, "", "the module has no vermagic")
	case k != nil && k.Vermagic != "":
		c.equalMagic(magic, k.Vermagic, "the kernel")
	case len(c.target.set.Modules) > 0 && c.target.set.Modules[0].Vermagic != "":
		c.equalMagic(magic, c.target.set.Modules[0].Vermagic, "module "+c.target.set.Modules[0].Name)
	case k != nil && k.Release != "":
		if release, _, _ := strings.Cut(magic, " "); release != k.Release {
			c.refuse(refusal.WrongVermagic, whatKernel, "", "the module is for %q, the kernel is %q", release, k.Release)
		} else {
			c.later(whatKernel, "", "the module is for %s; the rest of the vermagic %q is left to the kernel", release, magic)
		}
	default:
		c.later(whatKernel, "", "the module is for %q; no file given says what the kernel is", magic)
	}
	if k != nil && c.target.abi == nil {
		c.later(whatKernel, "", "the image has no type information; the usual layout of structures is assumed")
	}
	for _, m := range c.target.set.Modules {
		if k != nil && k.Vermagic != "" && m.Vermagic != k.Vermagic {
			c.refuse(refusal.WrongVermagic, whatKernel, m.Name, "the module given as target is for %q, the kernel is %q", m.Vermagic, k.Vermagic)
		}
	}
}

func (c *checker) equalMagic(have, want, who string) {
	if have != want {
		c.refuse(refusal.WrongVermagic, whatKernel, "", "the module is for %q, %s is %q", have, who, want)
		return
	}
	c.ok(whatKernel, "", "made for %s", have)
}

// checkPatch asks what klp_enable_patch asks of the structures, and whether
// every function is there and can be redirected.
func (c *checker) checkPatch() {
	if c.patch == nil {
		c.refuse(refusal.KLPStructures, whatPatch, "", "no struct klp_patch, .init.klp_objects or .kpatch.funcs says what the module patches")
		return
	}
	before := c.refusals(whatPatch)
	for _, f := range c.patch.faults {
		c.refuse(refusal.KLPStructures, whatPatch, c.name(f.at), "%s", f.text)
	}
	if len(c.patch.objects) == 0 {
		c.refuse(refusal.KLPStructures, whatPatch, c.name(c.patch.at), "the patch has no objects")
	}
	if c.patch.flavour == FlavourStatic {
		c.checkLives(c.patch.at, "struct klp_patch")
	}
	c.checkArrays()
	seen := map[string]bool{}
	n := 0
	for _, o := range c.patch.objects {
		if seen[o.name] {
			c.refuse(refusal.KLPStructures, whatPatch, o.name, "the object is there twice")
		}
		seen[o.name] = true
		n += len(o.funcs)
		c.checkObject(o)
	}
	if c.refusals(whatPatch) == before {
		c.ok(whatPatch, "", "%s of %s (%s)", count(n, "function"), count(len(c.patch.objects), "object"), c.patch.flavour)
	}
}

// checkLives asks that a structure that the kernel links into its lists stays
// and may be written.
func (c *checker) checkLives(at place, what string) {
	s := c.section(at.sec)
	switch {
	case freed(s):
		c.refuse(refusal.KLPStructures, whatPatch, c.name(at), "%s is in %s, which is freed after init", what, s.Name)
	case s.Flags&elf.SHF_ALLOC == 0 || s.Flags&elf.SHF_WRITE == 0 || strings.HasPrefix(s.Name, ".data..ro_after_init"):
		c.refuse(refusal.KLPStructures, whatPatch, c.name(at), "%s is in %s; the kernel has to write it", what, s.Name)
	}
}

// checkArrays asks that each structure belongs to one array: without its end,
// one runs into the next.
func (c *checker) checkArrays() {
	owner := map[place]string{}
	for _, o := range c.patch.objects {
		if other, ok := owner[o.at]; ok && c.patch.flavour != FlavourKpatch {
			c.refuse(refusal.KLPStructures, whatPatch, o.name, "the object is read as a function of %s, whose array has no end", other)
		}
		for _, f := range o.funcs {
			if other, ok := owner[f.at]; ok && other != o.name {
				c.refuse(refusal.KLPStructures, whatPatch, o.name, "%s belongs to %s as well; an array of functions has no end", f.name, other)
				break
			}
			owner[f.at] = o.name
		}
	}
}

func (c *checker) checkObject(o object) {
	if o.name != vmlinux {
		if reason := badObjectName(o.name); reason != "" {
			c.refuse(refusal.NameLimit, whatPatch, o.name, "the name of the object %s", reason)
		}
	}
	if len(o.funcs) == 0 && len(o.calls) == 0 && c.patch.flavour != FlavourInTree {
		c.refuse(refusal.KLPStructures, whatPatch, o.name, "no function of the object is replaced")
	}
	if c.patch.flavour == FlavourStatic {
		c.checkLives(o.at, "struct klp_object")
		if len(o.funcs) > 0 {
			c.checkLives(o.funcs[0].at, "struct klp_func")
		}
	}
	for _, x := range o.calls {
		if x.ok {
			c.checkPointer(x.to, "the "+x.kind+" callback of "+o.name)
		}
	}
	byName := map[string]bool{}
	byAddr := map[uint64]string{}
	for _, f := range o.funcs {
		key := fmt.Sprintf("%s,%d", f.name, max(f.pos, 1)) // its directory in sysfs
		if byName[key] {
			c.refuse(refusal.KLPStructures, whatPatch, f.name, "the function is there twice")
		}
		byName[key] = true
		if f.ok {
			c.checkPointer(f.to, "the replacement of "+f.name)
		}
		if f.name != "" {
			c.checkFunction(o, f, byAddr)
		}
	}
}

// checkPointer asks that a pointer leads to the beginning of a function that
// stays.
func (c *checker) checkPointer(to place, what string) {
	s := c.section(to.sec)
	switch {
	case !executable(s):
		c.refuse(refusal.KLPStructures, whatPatch, c.name(to), "%s is in %s, which is no code", what, sectionName(s))
	case len(c.functionsAt(to)) == 0:
		c.refuse(refusal.KLPStructures, whatPatch, c.name(to), "%s is not at the beginning of a function", what)
	case freed(s):
		c.refuse(refusal.KLPStructures, whatPatch, c.name(to), "%s is in %s, which is freed after init", what, s.Name)
	}
}

func sectionName(s *elfpatch.Section) string {
	if s == nil {
		return "no section"
	}
	return s.Name
}

// checkFunction asks whether the function to be replaced exists and has one
// place for ftrace.
func (c *checker) checkFunction(o object, f patched, byAddr map[uint64]string) {
	where := f.name
	if o.name != vmlinux {
		where = o.name + ": " + f.name
	}
	if len(f.name) >= c.target.symbolLimit {
		c.refuse(refusal.NameLimit, whatFunction, where[:64]+"…", "the name has %d bytes, the kernel's limit is %d", len(f.name), c.target.symbolLimit-1)
		return
	}
	t, i := c.resolve(whatFunction, where, o.name, f.name, f.pos)
	if t == nil || i < 0 {
		return
	}
	s := &t.symbols[i]
	if other := byAddr[s.Addr]; other != "" && other != f.name {
		c.refuse(refusal.KLPStructures, whatFunction, where, "the function is %s as well, which is replaced too", other)
	}
	byAddr[s.Addr] = f.name
	if t.module != nil && !t.module.Steady(i) {
		c.refuse(refusal.AddressAmbiguous, whatFunction, where, "%s has a symbol of that name in what it frees after init, so the position changes while it is loaded", o.name)
		return
	}
	if !strings.ContainsRune("tTwWvV", rune(s.Type)) {
		c.refuse(refusal.NoFtraceSite, whatFunction, where, "the symbol is no code (type %c)", s.Type)
		return
	}
	if isVmlinux(o.name) && t.inInit(s.Addr) {
		c.refuse(refusal.NoFtraceSite, whatFunction, where, "the function is in init code, which is freed after boot")
		return
	}
	t.readSites()
	if t.noSites != "" {
		c.later(whatFunction, where, "whether ftrace can redirect it is left to the kernel: %s", t.noSites)
		return
	}
	if text := t.siteOf(s); text != "" {
		c.refuse(refusal.NoFtraceSite, whatFunction, where, "%s", text)
		return
	}
	c.ok(whatFunction, where, "at %#x, %d bytes, with one ftrace site", s.Addr, s.Size)
}
