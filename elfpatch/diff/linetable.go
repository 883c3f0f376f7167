package diff

import (
	"cmp"
	"debug/elf"
	"encoding/binary"
	"math"
	"slices"

	"livepatch/elfpatch"
)

// lineTable tells the source lines of places in an object, from .debug_line
// (DWARF 5, 6.2; versions 2 to 5). Files are not told apart: what is wanted is
// how far the line of a place moved.
type lineTable struct {
	rows map[int][]lineRow // by section, in order of places
}

type lineRow struct {
	off  uint32
	line int32 // noLine behind the last instruction of a sequence
}

const noLine = -1

// readLines reads the line table of an object, nil if it has none that can be
// read.
func readLines(f *elfpatch.File) *lineTable {
	t := &lineTable{rows: map[int][]lineRow{}}
	for _, sec := range f.Sections {
		if sec.Name != ".debug_line" || sec.Type != elf.SHT_PROGBITS || sec.Flags&elf.SHF_COMPRESSED != 0 {
			continue
		}
		rels, err := sortedRelocations(f, sec)
		if err != nil {
			return nil
		}
		r := &lineReader{f: f, t: t, rels: rels, b: sec.Data}
		for r.unit() {
		}
	}
	if len(t.rows) == 0 {
		return nil
	}
	for _, rows := range t.rows {
		slices.SortStableFunc(rows, func(a, b lineRow) int {
			if c := cmp.Compare(a.off, b.off); c != 0 {
				return c
			}
			return cmp.Compare(sequence(a), sequence(b)) // one ends where the next begins
		})
	}
	return t
}

func sequence(r lineRow) int {
	if r.line == noLine {
		return 0
	}
	return 1
}

// at is the line of a place in a section.
func (t *lineTable) at(sec int, off uint64) (int64, bool) {
	rows := t.rows[sec]
	k, _ := slices.BinarySearchFunc(rows, off+1, func(r lineRow, off uint64) int { return cmp.Compare(uint64(r.off), off) })
	if k == 0 || rows[k-1].line == noLine {
		return 0, false
	}
	return int64(rows[k-1].line), true
}

// lineReader reads the units of a .debug_line section one after the other.
type lineReader struct {
	f    *elfpatch.File
	t    *lineTable
	rels []elfpatch.Rela
	b    []byte
	pos  int // of the next unit

	// The state machine of a unit.
	minInst, lineRange, opcodeBase uint64
	lineBase                       int64
	lengths                        []byte
	sec                            int
	off                            uint64
	line                           int64
}

// unit reads one unit; false at the end or where the data make no sense.
func (r *lineReader) unit() bool {
	b := r.b[r.pos:]
	if len(b) < 16 {
		return false
	}
	n, wide := uint64(binary.LittleEndian.Uint32(b)), 4
	at := 4
	if n == 0xffffffff {
		n, wide, at = binary.LittleEndian.Uint64(b[4:]), 8, 12
	}
	if n > uint64(len(b)-at) || n < 16 {
		return false
	}
	end := at + int(n)
	start := r.pos
	r.pos += end
	version := binary.LittleEndian.Uint16(b[at:])
	at += 2
	if version < 2 || version > 5 {
		return true
	}
	if version == 5 {
		at += 2 // sizes of addresses and of segment selectors
	}
	if at+wide+8 > end {
		return false
	}
	header := uint64(binary.LittleEndian.Uint32(b[at:]))
	if wide == 8 {
		header = binary.LittleEndian.Uint64(b[at:])
	}
	at += wide
	if header > uint64(end-at) {
		return false
	}
	program := at + int(header)
	r.minInst = uint64(b[at])
	if at++; version >= 4 {
		at++ // operations per instruction
	}
	at++ // default of is_stmt
	if at+3 > program {
		return false
	}
	r.lineBase, r.lineRange, r.opcodeBase = int64(int8(b[at])), uint64(b[at+1]), uint64(b[at+2])
	at += 3
	if r.lineRange == 0 || r.opcodeBase == 0 || at+int(r.opcodeBase)-1 > program {
		return false
	}
	r.lengths = b[at : at+int(r.opcodeBase)-1]
	r.run(start+program, start+end)
	return true
}

// Opcodes of the line number program.
const (
	lnsCopy, lnsAdvancePC, lnsAdvanceLine = 1, 2, 3
	lnsConstAddPC, lnsFixedAdvancePC      = 8, 9
	lneEndSequence, lneSetAddress         = 1, 2
)

// run runs the program of a unit.
func (r *lineReader) run(at, end int) {
	r.reset()
	for at < end {
		op := uint64(r.b[at])
		at++
		switch {
		case op >= r.opcodeBase:
			adjusted := op - r.opcodeBase
			r.off += adjusted / r.lineRange * r.minInst
			r.line += r.lineBase + int64(adjusted%r.lineRange)
			r.emit(false)
		case op == 0:
			n, w := binary.Uvarint(r.b[at:end])
			if w <= 0 || n == 0 || n > uint64(end-at-w) {
				return
			}
			at += w
			switch r.b[at] {
			case lneEndSequence:
				r.emit(true)
				r.reset()
			case lneSetAddress:
				r.setAddress(uint64(at + 1))
			}
			at += int(n)
		default:
			var ok bool
			if at, ok = r.standard(op, at, end); !ok {
				return
			}
		}
	}
}

func (r *lineReader) standard(op uint64, at, end int) (int, bool) {
	switch op {
	case lnsCopy:
		r.emit(false)
		return at, true
	case lnsConstAddPC:
		r.off += (255 - r.opcodeBase) / r.lineRange * r.minInst
		return at, true
	case lnsFixedAdvancePC:
		if at+2 > end {
			return at, false
		}
		r.off += uint64(binary.LittleEndian.Uint16(r.b[at:]))
		return at + 2, true
	case lnsAdvanceLine:
		v, w := signedLEB(r.b[at:end])
		r.line += v
		return at + w, w > 0
	}
	for range r.lengths[op-1] {
		v, w := binary.Uvarint(r.b[at:end])
		if w <= 0 {
			return at, false
		}
		if op == lnsAdvancePC {
			r.off += v * r.minInst
		}
		at += w
	}
	return at, true
}

func (r *lineReader) reset() { r.sec, r.off, r.line = 0, 0, 1 }

func (r *lineReader) emit(end bool) {
	if r.sec <= 0 || r.off > math.MaxUint32 {
		return
	}
	line := int32(noLine)
	if !end {
		line = int32(min(max(r.line, 0), math.MaxInt32))
	}
	r.t.rows[r.sec] = append(r.t.rows[r.sec], lineRow{uint32(r.off), line})
}

// setAddress starts a sequence at the place that a relocation names.
func (r *lineReader) setAddress(field uint64) {
	r.sec, r.off = 0, 0
	k, ok := slices.BinarySearchFunc(r.rels, field, func(x elfpatch.Rela, off uint64) int { return cmp.Compare(x.Offset, off) })
	if !ok {
		return
	}
	if sym := &r.f.Symbols[r.rels[k].Symbol]; sym.Section > 0 {
		r.sec, r.off = sym.Section, sym.Value+uint64(r.rels[k].Addend)
	}
}

// signedLEB reads a signed LEB128 number and tells its length, 0 if it is cut
// off.
func signedLEB(b []byte) (int64, int) {
	v, shift := int64(0), uint(0)
	for i, c := range b {
		if shift < 64 {
			v |= int64(c&0x7f) << shift
		}
		shift += 7
		if c&0x80 == 0 {
			if c&0x40 != 0 && shift < 64 {
				v |= -1 << shift
			}
			return v, i + 1
		}
	}
	return 0, 0
}
