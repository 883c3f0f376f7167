package unwind

import (
	"fmt"
	"strings"
)

// common is what the descriptions of many functions share (CIE).
type common struct {
	code, data uint64 // factors of advances and offsets; data is signed
	ra         uint64 // register of the return address
	encoding   uint8  // of addresses
	augmented  bool   // descriptions begin with the length of more data
	keyB       bool   // signatures are of the other key
	signal     bool   // frames are the kernel's, for handlers
	program    []byte // the instructions that come first
}

// description is what is told of one function (FDE).
type description struct {
	*common
	start, size uint64
	program     []byte
}

const (
	maxCommon      = 1 << 12 // bytes of a CIE
	maxCommons     = 1 << 12 // that a table keeps
	maxDescription = 1 << 16 // bytes of an FDE
)

// body reads an entry at an address, without its length.
func (t *Table) body(at uint64, most uint32) ([]byte, error) {
	var h [4]byte
	if n, err := t.mem.ReadAt(h[:], int64(at)); n != len(h) {
		return nil, fmt.Errorf("entry at %#x: %w", at, err)
	}
	size := le.Uint32(h[:])
	if size < 4 || size > most {
		return nil, fmt.Errorf("entry at %#x: %#x bytes", at, size)
	}
	b := make([]byte, size)
	if n, err := t.mem.ReadAt(b, int64(at)+4); n != len(b) {
		return nil, fmt.Errorf("entry at %#x: %w", at, err)
	}
	return b, nil
}

// describe reads the description at an address.
func (t *Table) describe(at uint64) (*description, error) {
	b, err := t.body(at, maxDescription)
	if err != nil {
		return nil, err
	}
	back := uint64(le.Uint32(b))
	if back == 0 {
		return nil, fmt.Errorf("entry at %#x: it describes no function", at)
	}
	c, err := t.common(at + 4 - back)
	if err != nil {
		return nil, err
	}
	d := &description{common: c}
	r := reader{b: b[4:], at: at + 8}
	d.start = r.pointer(c.encoding)
	d.size = r.pointer(c.encoding & peFormat &^ peSigned)
	if c.augmented {
		r.take(r.uleb())
	}
	d.program = r.b
	if r.bad || d.start+d.size < d.start {
		return nil, fmt.Errorf("entry at %#x: it is cut short", at)
	}
	return d, nil
}

// common reads the CIE at an address.
func (t *Table) common(at uint64) (*common, error) {
	if c := t.commons[at]; c != nil {
		return c, nil
	}
	if len(t.commons) == maxCommons {
		return nil, fmt.Errorf("entry at %#x: more than %d common entries", at, maxCommons)
	}
	b, err := t.body(at, maxCommon)
	if err != nil {
		return nil, err
	}
	r := reader{b: b[4:], at: at + 8}
	version := r.byte()
	letters, _, ended := strings.Cut(string(r.b), "\x00")
	if le.Uint32(b) != 0 || version != 1 && version != 3 || !ended {
		return nil, fmt.Errorf("entry at %#x: no common entry of version 1 or 3", at)
	}
	r.take(uint64(len(letters)) + 1)
	c := &common{code: r.uleb(), data: r.sleb()}
	if version == 1 {
		c.ra = uint64(r.byte())
	} else {
		c.ra = r.uleb()
	}
	if err := c.augment(letters, &r); err != nil {
		return nil, fmt.Errorf("entry at %#x: %w", at, err)
	}
	c.program = r.b
	if r.bad {
		return nil, fmt.Errorf("entry at %#x: it is cut short", at)
	}
	t.commons[at] = c
	return c, nil
}

// augment reads what the letters of the augmentation announce.
func (c *common) augment(letters string, r *reader) error {
	if letters == "" {
		return nil
	}
	if letters[0] != 'z' {
		return fmt.Errorf("augmentation %.8q is not known", letters)
	}
	c.augmented = true
	data := reader{at: r.at}
	n := r.uleb()
	data.at = r.at
	data.b = r.take(n)
	for _, l := range letters[1:] {
		switch l {
		case 'R':
			c.encoding = data.byte()
		case 'P': // the personality; nobody reads it here
			data.pointer(data.byte() &^ (peApply | peIndirect))
		case 'L':
			data.byte()
		case 'S':
			c.signal = true
		case 'B': // arm64: signed with the other key; the bits are the same
			c.keyB = true
		default:
			return fmt.Errorf("augmentation %.8q is not known", letters)
		}
	}
	if data.bad {
		return fmt.Errorf("its augmentation is cut short")
	}
	return nil
}
