package modcheck

import (
	"fmt"
	"slices"
	"strings"

	"livepatch/internal/kimage"
	"livepatch/internal/refusal"
)

// gplCompatible are the licenses that let a module use symbols that are
// exported to GPL modules only: include/linux/license.h.
var gplCompatible = []string{"GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL"}

// checkImports asks of each undefined symbol what resolve_symbol in
// kernel/module/main.c asks: is it exported, to this license, in an imported
// namespace, with the same checksum.
func (c *checker) checkImports() {
	before := c.refusals(whatImport)
	versions, bad := c.versions()
	if bad != "" {
		c.refuse(refusal.SymbolVersion, whatImport, "__versions", "%s", bad)
	}
	license, _ := c.tag("license")
	if !slices.Contains(gplCompatible, license) {
		c.refuse(refusal.NotExported, whatImport, "klp_enable_patch", "it is exported to GPL modules only, the license is %q", license)
	}
	list := c.imports()
	if len(c.target.exports) == 0 {
		why := "no file given lists exported symbols"
		if c.target.noKsym != "" {
			why = c.target.noKsym
		}
		c.later(whatImport, "", "%s: %s", count(len(list), "symbol"), why)
		return
	}
	if c.target.traits.versioned {
		c.checkVersion("module_layout", versions)
	}
	for _, im := range list {
		c.checkImport(im, versions)
	}
	if c.refusals(whatImport) == before {
		c.ok(whatImport, "", "%s", count(len(list), "symbol"))
	}
}

// export finds who exports a symbol. A symbol of a module is found only if the module
// says that it depends on it, since it would not be loaded before this one otherwise.
func (c *checker) export(name string) (kimage.Export, bool) {
	for _, e := range c.target.exports[name] {
		if e.Module == vmlinux || slices.Contains(c.depends(), e.Module) {
			return e, true
		}
	}
	return kimage.Export{}, false
}

func (c *checker) depends() []string {
	d, _ := c.tag("depends")
	if d == "" {
		return nil
	}
	list := strings.Split(d, ",")
	for i := range list {
		list[i] = strings.ReplaceAll(list[i], "-", "_")
	}
	return list
}

// unknownDepends lists modules that the module depends on and no file given is.
func (c *checker) unknownDepends() []string {
	var list []string
	for _, d := range c.depends() {
		if c.target.object(d) == nil {
			list = append(list, d)
		}
	}
	return list
}

func (c *checker) checkImport(im Import, versions map[string]uint32) {
	e, ok := c.export(im.Name)
	if !ok {
		other := c.target.exports[im.Name]
		switch unknown := c.unknownDepends(); {
		case im.Weak || im.Name == "_GLOBAL_OFFSET_TABLE_":
		case len(other) > 0:
			c.refuse(refusal.NotExported, whatImport, im.Name, "it is exported by module %s, which depends= does not name", other[0].Module)
		case len(unknown) > 0:
			c.later(whatImport, im.Name, "perhaps exported by %s, which was not given", strings.Join(unknown, " or "))
		case c.target.objects[vmlinux] == nil && len(c.target.set.Exports) == 0:
			c.later(whatImport, im.Name, "the kernel's exports are not known")
		default:
			c.refuse(refusal.NotExported, whatImport, im.Name, "it is not exported")
		}
		return
	}
	if license, _ := c.tag("license"); e.GPL && !slices.Contains(gplCompatible, license) && im.Name != "klp_enable_patch" {
		c.refuse(refusal.NotExported, whatImport, im.Name, "it is exported to GPL modules only, the license is %q", license)
	}
	if e.Namespace != "" && !c.importsNamespace(e.Namespace) {
		c.refuse(refusal.NamespaceMissing, whatImport, im.Name, "it is in namespace %s, which the module does not import", e.Namespace)
	}
	if e.HasCRC {
		c.checkVersion(im.Name, versions)
	}
}

// importsNamespace: a namespace "module:a,b*" is for the modules that it names
// (kernel/module/main.c, verify_module_namespace, 6.16), others are imported by name.
func (c *checker) importsNamespace(ns string) bool {
	if list, ok := strings.CutPrefix(ns, "module:"); ok {
		for _, pattern := range strings.Split(strings.ReplaceAll(list, "-", "_"), ",") {
			if prefix, star := strings.CutSuffix(pattern, "*"); star && strings.HasPrefix(c.title, prefix) || pattern == c.title {
				return true
			}
		}
		return false
	}
	return slices.Contains(c.tags("import_ns"), ns)
}

// checkVersion compares the checksum of a symbol.
func (c *checker) checkVersion(name string, versions map[string]uint32) {
	e, ok := c.export(name)
	if !ok || !e.HasCRC {
		return
	}
	switch crc, ok := versions[name]; {
	case !ok:
		c.refuse(refusal.SymbolVersion, whatImport, name, "the module has no checksum for it, %s %s", e.Module, hexCRC(e.CRC))
	case crc != e.CRC:
		c.refuse(refusal.SymbolVersion, whatImport, name, "the module expects %s, %s has %s", hexCRC(crc), e.Module, hexCRC(e.CRC))
	}
}

func hexCRC(crc uint32) string { return fmt.Sprintf("0x%08x", crc) }
