package kimage

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"strings"

	"livepatch/elfpatch"
)

// Module is a kernel module.
type Module struct {
	Name string
	File *elfpatch.File // as it is, ET_REL
	// Linked is the module laid out as if it were loaded: an ET_EXEC file at addresses
	// of our own, relocations applied. Its symbols have the indices of File.Symbols.
	// Undefined symbols stand in a section of their own (UndefinedSection), each
	// at its own address.
	Linked     *elfpatch.File
	BuildID    []byte
	Srcversion string
	Vermagic   string
	Depends    []string
	Info       []string // all of .modinfo, "key=value", in its order
	// Symbols are the named symbols that the kernel keeps of the module once it runs, in the order
	// of its kallsyms; Addr is an address in Linked, Size the size that the symbol
	// has.
	Symbols  []Symbol
	Versions map[string]uint32 // __versions, or its extended form: checksums of what it imports

	index
	initNames map[string]bool // names that occur among the symbols that do not stay, too
}

// ErrNotModule is wrapped by the errors for bytes that are no kernel module.
var ErrNotModule = errors.New("not a kernel module")

// ParseModule reads a kernel module, compressed or not. The Module keeps b.
func ParseModule(b []byte) (*Module, error) {
	raw, err := Unpack(b)
	if err != nil {
		return nil, err
	}
	f, err := elfpatch.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotModule, err)
	}
	if f.Type != elf.ET_REL || f.Section(".gnu.linkonce.this_module") == nil {
		return nil, fmt.Errorf("%w: it is of type %v, without .gnu.linkonce.this_module", ErrNotModule, f.Type)
	}
	m := &Module{File: f}
	if err := m.readInfo(); err != nil {
		return nil, err
	}
	if m.BuildID, err = f.BuildID(); err != nil {
		return nil, err
	}
	if m.Versions, err = readVersions(f); err != nil {
		return nil, err
	}
	if m.Linked, err = layOut(f); err != nil {
		return nil, fmt.Errorf("module %s: %w", m.Name, err)
	}
	m.readSymbols()
	return m, nil
}

// Value returns the first value of a key of .modinfo.
func (m *Module) Value(key string) (string, bool) {
	for _, s := range m.Info {
		if k, v, _ := strings.Cut(s, "="); k == key {
			return v, true
		}
	}
	return "", false
}

// Values returns all values of a key of .modinfo.
func (m *Module) Values(key string) []string {
	var out []string
	for _, s := range m.Info {
		if k, v, _ := strings.Cut(s, "="); k == key {
			out = append(out, v)
		}
	}
	return out
}

func (m *Module) readInfo() error {
	s := m.File.Section(".modinfo")
	if s == nil {
		return fmt.Errorf("%w: it has no .modinfo", ErrNotModule)
	}
	for _, line := range bytes.Split(s.Data, []byte{0}) {
		if len(line) > 0 {
			m.Info = append(m.Info, string(line))
		}
	}
	m.Name, _ = m.Value("name")
	if m.Name == "" {
		return fmt.Errorf("%w: .modinfo gives no name", ErrNotModule)
	}
	m.Name = moduleName(m.Name)
	m.Srcversion, _ = m.Value("srcversion")
	m.Vermagic, _ = m.Value("vermagic")
	if d, _ := m.Value("depends"); d != "" {
		m.Depends = strings.Split(d, ",")
	}
	return nil
}

// Size of an entry of __versions: struct modversion_info, include/linux/module.h (6.12).
const (
	versionSize   = 64
	versionNameAt = 8
)

// readVersions reads __versions, and the extended form for long names:
// __version_ext_crcs with a word each, __version_ext_names with a string each
// (kernel/module/version.c, 6.14).
func readVersions(f *elfpatch.File) (map[string]uint32, error) {
	out := map[string]uint32{}
	add := func(name string, crc uint32) error {
		if old, twice := out[name]; twice && old != crc {
			return fmt.Errorf("versions of imports: %s has two checksums", name)
		}
		out[name] = crc
		return nil
	}
	if s := f.Section("__versions"); s != nil {
		if len(s.Data)%versionSize != 0 {
			return nil, fmt.Errorf("versions of imports: __versions has %#x bytes, no multiple of %d", len(s.Data), versionSize)
		}
		for b := s.Data; len(b) > 0; b = b[versionSize:] {
			name, ok := cString(b[versionNameAt:versionSize])
			if !ok || name == "" {
				return nil, errors.New("versions of imports: an entry of __versions has no name")
			}
			if err := add(name, le.Uint32(b)); err != nil {
				return nil, err
			}
		}
	}
	crcs, names := f.Section("__version_ext_crcs"), f.Section("__version_ext_names")
	if crcs == nil || names == nil {
		return out, nil
	}
	text := names.Data
	for b := crcs.Data; len(b) >= 4; b = b[4:] {
		name, ok := cString(text)
		if !ok || name == "" {
			return nil, errors.New("versions of imports: __version_ext_names has fewer names than __version_ext_crcs checksums")
		}
		text = text[len(name)+1:]
		if err := add(name, le.Uint32(b)); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// readSymbols keeps what add_kallsyms in kernel/module/kallsyms.c (6.12) keeps with
// CONFIG_KALLSYMS_ALL: named symbols in sections that are loaded and stay after
// initialization, in the order of the symbol table.
func (m *Module) readSymbols() {
	m.initNames = map[string]bool{}
	for i, s := range m.File.Symbols {
		if s.Name == "" || s.Section <= 0 || isMapping(s.Name) {
			continue
		}
		sec := m.File.Sections[s.Section]
		if sec.Flags&elf.SHF_ALLOC == 0 || isInit(sec.Name) {
			m.initNames[s.Name] = true
			continue
		}
		m.Symbols = append(m.Symbols, Symbol{
			Name: s.Name, Addr: m.Linked.Symbols[i].Value, Size: s.Size, Type: letter(s, sec),
		})
	}
	m.index = newIndex(m.Symbols)
}

// isMapping reports the symbols that tell code from data in arm64 objects, "$x" and
// "$d.1". The kernel never looks for them.
func isMapping(name string) bool {
	return len(name) >= 2 && name[0] == '$' && strings.IndexByte("adtx", name[1]) >= 0 && (len(name) == 2 || name[2] == '.')
}

// isInit reports the sections that the kernel frees after initialization:
// module_init_section in kernel/module/main.c (6.12).
func isInit(name string) bool { return strings.HasPrefix(name, ".init") }

// Steady reports whether symbol i has the same position in the symbol list while the
// module is being loaded, when the list has the symbols of the initialization
// code too. A patch of a module that is not loaded yet is applied then.
func (m *Module) Steady(i int) bool { return !m.initNames[m.Symbols[i].Name] }

// letter is how nm prints a defined symbol: elf_type in kernel/module/kallsyms.c (6.12).
func letter(s elfpatch.Symbol, sec *elfpatch.Section) byte {
	c := byte('r')
	switch {
	case s.Bind == elf.STB_WEAK && s.Type == elf.STT_OBJECT:
		return 'V'
	case s.Bind == elf.STB_WEAK:
		return 'W'
	case sec.Flags&elf.SHF_EXECINSTR != 0:
		c = 't'
	case sec.Type == elf.SHT_NOBITS:
		c = 'b'
	case sec.Flags&elf.SHF_WRITE != 0:
		c = 'd'
	}
	if s.Bind != elf.STB_LOCAL {
		c -= 'a' - 'A'
	}
	return c
}
