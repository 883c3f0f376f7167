package elfpatch

import (
	"debug/elf"
	"fmt"
)

// Dynamic is what a linked file tells the dynamic loader.
type Dynamic struct {
	Entries []DynEntry // in file order, without the closing DT_NULL
	Soname  string
	Needed  []string
	Runpath string
	Rpath   string
	Flags   elf.DynFlag
	Flags1  elf.DynFlag1

	strings *stringTable
}

// DynEntry is one DT_* entry.
type DynEntry struct {
	Tag elf.DynTag
	Val uint64
}

// Value returns the value of the first entry with a tag.
func (d *Dynamic) Value(tag elf.DynTag) (uint64, bool) {
	for _, e := range d.Entries {
		if e.Tag == tag {
			return e.Val, true
		}
	}
	return 0, false
}

// dynamicData finds the dynamic section: by the segment, as the loader does,
// or by the section.
func (f *File) dynamicData() []byte {
	for _, p := range f.Segments {
		if p.Type == elf.PT_DYNAMIC {
			return f.segmentData(p)
		}
	}
	for _, s := range f.Sections {
		if s.Type == elf.SHT_DYNAMIC {
			return s.Data
		}
	}
	return nil
}

// Dynamic reads the dynamic section. It returns nil without an error for files
// that have none: objects, static executables, separate debug files.
func (f *File) Dynamic() (*Dynamic, error) {
	data := f.dynamicData()
	if len(data) == 0 {
		return nil, nil
	}
	d := &Dynamic{}
	for off := 0; off+16 <= len(data); off += 16 {
		e := DynEntry{elf.DynTag(le.Uint64(data[off:])), le.Uint64(data[off+8:])}
		if e.Tag == elf.DT_NULL {
			break
		}
		d.Entries = append(d.Entries, e)
	}
	if err := f.openDynamicStrings(d); err != nil {
		return nil, err
	}
	for i, e := range d.Entries {
		if err := d.note(e); err != nil {
			return nil, malformed(fmt.Sprintf("dynamic section: entry %d", i), "%v: %v", e.Tag, err)
		}
	}
	return d, nil
}

// note keeps what the fields of Dynamic are about.
func (d *Dynamic) note(e DynEntry) (err error) {
	var s string
	switch e.Tag {
	case elf.DT_SONAME:
		d.Soname, err = d.text(e.Val)
	case elf.DT_NEEDED:
		s, err = d.text(e.Val)
		d.Needed = append(d.Needed, s)
	case elf.DT_RUNPATH:
		d.Runpath, err = d.text(e.Val)
	case elf.DT_RPATH:
		d.Rpath, err = d.text(e.Val)
	case elf.DT_FLAGS:
		d.Flags = elf.DynFlag(e.Val)
	case elf.DT_FLAGS_1:
		d.Flags1 = elf.DynFlag1(e.Val)
	}
	return err
}

func (d *Dynamic) text(off uint64) (string, error) {
	if d.strings == nil {
		return "", fmt.Errorf("there is no string table")
	}
	if off>>32 != 0 {
		return "", fmt.Errorf("string offset %#x is absurd", off)
	}
	return d.strings.at(uint32(off))
}

func (f *File) openDynamicStrings(d *Dynamic) error {
	addr, ok := d.Value(elf.DT_STRTAB)
	if !ok {
		return nil
	}
	b := f.fromAddr(addr)
	if b == nil {
		return malformed("dynamic section", "string table at %#x, where the file has nothing", addr)
	}
	if n, ok := d.Value(elf.DT_STRSZ); ok {
		if n > uint64(len(b)) {
			return malformed("dynamic section", "string table of %#x bytes at %#x exceeds its segment", n, addr)
		}
		b = b[:n]
	}
	d.strings = f.strings(b)
	return nil
}

// region returns size bytes at an address that the dynamic section names.
func (f *File) region(what elf.DynTag, addr, size uint64) ([]byte, error) {
	b := f.fromAddr(addr)
	if uint64(len(b)) < size {
		return nil, malformed("dynamic section", "%v: %#x bytes at %#x exceed what the file has there", what, size, addr)
	}
	return b[:size], nil
}
