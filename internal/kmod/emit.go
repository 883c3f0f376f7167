package kmod

import (
	"crypto/sha256"
	"debug/elf"
	"fmt"
	"slices"

	"livepatch/elfpatch"
	"livepatch/elfpatch/kernel"
	"livepatch/internal/refusal"
)

// emitter makes one module.
type emitter struct {
	s    *Spec
	ops  *machine
	in   *elfpatch.File
	out  *elfpatch.File
	secs []*elfpatch.Section // of out, by the index in in; nil if left out
	syms []uint32            // of out, by the index in in; 0 if not (yet) there
	defs map[string]uint32   // symbols of out for those that in defines, by name

	labels    map[string]uint32 // symbols of out that the module's own code refers to by name
	described []ownCode         // the module's own code

	bound   map[string]uint32             // symbols of out for exports and livepatch symbols, by their names there
	imports map[string]Binding            // exports that are referred to, by name
	rels    map[int][]elfpatch.Rela       // ordinary relocations by section of out
	klp     map[klpTarget][]elfpatch.Rela // those that the livepatch core applies
	refused refusal.List
}

// klpTarget is what one section of livepatch relocations is for: a section of
// the module, and the object that has to be there.
type klpTarget struct {
	section int
	object  string
}

// Emit makes the module. Its error is a refusal.List for what the kernel would
// not take or would misunderstand, complete; a *elfpatch.FormatError (wrapped)
// for an object that is damaged.
func Emit(s Spec) ([]byte, error) {
	if s.Object == nil {
		return nil, fmt.Errorf("emit %s: there is no object", s.Name)
	}
	if s.Direct != nil {
		s.Bindings = withBase(s.Bindings)
	}
	e := &emitter{
		s: &s, in: s.Object, out: elfpatch.New(elf.ET_REL, s.Object.Machine), ops: machines[s.Object.Machine],
		defs: map[string]uint32{}, bound: map[string]uint32{}, imports: map[string]Binding{}, rels: map[int][]elfpatch.Rela{}, klp: map[klpTarget][]elfpatch.Rela{},
	}
	if e.ops == nil || s.Object.Type != elf.ET_REL {
		return nil, fmt.Errorf("emit %s: the object is %v for %v", s.Name, s.Object.Type, s.Object.Machine)
	}
	if err := append(s.check(), s.layouts().check(s.Name, s.wanted())...).Err(); err != nil {
		return nil, err
	}
	// From here on every name fits, and the layouts are those of a kernel.
	e.copySections()
	e.copySymbols()
	if err := e.convertAll(); err != nil {
		return nil, fmt.Errorf("emit %s: %w", s.Name, err)
	}
	// From here on all that the patch's own code refers to has an owner.
	if s.Direct != nil {
		e.addEntries(e.describeDirect())
	} else {
		e.addEntries(e.describePatch())
	}
	// From here on every section that goes to memory is there, but for those
	// that list what the module imports.
	return e.finish()
}

// finish adds what the kernel reads before anything else, and writes the file.
func (e *emitter) finish() ([]byte, error) {
	e.addVersions()
	e.addModinfo()
	note := e.addBuildID()
	e.checkSections()
	if err := e.refused.Err(); err != nil {
		return nil, err
	}
	return e.write(note)
}

// write adds the sections of relocations and lays the file out.
func (e *emitter) write(note *elfpatch.Section) ([]byte, error) {
	for i, n := 1, len(e.out.Sections); i < n; i++ {
		sec := e.out.Sections[i]
		if err := e.out.SetRelocations(sec, e.rels[i]); err != nil {
			return nil, fmt.Errorf("emit %s: %w", e.s.Name, err)
		}
	}
	e.addKLPRelocations()
	b, err := e.out.Bytes()
	if err != nil {
		return nil, fmt.Errorf("emit %s: %w", e.s.Name, err)
	}
	// The build-id is a digest of the module that has none yet, as linkers do.
	sum := sha256.Sum256(b)
	copy(note.Data[len(note.Data)-buildIDSize:], sum[:])
	return e.out.Bytes()
}

// leaveOut tells which sections of an object a module does not have.
func (e *emitter) leaveOut(s *elfpatch.Section) bool {
	if s.Flags&elf.SHF_ALLOC == 0 || s.Name == ".note.gnu.property" || s.Name == ".eh_frame" {
		return true
	}
	row := kernel.Lookup(e.in.Machine, s.Name)
	return row != nil && row.Use == kernel.Dropped
}

// isSpecial tells whether the kernel reads a section as a table when the module
// is loaded, before relocations to other modules are there.
func (e *emitter) isSpecial(name string) bool {
	row := kernel.Lookup(e.in.Machine, name)
	if row == nil {
		return false
	}
	return row.Use == kernel.Entries || row.Use == kernel.Support || row.Use == kernel.Unwind || row.Use == kernel.Sites || row.Use == kernel.Registry
}

// copySections takes the sections over that go to memory.
func (e *emitter) copySections() {
	e.secs = make([]*elfpatch.Section, len(e.in.Sections))
	for i, s := range e.in.Sections {
		if i == 0 || e.leaveOut(s) {
			continue
		}
		if s.Type == elf.SHT_GROUP || s.Type == elf.SHT_RELA && s.Flags&elf.SHF_ALLOC != 0 || s.Flags&elf.SHF_TLS != 0 || s.Flags&elf.SHF_COMPRESSED != 0 {
			e.refuse(refusal.Unsupported, s.Name, "a section of this kind cannot be part of a module")
			continue
		}
		if row := kernel.Lookup(e.in.Machine, s.Name); row != nil && (row.Use == kernel.Exports || row.Use == kernel.Request || row.BootOnly) {
			e.refuse(refusal.Unsupported, s.Name, "the module cannot have %s of its own", row.What)
			continue
		}
		c := *s
		c.Offset, c.Addr, c.Link, c.Info = 0, 0, 0, 0
		c.Flags &^= elf.SHF_GROUP | elf.SHF_INFO_LINK
		c.Data = slices.Clone(s.Data)
		if c.Align == 0 {
			c.Align = 1
		}
		e.secs[i] = e.out.AddSection(c)
	}
	for i, s := range e.in.Sections {
		if c := e.secs[i]; c != nil && s.Flags&elf.SHF_LINK_ORDER != 0 {
			if int(s.Link) < len(e.secs) && e.secs[s.Link] != nil {
				c.Link = uint32(e.secs[s.Link].Index)
			} else {
				c.Flags &^= elf.SHF_LINK_ORDER
			}
		}
	}
}

// copySymbols takes the defined symbols over in their order. All become local:
// nothing outside is to bind to the copies of functions that exist already.
func (e *emitter) copySymbols() {
	e.syms = make([]uint32, len(e.in.Symbols))
	for i, s := range e.in.Symbols {
		switch {
		case i == 0 || s.Type == elf.STT_FILE:
			continue
		case s.Section == elfpatch.Absolute:
		case s.Section == elfpatch.Common:
			e.refuse(refusal.Unsupported, s.Name, "the kernel takes no common symbols (compile with -fno-common)")
			continue
		case s.Section <= 0 || s.Section >= len(e.secs) || e.secs[s.Section] == nil:
			continue
		default:
			s.Section = e.secs[s.Section].Index
		}
		if s.Name == initName || s.Name == exitName || s.Name == thisModule {
			e.refuse(refusal.Unsupported, s.Name, "the object defines a symbol that the module gives a meaning of its own")
		}
		s.Bind = elf.STB_LOCAL
		e.syms[i] = uint32(e.out.AddSymbol(s))
		if _, twice := e.defs[s.Name]; !twice && s.Section > 0 && s.Type != elf.STT_SECTION {
			e.defs[s.Name] = e.syms[i]
		}
	}
}

// checkSections refuses what the loader refuses of sections.
func (e *emitter) checkSections() {
	seen := map[string]bool{}
	for _, s := range e.out.Sections[1:] {
		if s.Flags&elf.SHF_ALLOC == 0 {
			continue
		}
		if s.Flags&(elf.SHF_WRITE|elf.SHF_EXECINSTR) == elf.SHF_WRITE|elf.SHF_EXECINSTR {
			e.refuse(refusal.ModuleFormat, s.Name, "the section is writable and executable")
		}
		if seen[s.Name] {
			e.refuse(refusal.ModuleFormat, s.Name, "two sections have this name, and the kernel shows each as a file of its name")
		}
		seen[s.Name] = true
	}
	if n := len(e.out.Sections) + 2*len(e.rels) + len(e.klp); n >= int(elf.SHN_LORESERVE) {
		e.refuse(refusal.ModuleFormat, "", "%d sections, the kernel reads less than %d", n, elf.SHN_LORESERVE)
	}
}

func (e *emitter) refuse(code refusal.Code, where, format string, args ...any) {
	at := e.s.Name
	if where != "" {
		at += ": " + where
	}
	e.refused = append(e.refused, refusal.New(code, at, format, args...))
}

// addBuildID adds the section of the build-id, still empty.
func (e *emitter) addBuildID() *elfpatch.Section {
	d := make([]byte, 16+buildIDSize)
	le.PutUint32(d, 4)
	le.PutUint32(d[4:], buildIDSize)
	le.PutUint32(d[8:], 3) // NT_GNU_BUILD_ID
	copy(d[12:], "GNU\x00")
	return e.out.AddSection(elfpatch.Section{Name: ".note.gnu.build-id", Type: elf.SHT_NOTE, Flags: elf.SHF_ALLOC, Align: 4, Data: d})
}

// buildIDSize is the usual size of a build-id.
const buildIDSize = 20
