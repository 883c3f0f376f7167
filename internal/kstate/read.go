package kstate

import (
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
)

// file reads a whole file of at most maxFile bytes. Files of procfs and sysfs
// do not tell their size, so it is read until the end.
func file(fsys fs.FS, name string) ([]byte, error) {
	r, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("read /%s: more than %d bytes", name, maxFile)
	}
	return b, nil
}

// BuildID finds the GNU build-id among ELF notes such as /sys/kernel/notes
// holds; nil if there is none. Byte order is found out by which one makes
// sense of the first name's length.
func BuildID(notes []byte) []byte {
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		if id := buildID(notes, order); id != nil {
			return id
		}
	}
	return nil
}

func buildID(notes []byte, order binary.ByteOrder) []byte {
	const header, typeBuildID = 12, 3
	for len(notes) >= header {
		name, desc := uint64(order.Uint32(notes)), uint64(order.Uint32(notes[4:]))
		kind := order.Uint32(notes[8:])
		at := header + (name+3)&^3
		end := at + (desc+3)&^3
		if at+desc > uint64(len(notes)) {
			return nil
		}
		if kind == typeBuildID && name == 4 && string(notes[header:header+4]) == "GNU\x00" && desc > 0 {
			return notes[at : at+desc]
		}
		notes = notes[min(end, uint64(len(notes))):]
	}
	return nil
}
