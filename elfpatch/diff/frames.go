package diff

import (
	"debug/elf"
	"encoding/binary"
	"slices"
	"strings"

	"livepatch/disasm"
	"livepatch/elfpatch"
	"livepatch/internal/leb128"
)

// What .eh_frame says of functions. The format is that of the Linux Standard
// Base, 10.6.1, and of the DWARF standard, 6.4.2: common entries (CIE), and one
// entry per function (FDE), each with its length first.

// frame is how the frames of a function are unwound.
type frame struct {
	common   *common
	skip     uint64 // bytes of NOPs at the entry of the function, before what is described
	program  []byte
	handlers *piece // its language-specific data area, nil if it has none
}

// common is a CIE.
type common struct {
	align       []byte // code and data alignment as they are encoded
	register    byte   // of the return address
	signal      bool   // frames are those of signal handlers
	keyB        bool   // arm64: return addresses are signed with key B
	personality *ref   // nil if it has none
	handlers    byte   // encoding of pointers to handlers
	functions   byte   // encoding of pointers to functions
	program     []byte
}

// Pointer encodings: the low half is the format, the high half what is added.
const (
	encodeAbs      = 0x00
	encodeUdata4   = 0x03
	encodeUdata8   = 0x04
	encodeSdata4   = 0x0b
	encodeSdata8   = 0x0c
	encodePCRel    = 0x10
	encodeIndirect = 0x80
	encodeOmit     = 0xff
)

// pointerSize is the bytes of an encoded pointer, 0 if it is of no encoding that
// compilers use for what is relocated.
func pointerSize(encoding byte) int {
	if base := encoding & 0x70; encoding == encodeOmit || base != 0 && base != encodePCRel {
		return 0
	}
	switch encoding & 0x0f {
	case encodeUdata4, encodeSdata4:
		return 4
	case encodeAbs, encodeUdata8, encodeSdata8:
		return 8
	}
	return 0
}

// readFrames gives each function its frame, and cuts the handlers into pieces:
// each reaches to the next. What cannot be read is passed over; a function that
// needs its frame is refused for want of it.
func (s *side) readFrames() {
	if s.kernel {
		return
	}
	starts := map[int][]uint64{}
	var open []func()
	for _, sec := range s.f.Sections {
		if sec.Name != ".eh_frame" || sec.Type == elf.SHT_NOBITS {
			continue
		}
		rels, err := sortedRelocations(s.f, sec)
		if err != nil {
			continue
		}
		r := frameReader{s: s, data: sec.Data, rels: rels, commons: map[int]*common{}}
		for _, e := range r.entries() {
			if e.handlers == nil {
				continue
			}
			at := e.handlers
			starts[at.sec] = append(starts[at.sec], uint64(at.add))
			open = append(open, func() { e.frame.handlers = s.at(at.sec, uint64(at.add)) })
		}
	}
	for sec, list := range starts {
		slices.Sort(list)
		s.cutHandlers(sec, slices.Compact(list))
	}
	for _, settle := range open {
		settle()
	}
}

// cutHandlers makes a piece of each language-specific data area of a section.
func (s *side) cutHandlers(sec int, starts []uint64) {
	size := s.f.Sections[sec].Size
	for i, at := range starts {
		end := size
		if i+1 < len(starts) {
			end = starts[i+1]
		}
		s.add(&piece{sec: sec, off: at, size: end - at, kind: literal})
	}
}

// frameReader reads one section.
type frameReader struct {
	s       *side
	data    []byte
	rels    []elfpatch.Rela
	commons map[int]*common // by offset
}

// frameEntry is an FDE whose handlers are not cut yet.
type frameEntry struct {
	*frame
	handlers *ref // where they begin, by section and offset
}

// entries reads the FDEs and gives them to their functions.
func (r *frameReader) entries() (list []frameEntry) {
	for at := 0; at+8 <= len(r.data); {
		n := int(binary.LittleEndian.Uint32(r.data[at:]))
		if n < 4 || n >= 0xfffffff0 || n > len(r.data)-at-4 {
			break
		}
		body, end := at+4, at+4+n
		if id := int(binary.LittleEndian.Uint32(r.data[body:])); id == 0 {
			r.commons[at] = r.common(body+4, end)
		} else if c := r.commons[body-id]; c != nil {
			if e, ok := r.entry(c, body+4, end); ok {
				list = append(list, e)
			}
		}
		at = end
	}
	return list
}

// relocation returns the reference that fills the field at an offset.
func (r *frameReader) relocation(at int) *ref {
	i, ok := slices.BinarySearchFunc(r.rels, uint64(at), func(x elfpatch.Rela, at uint64) int { return int(int64(x.Offset) - int64(at)) })
	if !ok {
		return nil
	}
	out := r.s.explicit(r.rels[i], 0)
	return &out
}

// common reads a CIE behind its length and id; nil if it is of no known form.
func (r *frameReader) common(at, end int) *common {
	d := bytesReader{data: r.data[:end], at: at}
	version := d.byte()
	letters, ok := d.text()
	if !ok || version != 1 && version != 3 || letters != "" && letters[0] != 'z' {
		return nil
	}
	c := &common{handlers: encodeOmit}
	from := d.at
	d.uleb()
	d.uleb() // signed, but only its length matters
	if d.bad {
		return nil
	}
	c.align = r.data[from:d.at]
	if version == 1 {
		c.register = d.byte()
	} else {
		c.register = byte(d.uleb())
	}
	program := d.at
	if letters != "" {
		n := d.uleb()
		program = d.at + int(min(n, uint64(len(r.data))))
	}
	for _, l := range strings.TrimPrefix(letters, "z") {
		switch l {
		case 'R':
			c.functions = d.byte()
		case 'L':
			c.handlers = d.byte()
		case 'S':
			c.signal = true
		case 'B':
			c.keyB = true
		case 'P':
			encoding := d.byte()
			if pointerSize(encoding) == 0 {
				return nil
			}
			c.personality = r.pointer(d.at, encoding)
			d.at += pointerSize(encoding)
			if c.personality == nil {
				return nil
			}
		default:
			return nil
		}
	}
	if d.bad || program > end || pointerSize(c.functions) == 0 {
		return nil
	}
	c.program = r.data[program:end]
	return c
}

// pointer returns what an encoded pointer leads to, behind the pointer that an
// indirect one leads to.
func (r *frameReader) pointer(at int, encoding byte) *ref {
	x := r.relocation(at)
	if x == nil || encoding&encodeIndirect == 0 {
		return x
	}
	return r.s.through(x)
}

// through returns what the word that a reference leads to holds the address of.
func (s *side) through(x *ref) *ref {
	if x.sec <= 0 || s.secs[x.sec].kind != dataSect {
		return nil
	}
	rels := s.secs[x.sec].rels
	i, ok := slices.BinarySearchFunc(rels, uint64(x.add), func(x elfpatch.Rela, at uint64) int { return int(int64(x.Offset) - int64(at)) })
	if !ok {
		return nil
	}
	out := s.explicit(rels[i], 0)
	return &out
}

// entry reads an FDE behind its length and the distance to its common entry.
func (r *frameReader) entry(c *common, at, end int) (e frameEntry, ok bool) {
	start := r.relocation(at)
	n := pointerSize(c.functions)
	if start == nil || start.sec <= 0 || at+2*n > end || start.add < 0 {
		return e, false
	}
	d := bytesReader{data: r.data[:end], at: at + 2*n}
	program := d.at
	if c.hasAugmentation() {
		size := d.uleb()
		program = d.at + int(min(size, uint64(len(r.data))))
		if c.handlers != encodeOmit {
			if pointerSize(c.handlers) == 0 {
				return e, false
			}
			e.handlers = r.pointer(d.at, c.handlers)
		}
	}
	if d.bad || program > end {
		return e, false
	}
	e.frame = &frame{common: c, program: r.data[program:end]}
	if h := e.handlers; h != nil && (h.sec <= 0 || r.s.secs[h.sec].kind != handlerSect || h.add < 0 || uint64(h.add) >= r.s.f.Sections[h.sec].Size) {
		return e, false
	}
	p := r.s.at(start.sec, uint64(start.add))
	if p == nil || p.kind != function || !r.s.onlyNops(start.sec, p.off, uint64(start.add)) {
		return e, false
	}
	e.frame.skip = uint64(start.add) - p.off
	p.frame = e.frame
	return e, true
}

// onlyNops reports whether code has nothing but NOPs from one offset to another. GCC
// describes functions of arm64 from behind the NOPs of -fpatchable-function-entry on.
func (s *side) onlyNops(sec int, from, to uint64) bool {
	code := s.f.Sections[sec].Data
	for from < to {
		if to > uint64(len(code)) {
			return false
		}
		in, err := disasm.Decode(s.f.Machine, code[from:to])
		if err != nil || !in.Nop {
			return false
		}
		from += uint64(in.Len)
	}
	return from == to
}

// hasAugmentation reports whether entries say how long their augmentation is.
func (c *common) hasAugmentation() bool {
	return c.functions != encodeAbs || c.personality != nil || c.handlers != encodeOmit || c.signal || c.keyB
}

// bytesReader reads encoded numbers; after the first that is not there it
// returns zeros and remembers.
type bytesReader struct {
	data []byte
	at   int
	bad  bool
}

func (d *bytesReader) byte() byte {
	if d.at < 0 || d.at >= len(d.data) {
		d.bad = true
		return 0
	}
	d.at++
	return d.data[d.at-1]
}

// text reads up to a zero byte.
func (d *bytesReader) text() (string, bool) {
	const longest = 8 // letters: seven exist
	for n := 0; n <= longest && d.at+n < len(d.data); n++ {
		if d.data[d.at+n] == 0 {
			s := string(d.data[d.at : d.at+n])
			d.at += n + 1
			return s, true
		}
	}
	return "", false
}

func (d *bytesReader) uleb() uint64 {
	v, n := leb128.Uint(d.rest())
	d.skip(n)
	return v
}

func (d *bytesReader) sleb() int64 {
	v, n := leb128.Int(d.rest())
	d.skip(n)
	return v
}

// skip goes past a number of n bytes; 0 if there is none.
func (d *bytesReader) skip(n int) {
	if n == 0 {
		n, d.bad = len(d.rest()), true
	}
	d.at += n
}

func (d *bytesReader) rest() []byte {
	if d.at < 0 || d.at > len(d.data) {
		return nil
	}
	return d.data[d.at:]
}

func (d *bytesReader) u32() uint64 {
	if d.at < 0 || len(d.data)-d.at < 4 {
		d.bad = true
		return 0
	}
	d.at += 4
	return uint64(binary.LittleEndian.Uint32(d.data[d.at-4:]))
}
