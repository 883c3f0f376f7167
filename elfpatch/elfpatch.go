// Package elfpatch reads, edits and writes ELF64 little-endian files for
// x86-64 and arm64: relocatable objects, executables, shared libraries and
// separate debug files. It knows neither kernels nor patches.
//
// The layouts are those of the System V gABI, chapters 4 and 5, and of the
// x86-64 and AArch64 psABI supplements.
package elfpatch

import (
	"debug/elf"
	"fmt"
)

// File is one ELF file. Parse fills it; its fields may then be edited and
// Bytes lays it out anew. A parsed File refers to the bytes it was parsed from
// and never writes to them.
type File struct {
	Type       elf.Type
	Machine    elf.Machine
	Flags      uint32
	OSABI      uint8
	ABIVersion uint8
	Entry      uint64
	Sections   []*Section // index 0 is the null section; empty if the file has no table
	Segments   []Segment  // program headers, in file order
	Symbols    []Symbol   // .symtab, index 0 is the null symbol; nil without .symtab

	raw          []byte   // what was parsed
	phoff, shoff uint64   // where its tables of headers were
	parsed       int      // how many section headers there were
	shstrndx     int      // section that names sections, 0 if none
	symtab       int      // section of Symbols, 0 if none
	shndx        int      // section of their extended section numbers, 0 if none
	relocsOf     []int32  // by section: the one with its relocations, 0, or manyRelocs
	debugOnly    bool     // contents are in another file
	loads        []loaded // by address
}

// Section is one section. Data is nil for SHT_NOBITS, whose extent is Size;
// elsewhere Size equals len(Data).
type Section struct {
	Index   int // position in File.Sections
	Name    string
	Type    elf.SectionType
	Flags   elf.SectionFlag
	Addr    uint64
	Offset  uint64 // in the file that was parsed; Bytes assigns new ones
	Size    uint64
	Link    uint32
	Info    uint32
	Align   uint64
	EntSize uint64
	Data    []byte
}

// Segment is one program header.
type Segment struct {
	Type         elf.ProgType
	Flags        elf.ProgFlag
	Offset       uint64
	VAddr, PAddr uint64
	FileSize     uint64
	MemSize      uint64
	Align        uint64
}

// Section numbers that are not indices. Reserved numbers of the file (SHN_*)
// appear as the number minus 0x10000.
const (
	Undefined = 0
	Absolute  = int(elf.SHN_ABS) - 0x10000
	Common    = int(elf.SHN_COMMON) - 0x10000
)

// Symbol is one entry of a symbol table. Section is an index into
// File.Sections (SHN_XINDEX resolved), 0 when undefined, negative when
// reserved (Absolute, Common, …).
type Symbol struct {
	Name    string
	Type    elf.SymType
	Bind    elf.SymBind
	Other   uint8 // st_other: visibility and machine bits
	Section int
	Value   uint64 // offset in the section (ET_REL) or address
	Size    uint64
}

// Rela is one relocation with addend.
type Rela struct {
	Offset uint64 // in the section it applies to (ET_REL) or address
	Type   uint32 // R_X86_64_* or R_AARCH64_*
	Symbol uint32 // index into File.Symbols
	Addend int64
}

// A FormatError says that a file is not what it claims, and where.
type FormatError struct {
	Where string // "section header 12", "section .rela.text: entry 7", …
	Text  string
}

func (e *FormatError) Error() string { return fmt.Sprintf("%s: %s", e.Where, e.Text) }
