package kmod

import (
	"debug/elf"
	"fmt"
	"maps"
	"slices"
	"strings"

	"livepatch/elfpatch"
	"livepatch/internal/refusal"
)

// ownInfo are the entries of .modinfo that follow from the rest of a Spec, and
// those that would claim what is not so.
var ownInfo = map[string]bool{
	"license": true, "livepatch": true, "name": true, "vermagic": true, "retpoline": true, "depends": true,
	"import_ns": true, "srcversion": true, "intree": true, "staging": true,
}

func (s *Spec) license() string {
	if s.License == "" {
		return "GPL"
	}
	return s.License
}

// isGPL tells whether the kernel takes a licence for compatible with its own
// (include/linux/license.h, 6.12).
func isGPL(license string) bool {
	switch license {
	case "GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL":
		return true
	}
	return false
}

// addModinfo adds .modinfo: what the kernel and modprobe read of a module
// before anything else.
func (e *emitter) addModinfo() {
	s := e.s
	namespaces, depends := slices.Clone(s.ImportNS), slices.Clone(s.Depends)
	for _, b := range e.imports {
		if b.Namespace != "" {
			namespaces = append(namespaces, b.Namespace)
		}
		if o := objectName(b.Object); o != vmlinux {
			depends = append(depends, o)
		}
	}
	slices.Sort(namespaces)
	slices.Sort(depends)
	entries := []string{"license=" + s.license()}
	if s.Direct == nil && !s.base {
		entries = append(entries, "livepatch=Y")
	}
	if s.base {
		entries = append(entries, "version="+Interface)
	}
	entries = append(entries, s.Info...)
	for _, ns := range slices.Compact(namespaces) {
		entries = append(entries, "import_ns="+ns)
	}
	entries = append(entries, "depends="+strings.Join(slices.Compact(depends), ","))
	if s.Srcversion != "" {
		entries = append(entries, "srcversion="+s.Srcversion)
	}
	if s.Retpoline {
		entries = append(entries, "retpoline=Y")
	}
	entries = append(entries, "name="+s.Name, "vermagic="+s.Vermagic)
	e.out.AddSection(elfpatch.Section{
		Name: ".modinfo", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC, Align: 1, Data: []byte(strings.Join(entries, "\x00") + "\x00"),
	})
}

// versionName is the room for a name in struct modversion_info, its closing
// zero included (include/linux/module.h, 6.12: MODULE_NAME_LEN).
const versionName = moduleName

// addVersions adds the versions of what the module imports: in the order of
// names, the one of the module format itself first.
func (e *emitter) addVersions() {
	s := e.s
	if s.Versions == NoVersions {
		return
	}
	layout, ok := s.Bindings[moduleLayout]
	if !ok || !layout.HasCRC {
		e.refuse(refusal.SymbolVersion, moduleLayout, "the version of the kernel's module format is not known")
		return
	}
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(e.imports)), func(n string) bool { return n == moduleLayout })
	list := []Binding{{Name: moduleLayout, CRC: layout.CRC}}
	for _, name := range names {
		if b := e.imports[name]; b.HasCRC {
			list = append(list, b)
		} else if objectName(b.Object) == vmlinux && name == enablePatch {
			e.refuse(refusal.SymbolVersion, name, "its version is not known")
		}
	}
	if s.Versions&BasicVersions != 0 {
		var d []byte
		for _, b := range list {
			if len(b.Name) >= versionName {
				continue // only among the extended ones; checkExport has refused it where there are none
			}
			entry := make([]byte, 8+versionName)
			le.PutUint64(entry, uint64(b.CRC))
			copy(entry[8:], b.Name)
			d = append(d, entry...)
		}
		e.out.AddSection(elfpatch.Section{Name: "__versions", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC, Align: 32, Data: d})
	}
	if s.Versions&ExtendedVersions != 0 {
		var crcs, text []byte
		for _, b := range list {
			crcs = le.AppendUint32(crcs, b.CRC)
			text = append(append(text, b.Name...), 0)
		}
		e.out.AddSection(elfpatch.Section{Name: "__version_ext_crcs", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC, Align: 4, Data: crcs})
		e.out.AddSection(elfpatch.Section{Name: "__version_ext_names", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC, Align: 1, Data: text})
	}
}

// own returns the symbol of an export that every module needs.
func (e *emitter) own(name string) uint32 {
	b, ok := e.s.Bindings[name]
	if !ok || b.Kind != Export {
		e.refuse(refusal.NotExported, name, "the kernel is not known to export it, and the module needs it")
		return 0
	}
	b.Name = name
	return e.export(b, fmt.Sprintf("entry %s", name))
}
