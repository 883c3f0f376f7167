package fentry

// The functions that .eh_frame describes. The format is that of the Linux
// Standard Base, "Exception Frames": common entries (CIE) and one entry per
// function (FDE), each with its length first. Only where functions begin and
// end is read here.

import (
	"encoding/binary"
	"fmt"

	"livepatch/internal/leb128"
)

// frame is the function of one FDE.
type frame struct {
	field int    // offset of the pointer to its start: what an ET_REL file relocates
	start uint64 // address; meaningless in an ET_REL file
	size  uint64
}

// Pointer encodings: the low half is the format, the high half what is added.
const (
	peAbs    = 0x00
	peUleb   = 0x01
	peU2     = 0x02
	peU4     = 0x03
	peU8     = 0x04
	peSleb   = 0x09
	peS2     = 0x0a
	peS4     = 0x0b
	peS8     = 0x0c
	pePCRel  = 0x10
	peOmit   = 0xff
	peFormat = 0x0f
	peApply  = 0x70
)

// maxAugmentation bounds the augmentation string: seven letters exist, and a
// longer one would be scanned again for every FDE of a hostile file.
const maxAugmentation = 8

type ehFrame struct {
	data   []byte
	addr   uint64
	toZero bool          // an entry of length zero ends the data; else it is skipped
	cies   map[int]uint8 // encoding of FDE pointers by offset of the CIE
}

// parseEHFrame returns the functions of .eh_frame, in its order. addr is the
// address of data, 0 in an ET_REL file.
func parseEHFrame(data []byte, addr uint64, toZero bool) ([]frame, error) {
	e := &ehFrame{data: data, addr: addr, toZero: toZero, cies: map[int]uint8{}}
	var all []frame
	for off := 0; off+4 <= len(data); {
		size := int(binary.LittleEndian.Uint32(data[off:]))
		if size == 0 {
			if toZero {
				return all, nil
			}
			off += 4
			continue
		}
		body := off + 4
		switch {
		case size == 0xffffffff:
			return nil, e.malformed(off, "entries of 64-bit length are not used")
		case size < 4 || size > len(data)-body:
			return nil, e.malformed(off, "entry of %#x bytes, %#x are left", size, len(data)-body)
		}
		if id := int(binary.LittleEndian.Uint32(data[body:])); id != 0 {
			f, err := e.entry(off, body+size, body-id)
			if err != nil {
				return nil, err
			}
			if f.size != 0 {
				all = append(all, f)
			}
		}
		off = body + size
	}
	return all, nil
}

func (e *ehFrame) malformed(off int, format string, args ...any) error {
	return malformed(fmt.Sprintf(".eh_frame+%#x", off), format, args...)
}

// entry reads the FDE at off, which ends at end.
func (e *ehFrame) entry(off, end, cie int) (frame, error) {
	if cie < 0 {
		return frame{}, e.malformed(off, "its common entry is %#x bytes before the section", -cie)
	}
	enc, ok := e.cies[cie]
	if !ok {
		var err error
		if enc, err = e.pointerEncoding(cie); err != nil {
			return frame{}, err
		}
		e.cies[cie] = enc
	}
	f := frame{field: off + 8}
	start, n, ok := readPointer(e.data[f.field:end], enc)
	if !ok {
		return frame{}, e.malformed(off, "pointer of encoding %#x is cut short", enc)
	}
	if enc&peApply == pePCRel {
		start += e.addr + uint64(f.field)
	}
	size, _, ok := readPointer(e.data[f.field+n:end], sizeEncoding(enc))
	if !ok {
		return frame{}, e.malformed(off, "size of encoding %#x is cut short", enc)
	}
	f.start, f.size = start, size
	return f, nil
}

// pointerEncoding reads the CIE at off for how its FDEs encode addresses.
func (e *ehFrame) pointerEncoding(off int) (uint8, error) {
	if off+8 > len(e.data) {
		return 0, e.malformed(off, "no common entry can be here")
	}
	size := int(binary.LittleEndian.Uint32(e.data[off:]))
	if size < 4 || size > len(e.data)-off-4 || binary.LittleEndian.Uint32(e.data[off+4:]) != 0 {
		return 0, e.malformed(off, "an entry refers to this place, which holds no common entry")
	}
	c := cursor{b: e.data[off+8 : off+4+size]}
	version := c.byte()
	augmentation := c.string(maxAugmentation)
	if c.bad || version != 1 && version != 3 {
		return 0, e.malformed(off, "common entry of version %d, or its augmentation has no end", version)
	}
	c.uleb() // code alignment
	c.uleb() // data alignment, signed, of which only the length matters
	if version == 1 {
		c.byte() // return address register
	} else {
		c.uleb()
	}
	enc, err := e.augmentation(off, augmentation, &c)
	if err == nil && c.bad {
		err = e.malformed(off, "common entry is cut short")
	}
	return enc, err
}

// augmentation reads the augmentation data that the letters announce, up to
// the pointer encoding.
func (e *ehFrame) augmentation(off int, letters string, c *cursor) (uint8, error) {
	if letters == "" {
		return peAbs, nil
	}
	if letters[0] != 'z' {
		return 0, e.malformed(off, "augmentation %q is not known", letters)
	}
	c.uleb() // length of the data
	for _, l := range letters[1:] {
		switch l {
		case 'R':
			enc := c.byte()
			if _, _, ok := readPointer(make([]byte, 10), enc); !ok || enc&peApply != 0 && enc&peApply != pePCRel || enc&0x80 != 0 {
				return 0, e.malformed(off, "pointer encoding %#x is not used for functions", enc)
			}
			return enc, nil
		case 'P':
			enc := c.byte()
			_, n, ok := readPointer(c.b, enc)
			if !ok {
				return 0, e.malformed(off, "personality pointer of encoding %#x is cut short", enc)
			}
			c.b = c.b[n:]
		case 'L':
			c.byte()
		case 'S', 'B', 'G':
		default:
			return 0, e.malformed(off, "augmentation %q is not known", letters)
		}
	}
	return peAbs, nil
}

// sizeEncoding is how the size of a function is encoded: as its address, but
// nothing is added and it has no sign.
func sizeEncoding(enc uint8) uint8 {
	switch enc & peFormat {
	case peS2, peS4, peS8:
		return enc & 7
	}
	return enc & peFormat
}

// readPointer reads the value of an encoded pointer and its length, without
// adding what the encoding says to add.
func readPointer(b []byte, enc uint8) (v uint64, n int, ok bool) {
	if enc == peOmit {
		return 0, 0, false
	}
	le := binary.LittleEndian
	switch enc & peFormat {
	case peU2, peS2:
		n = 2
	case peU4, peS4:
		n = 4
	case peAbs, peU8, peS8:
		n = 8
	case peUleb:
		v, n = leb128.Uint(b)
		return v, n, n > 0
	case peSleb:
		signed, n := leb128.Int(b)
		return uint64(signed), n, n > 0
	default:
		return 0, 0, false
	}
	if len(b) < n {
		return 0, 0, false
	}
	switch enc & peFormat {
	case peU2:
		v = uint64(le.Uint16(b))
	case peS2:
		v = uint64(int64(int16(le.Uint16(b))))
	case peU4:
		v = uint64(le.Uint32(b))
	case peS4:
		v = uint64(int64(int32(le.Uint32(b))))
	default:
		v = le.Uint64(b)
	}
	return v, n, true
}

// cursor reads from the front of b; bad is set once it is too short.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) byte() uint8 {
	if len(c.b) == 0 {
		c.bad = true
		return 0
	}
	v := c.b[0]
	c.b = c.b[1:]
	return v
}

// string reads up to a zero byte, which must come within limit bytes.
func (c *cursor) string(limit int) string {
	for i := 0; i < len(c.b) && i <= limit; i++ {
		if c.b[i] == 0 {
			s := string(c.b[:i])
			c.b = c.b[i+1:]
			return s
		}
	}
	c.bad = true
	return ""
}

func (c *cursor) uleb() uint64 {
	v, n := leb128.Uint(c.b)
	if n == 0 {
		n, c.bad = len(c.b), true
	}
	c.b = c.b[n:]
	return v
}
