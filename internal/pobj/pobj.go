// Package pobj makes the payload of a process target: one relocatable object
// with the replacement functions of all its before and after pairs. The loader
// only lays out its sections, looks up its undefined symbols and applies its
// relocations; everything that needs a linker's judgement is done here: which
// PLT stub, GOT entry or thread-local offset of the target a field uses, and
// stubs and GOT entries of the patch's own where the target has none.
package pobj

import (
	"debug/elf"
	"fmt"

	"livepatch/elfpatch"
	"livepatch/elfpatch/match"
	"livepatch/internal/refusal"
	"livepatch/internal/unwind"
	"livepatch/manifest"
	"livepatch/trampoline"
)

// Part is the object cut from one pair.
type Part struct {
	Name      string // base name of the object, for refusals
	Object    *elfpatch.File
	Keep      []int // symbols whose names the payload keeps if it can: the replacements
	Externals []External
}

// External is what is known about one undefined symbol of a part.
type External struct {
	Symbol int    // in the part's Object
	Name   string // as the source spells it
	Known  match.Resolved
	// Dynamic says that the symbol can be looked up by name in the files that the
	// process has loaded, where what is known of the target does not do.
	Dynamic bool
}

// Linked is the payload and what it needs.
type Linked struct {
	Object  []byte
	Imports []manifest.Import // in the order of the payload's symbol table
	Names   []map[int]string  // per part: names in the payload of the defined symbols
	Shared  []Shared
	Pieces  map[trampoline.Place]string // their names in the payload
	Frames  bool                        // the payload has Frames
}

// Dispatch is what stands between redirects and replacements.
type Dispatch struct {
	Pieces    []trampoline.Piece
	Functions []Function // by the Function of a place

	// Rules tells how the caller of the target's function at an address is found
	// from there; nil if the target has no such tables.
	Rules func(addr uint64) (unwind.Rules, error)
}

// Function is one replacement: a symbol that its part keeps.
type Function struct{ Part, Symbol int }

// Shared is one address of the target that the payload uses.
type Shared struct {
	Part, External int // indices
	Symbol         string
	Value          uint64
	TLS            bool
}

// MaxAlign is the largest alignment of a section: that of the pages that the
// loader maps.
const MaxAlign = 4096

// MaxSize bounds the payload.
const MaxSize = manifest.MaxPayload

// Frames is the section of a payload that tells how its functions are unwound: the
// entries of all parts, those of what stands between, and a zero word that ends
// them.
const Frames = ".eh_frame"

// The sections of a payload, in order.
type area int

const (
	text area = iota
	rodata
	data
	bss
	got
	frames // how functions are unwound
	areas
	dropped area = -1
)

var areaSections = [areas]elfpatch.Section{
	text:   {Name: ".text", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | elf.SHF_EXECINSTR},
	rodata: {Name: ".rodata", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC},
	data:   {Name: ".data", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | elf.SHF_WRITE},
	bss:    {Name: ".bss", Type: elf.SHT_NOBITS, Flags: elf.SHF_ALLOC | elf.SHF_WRITE},
	got:    {Name: ".livepatch.got", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC},
	frames: {Name: Frames, Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC},
}

// Link joins the parts. The error is a refusal.List when a part needs what a
// payload cannot have.
func Link(m elf.Machine, parts []Part, d Dispatch) (*Linked, error) {
	l := newLinker(m, len(parts))
	// The replacements get the plain names.
	for i := range parts {
		l.place(i, &parts[i])
	}
	for i := range parts {
		l.nameKept(i, &parts[i])
	}
	l.defineGlobals(parts)
	for i := range parts {
		if err := l.relocate(i, &parts[i]); err != nil {
			return nil, fmt.Errorf("link %s: %w", parts[i].Name, err)
		}
	}
	if err := l.refusals.Err(); err != nil {
		return nil, err
	}
	pieces := l.dispatch(d)
	if f := &l.mem[frames]; f.size > 0 {
		if err := l.describe(d); err != nil {
			return nil, err
		}
		f.grow(4, 4, make([]byte, 4), l.filler(frames))
	}
	obj, err := l.object()
	if err != nil {
		return nil, err
	}
	if len(obj) > MaxSize {
		return nil, refusal.List{refusal.New(refusal.Unsupported, "", "the payload would have %d bytes, more than %d", len(obj), MaxSize)}
	}
	return &Linked{Object: obj, Imports: l.imports, Names: l.names, Shared: l.shared, Pieces: pieces, Frames: l.mem[frames].size > 0}, nil
}
