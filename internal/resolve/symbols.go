package resolve

import (
	"debug/elf"
	"fmt"
	"io"

	"livepatch/elfpatch"
)

// A NotFoundError says why a dynamic symbol has no address in the target.
type NotFoundError struct {
	Name, Version string
	Reason        string
}

func (e *NotFoundError) Error() string {
	name := e.Name
	if e.Version != "" {
		name += "@" + e.Version
	}
	return fmt.Sprintf("symbol %s: %s", name, e.Reason)
}

// A Scope is the loaded images in search order, with their dynamic tables read
// when they are first needed.
type Scope struct {
	mem    io.ReaderAt
	images []*Image
	tables map[*Image]*table
}

// table is what one image tells the dynamic linker.
type table struct {
	soname    string
	symbols   []elfpatch.DynSymbol
	relocs    []elfpatch.Rela
	versioned bool // it defines versions
	err       error
}

// NewScope makes the scope of images in the order of the search (see Order).
func NewScope(mem io.ReaderAt, images []*Image) *Scope {
	return &Scope{mem: mem, images: images, tables: map[*Image]*table{}}
}

func (s *Scope) table(im *Image) *table {
	if t := s.tables[im]; t != nil {
		return t
	}
	t := &table{}
	s.tables[im] = t
	var f *elfpatch.File
	if f, t.err = im.File(s.mem); t.err != nil {
		return t
	}
	var d *elfpatch.Dynamic
	if d, t.err = f.Dynamic(); t.err != nil || d == nil {
		return t
	}
	t.soname = d.Soname
	_, t.versioned = d.Value(elf.DT_VERDEF)
	if t.symbols, t.err = f.DynSymbols(); t.err != nil {
		return t
	}
	t.relocs, t.err = f.DynRelocations()
	return t
}

// Soname returns the DT_SONAME of an image, empty if it has none.
func (s *Scope) Soname(im *Image) string { return s.table(im).soname }

// Imported calls use for every undefined symbol of an image.
func (s *Scope) Imported(im *Image, use func(name string)) error {
	t := s.table(im)
	for i := range t.symbols {
		if sym := &t.symbols[i]; sym.Section == elfpatch.Undefined && sym.Name != "" {
			use(sym.Name)
		}
	}
	return t.err
}

// Lookup returns the address of a dynamic symbol as the dynamic linker would
// bind it: the first definition in search order of that name and version; an
// empty version means the default one. library is the soname the version is
// needed from; it only has to be loaded, because definitions elsewhere may take
// precedence (copy relocations do). The error is a *NotFoundError.
func (s *Scope) Lookup(name, version, library string) (uint64, error) {
	fail := func(format string, args ...any) (uint64, error) {
		return 0, &NotFoundError{name, version, fmt.Sprintf(format, args...)}
	}
	loaded := library == ""
	for _, im := range s.images {
		t := s.table(im)
		loaded = loaded || t.soname == library
		if t.err != nil {
			return fail("%s comes first in the search, but its tables cannot be read: %v", im.Name(), t.err)
		}
		sym := t.find(name, version)
		if sym == nil {
			continue
		}
		switch sym.Type {
		case elf.STT_TLS:
			return fail("it is thread-local in %s", im.Name())
		case elf.STT_GNU_IFUNC:
			if addr, ok := s.resolved(im, sym, name); ok {
				return addr, nil
			}
			return fail("%s chooses its implementation when it is first bound, and nothing in the process has bound it", im.Name())
		}
		if sym.Section == elfpatch.Absolute {
			return sym.Value, nil
		}
		return im.Bias + sym.Value, nil
	}
	if !loaded {
		return fail("library %s is not loaded", library)
	}
	return fail("no loaded image defines it")
}

// Defined returns the address of a function that an image itself defines and
// exports, false if it does not.
func (s *Scope) Defined(im *Image, name string) (uint64, bool) {
	for i := range s.table(im).symbols {
		sym := &s.tables[im].symbols[i]
		if sym.Name == name && sym.Section != elfpatch.Undefined && sym.Type == elf.STT_FUNC && sym.Bind != elf.STB_LOCAL && !sym.Hidden {
			return im.Bias + sym.Value, true
		}
	}
	return 0, false
}

// Functions calls use for every function that an image exports.
func (s *Scope) Functions(im *Image, use func(name string, addr, size uint64)) {
	for _, sym := range s.table(im).symbols {
		if sym.Section != elfpatch.Undefined && (sym.Type == elf.STT_FUNC || sym.Type == elf.STT_GNU_IFUNC) {
			use(sym.Name, im.Bias+sym.Value, sym.Size)
		}
	}
}

// find returns the definition that satisfies a reference.
func (t *table) find(name, version string) *elfpatch.DynSymbol {
	for i := range t.symbols {
		sym := &t.symbols[i]
		if sym.Section == elfpatch.Undefined || sym.Bind == elf.STB_LOCAL || sym.Name != name {
			continue
		}
		switch {
		case version == "" && !sym.Hidden,
			version != "" && sym.Version == version,
			version != "" && sym.Version == "" && !t.versioned:
			return sym
		}
	}
	return nil
}

// Relocations of x86-64 and arm64 that leave the address of a function in a
// slot, and those whose addend is a resolver.
func isSlot(m elf.Machine, typ uint32) bool {
	switch m {
	case elf.EM_X86_64:
		return typ == uint32(elf.R_X86_64_JMP_SLOT) || typ == uint32(elf.R_X86_64_GLOB_DAT) || typ == uint32(elf.R_X86_64_64)
	case elf.EM_AARCH64:
		return typ == uint32(elf.R_AARCH64_JUMP_SLOT) || typ == uint32(elf.R_AARCH64_GLOB_DAT) || typ == uint32(elf.R_AARCH64_ABS64)
	}
	return false
}

// isLazy reports whether a slot may be bound at the first call only.
func isLazy(m elf.Machine, typ uint32) bool {
	return m == elf.EM_X86_64 && typ == uint32(elf.R_X86_64_JMP_SLOT) || m == elf.EM_AARCH64 && typ == uint32(elf.R_AARCH64_JUMP_SLOT)
}

func isIRelative(m elf.Machine, typ uint32) bool {
	switch m {
	case elf.EM_X86_64:
		return typ == uint32(elf.R_X86_64_IRELATIVE)
	case elf.EM_AARCH64:
		return typ == uint32(elf.R_AARCH64_IRELATIVE)
	}
	return false
}

// resolved finds what an indirect function was resolved to without running its
// resolver: in a slot of the image itself that was filled by the same resolver,
// or in a slot of any image that is bound to the name. A slot that is not bound
// yet leads back into the image that owns it; one that is leads into the code
// of the image that defines the function. Where both are one image, slots that are
// bound at the first call do not tell, and are left out: on arm64 what an unbound
// one leads to cannot even be called.
func (s *Scope) resolved(def *Image, sym *elfpatch.DynSymbol, name string) (uint64, bool) {
	for _, r := range s.table(def).relocs {
		if isIRelative(def.Machine, r.Type) && uint64(r.Addend) == sym.Value {
			if addr, ok := s.codeAt(def, def, r.Offset); ok {
				return addr, true
			}
		}
	}
	for _, im := range s.images {
		t := s.table(im)
		for _, r := range t.relocs {
			if !isSlot(im.Machine, r.Type) || r.Addend != 0 || uint64(r.Symbol) >= uint64(len(t.symbols)) {
				continue
			}
			if im == def && isLazy(im.Machine, r.Type) {
				continue
			}
			use := &t.symbols[r.Symbol]
			if use.Name != name || use.Version != "" && sym.Version != "" && use.Version != sym.Version {
				continue
			}
			if addr, ok := s.codeAt(im, def, r.Offset); ok && addr != def.Bias+sym.Value {
				return addr, true
			}
		}
	}
	return 0, false
}

// codeAt reads a slot of im and accepts an address in the code of def.
func (s *Scope) codeAt(im, def *Image, slot uint64) (uint64, bool) {
	var b [8]byte
	if !im.Contains(slot, 8, 0) || read(s.mem, b[:], im.Bias+slot) != nil {
		return 0, false
	}
	addr := le.Uint64(b[:])
	return addr, def.Contains(addr-def.Bias, 1, elf.PF_X)
}
