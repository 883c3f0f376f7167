package elfpatch

import (
	"bytes"
	"debug/elf"
	"fmt"
)

// Note is one entry of a note section or segment.
type Note struct {
	Name string // owner, "GNU"
	Type uint32
	Desc []byte
}

// noteBuildID is NT_GNU_BUILD_ID.
const noteBuildID = 3

// Notes returns the notes of the file: those of SHT_NOTE sections, or of
// PT_NOTE segments where there are no section headers.
func (f *File) Notes() ([]Note, error) {
	var all []Note
	found := false
	for _, s := range f.Sections {
		if s.Type != elf.SHT_NOTE {
			continue
		}
		found = true
		list, err := parseNotes(s.Data, s.Align, "section "+s.Name)
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	if found {
		return all, nil
	}
	for i, p := range f.Segments {
		if p.Type != elf.PT_NOTE {
			continue
		}
		list, err := parseNotes(f.segmentData(p), p.Align, fmt.Sprintf("program header %d", i))
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	return all, nil
}

// parseNotes reads notes that are aligned to 4 bytes, or to 8 where the
// section or segment says so (gABI, "Note Section").
func parseNotes(b []byte, align uint64, where string) ([]Note, error) {
	if align != 8 {
		align = 4
	}
	up := func(n uint64) uint64 { return (n + align - 1) &^ (align - 1) }
	var all []Note
	for off := uint64(0); off < uint64(len(b)); {
		rest := b[off:]
		if len(rest) < 12 {
			if len(bytes.Trim(rest, "\x00")) == 0 {
				break
			}
			return nil, malformed(where, "note at %#x is cut short", off)
		}
		names, desc := uint64(le.Uint32(rest)), uint64(le.Uint32(rest[4:]))
		from := up(12 + names)
		if from > uint64(len(rest)) || desc > uint64(len(rest))-from {
			return nil, malformed(where, "note at %#x exceeds its section", off)
		}
		name := string(bytes.TrimRight(rest[12:12+names], "\x00"))
		all = append(all, Note{Name: name, Type: le.Uint32(rest[8:]), Desc: rest[from : from+desc]})
		off += up(from + desc)
	}
	return all, nil
}

// BuildID returns the build-id that the linker put into the file, nil if
// there is none.
func (f *File) BuildID() ([]byte, error) {
	notes, err := f.Notes()
	if err != nil {
		return nil, err
	}
	for _, n := range notes {
		if n.Name == "GNU" && n.Type == noteBuildID && len(n.Desc) > 0 {
			return n.Desc, nil
		}
	}
	return nil, nil
}

// Debuglink returns the name of the separate debug file and the CRC-32 of its
// contents, from .gnu_debuglink.
func (f *File) Debuglink() (name string, crc uint32, ok bool) {
	s := f.Section(".gnu_debuglink")
	if s == nil {
		return "", 0, false
	}
	n := bytes.IndexByte(s.Data, 0)
	at := (n + 4) &^ 3
	if n <= 0 || at+4 > len(s.Data) {
		return "", 0, false
	}
	return string(s.Data[:n]), le.Uint32(s.Data[at:]), true
}
