package live

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
)

// The record in memory, little-endian:
//
//	0   16  magic
//	16   4  format version
//	20   4  length of the body
//	24   4  CRC-32 (IEEE) of the body
//	28   4  zero
//	32  48  control: state, next state, phase, prior state (1 byte each); processes (4);
//	        change, sequence (8 each); owner's number (4); column, next and prior
//	        column, why it is kept (1 each); owner's start, namespace (8 each)
//	80   …  body: base, bias, three sizes (8 bytes each); digest (32); name,
//	        target, build-id; digests required; functions; writes; slots; index,
//	        handler's address and size (8 each); symbols; frames (two of 8 bytes);
//	        unwinders. Byte strings and lists start
//	        with their length in 4 bytes.
//
// The control is outside the checksum: it changes alone. It lies within a page,
// so that a write of it by the kernel is never cut by the death of the writer.
const (
	magic         = "\x7fLIVEPATCH\x00\xd1\x9e\x5c\x0a\x01"
	recordVersion = 3
	headerSize    = 80

	// ControlOffset and ControlSize are the place of the control in a record;
	// StateOffset, PhaseOffset, ColumnOffset and StayOffset those of bytes in it.
	ControlOffset = 32
	ControlSize   = headerSize - ControlOffset
	StateOffset   = ControlOffset
	PhaseOffset   = ControlOffset + 2
	ColumnOffset  = ControlOffset + 28
	StayOffset    = ControlOffset + 31

	// MaxRecord bounds the bytes of a record.
	MaxRecord = 64 << 20
)

var le = binary.LittleEndian

// Encode returns the bytes of the record. Its length depends on names and
// counts only, not on addresses.
func (r *Record) Encode() []byte {
	b := make([]byte, headerSize, headerSize+256)
	copy(b, magic)
	le.PutUint32(b[16:], recordVersion)
	copy(b[ControlOffset:], r.Control.Encode())
	for _, v := range []uint64{r.Base, r.Bias, r.Sizes[0], r.Sizes[1], r.Sizes[2]} {
		b = le.AppendUint64(b, v)
	}
	b = append(b, r.Digest[:]...)
	for _, s := range [][]byte{[]byte(r.Name), []byte(r.Target), r.BuildID} {
		b = appendBytes(b, s)
	}
	b = le.AppendUint32(b, uint32(len(r.Requires)))
	for i := range r.Requires {
		b = append(b, r.Requires[i][:]...)
	}
	b = le.AppendUint32(b, uint32(len(r.Functions)))
	for _, f := range r.Functions {
		b = appendBytes(b, []byte(f.Name))
		for _, v := range []uint64{f.Old, f.OldSize, f.New, f.NewSize} {
			b = le.AppendUint64(b, v)
		}
		b = le.AppendUint32(b, uint32(len(f.Outlined)))
		for _, x := range f.Outlined {
			b = le.AppendUint64(le.AppendUint64(b, x.Addr), x.Size)
		}
	}
	b = le.AppendUint32(b, uint32(len(r.Writes)))
	for _, w := range r.Writes {
		b = le.AppendUint32(b, uint32(w.Function))
		b = le.AppendUint64(b, w.Addr)
		b = appendBytes(b, w.Old)
		b = appendBytes(b, w.New)
	}
	b = le.AppendUint32(b, uint32(len(r.Slots)))
	for _, s := range r.Slots {
		b = le.AppendUint32(b, uint32(s.Function))
		b = le.AppendUint64(le.AppendUint64(b, s.Host), s.Record)
	}
	for _, v := range []uint64{r.Index, r.Handler.Addr, r.Handler.Size} {
		b = le.AppendUint64(b, v)
	}
	b = le.AppendUint32(b, uint32(len(r.Symbols)))
	for _, s := range r.Symbols {
		b = le.AppendUint64(le.AppendUint64(appendBytes(b, []byte(s.Name)), s.Addr), s.Size)
	}
	b = le.AppendUint64(le.AppendUint64(b, r.Frames.Addr), r.Frames.Size)
	b = le.AppendUint32(b, uint32(len(r.Unwinders)))
	for _, u := range r.Unwinders {
		for _, v := range []uint64{u.Tell, u.Forget, u.Object, u.Flag} {
			b = le.AppendUint64(b, v)
		}
	}
	le.PutUint32(b[20:], uint32(len(b)-headerSize))
	le.PutUint32(b[24:], crc32.ChecksumIEEE(b[headerSize:]))
	return b
}

// Encode returns the ControlSize bytes of a control.
func (c *Control) Encode() []byte {
	b := []byte{byte(c.State), byte(c.Next), byte(c.Phase), byte(c.Prior)}
	b = le.AppendUint32(b, c.Processes)
	b = le.AppendUint64(b, c.Change)
	b = le.AppendUint64(b, c.Sequence)
	b = le.AppendUint32(b, c.Owner.PID)
	b = append(b, c.Column, c.NextCol, c.PriorCol, byte(c.Stays))
	b = le.AppendUint64(b, c.Owner.Start)
	return le.AppendUint64(b, c.Owner.Namespace)
}

// decodeControl reads what Encode wrote.
func decodeControl(b []byte) (c Control, err error) {
	d := decoder{b: b[4:ControlSize]}
	c = Control{State: State(b[0]), Next: State(b[1]), Phase: Phase(b[2]), Prior: State(b[3])}
	c.Processes, c.Change, c.Sequence = d.u32(), d.u64(), d.u64()
	c.Owner.PID = d.u32()
	columns := d.take(4)
	c.Column, c.NextCol, c.PriorCol, c.Stays = columns[0], columns[1], columns[2], Stay(columns[3])
	c.Owner.Start, c.Owner.Namespace = d.u64(), d.u64()
	switch {
	case !c.State.Known():
		err = fmt.Errorf("patch record: %v is unknown", c.State)
	case c.Next != 0 && !c.Next.Known():
		err = fmt.Errorf("patch record: %v is unknown", c.Next)
	case c.Prior != 0 && !c.Prior.Known():
		err = fmt.Errorf("patch record: %v is unknown", c.Prior)
	case !c.Phase.Known() || c.Phase != Idle && (c.Next == 0 || c.Prior == 0):
		err = fmt.Errorf("patch record: phase %d is unknown or leads nowhere", c.Phase)
	case max(c.Column, c.NextCol, c.PriorCol) >= Columns:
		err = fmt.Errorf("patch record: no column %d", max(c.Column, c.NextCol, c.PriorCol))
	}
	return c, err
}

func appendBytes(b, s []byte) []byte {
	return append(le.AppendUint32(b, uint32(len(s))), s...)
}

// Decode reads a record from the start of b.
func Decode(b []byte) (*Record, error) {
	n, err := bodyLength(b)
	if err != nil {
		return nil, err
	}
	if uint64(len(b)-headerSize) < uint64(n) {
		return nil, fmt.Errorf("patch record: body of %d bytes, %d are there", n, len(b)-headerSize)
	}
	body := b[headerSize : headerSize+int(n)]
	if sum := crc32.ChecksumIEEE(body); sum != le.Uint32(b[24:]) {
		return nil, fmt.Errorf("patch record: checksum %#x, not %#x", sum, le.Uint32(b[24:]))
	}
	control, err := decodeControl(b[ControlOffset:headerSize])
	if err != nil {
		return nil, err
	}
	d := decoder{b: body}
	r := &Record{Control: control}
	r.Base, r.Bias = d.u64(), d.u64()
	for i := range r.Sizes {
		r.Sizes[i] = d.u64()
	}
	copy(r.Digest[:], d.take(len(r.Digest)))
	r.Name, r.Target, r.BuildID = string(d.bytes()), string(d.bytes()), d.bytes()
	const digestSize, leastFunction, extentSize, leastWrite, slotSize, leastSymbol, unwinderSize = 32, 40, 16, 20, 20, 20, 32
	for range d.count(digestSize) {
		r.Requires = append(r.Requires, [digestSize]byte(d.take(digestSize)))
	}
	for range d.count(leastFunction) {
		f := Function{Name: string(d.bytes()), Old: d.u64(), OldSize: d.u64(), New: d.u64(), NewSize: d.u64()}
		for range d.count(extentSize) {
			f.Outlined = append(f.Outlined, Extent{d.u64(), d.u64()})
		}
		r.Functions = append(r.Functions, f)
	}
	for range d.count(leastWrite) {
		r.Writes = append(r.Writes, Write{int(int32(d.u32())), d.u64(), d.bytes(), d.bytes()})
	}
	for range d.count(slotSize) {
		r.Slots = append(r.Slots, Slot{int(int32(d.u32())), d.u64(), d.u64()})
	}
	r.Index, r.Handler.Addr, r.Handler.Size = d.u64(), d.u64(), d.u64()
	for range d.count(leastSymbol) {
		r.Symbols = append(r.Symbols, Symbol{string(d.bytes()), d.u64(), d.u64()})
	}
	r.Frames = Extent{d.u64(), d.u64()}
	for range d.count(unwinderSize) {
		r.Unwinders = append(r.Unwinders, Unwinder{Tell: d.u64(), Forget: d.u64(), Object: d.u64(), Flag: d.u64()})
	}
	if d.short || len(d.b) != 0 {
		return nil, fmt.Errorf("patch record: the body is cut short or too long")
	}
	return r, r.check()
}

// bodyLength reads the fixed header.
func bodyLength(b []byte) (uint32, error) {
	switch {
	case len(b) < headerSize || string(b[:16]) != magic:
		return 0, fmt.Errorf("patch record: no magic")
	case le.Uint32(b[16:]) != recordVersion:
		return 0, fmt.Errorf("patch record: version %d, this program knows %d", le.Uint32(b[16:]), recordVersion)
	case le.Uint32(b[20:]) > MaxRecord:
		return 0, fmt.Errorf("patch record: body of %d bytes", le.Uint32(b[20:]))
	}
	return le.Uint32(b[20:]), nil
}

// check refuses what would make the arithmetic of its users wrap.
func (r *Record) check() error {
	at := r.Base
	for _, n := range r.Sizes {
		if n > 1<<40 || at+n < at {
			return fmt.Errorf("patch record: %#x bytes at %#x", n, at)
		}
		at += n
	}
	for _, f := range r.Functions {
		if f.Old+f.OldSize < f.Old || f.New+f.NewSize < f.New {
			return fmt.Errorf("patch record: function %.60q wraps around", f.Name)
		}
		for _, x := range f.Outlined {
			if x.Addr+x.Size < x.Addr {
				return fmt.Errorf("patch record: function %.60q wraps around", f.Name)
			}
		}
	}
	for _, x := range r.Symbols {
		if x.Addr+x.Size < x.Addr {
			return fmt.Errorf("patch record: symbol %.60q wraps around", x.Name)
		}
	}
	if r.Frames.Addr+r.Frames.Size < r.Frames.Addr {
		return fmt.Errorf("patch record: its frames wrap around")
	}
	for i, w := range r.Writes {
		if w.Function < Whole || w.Function >= len(r.Functions) || len(w.Old) != len(w.New) || w.Addr+uint64(len(w.Old)) < w.Addr {
			return fmt.Errorf("patch record: write %d contradicts itself", i)
		}
	}
	for i, s := range r.Slots {
		if s.Function < 0 || s.Function >= len(r.Functions) || s.Record+Columns*8 < s.Record {
			return fmt.Errorf("patch record: slot %d contradicts itself", i)
		}
	}
	if r.Handler.Addr+r.Handler.Size < r.Handler.Addr {
		return fmt.Errorf("patch record: its handler wraps around")
	}
	return nil
}

// decoder takes values off a body; after the first that is not there it
// returns zeros and remembers.
type decoder struct {
	b     []byte
	short bool
}

func (d *decoder) take(n int) []byte {
	if n < 0 || n > len(d.b) {
		d.short, d.b = true, nil
		return nil
	}
	s := d.b[:n]
	d.b = d.b[n:]
	return s
}

func (d *decoder) u32() uint32 {
	if s := d.take(4); s != nil {
		return le.Uint32(s)
	}
	return 0
}

func (d *decoder) u64() uint64 {
	if s := d.take(8); s != nil {
		return le.Uint64(s)
	}
	return 0
}

func (d *decoder) bytes() []byte { return bytes.Clone(d.take(int(d.u32()))) }

// count reads the length of a list whose entries have at least the given size.
func (d *decoder) count(least int) int {
	n := uint64(d.u32())
	if n*uint64(least) > uint64(len(d.b)) {
		d.short, d.b = true, nil
		return 0
	}
	return int(n)
}

// Find reads every record that starts a page of the given extents of memory
// and says of itself that it is there. Damaged ones are passed over: the
// memory of a target may hold anything.
func Find(mem io.ReaderAt, extents [][2]uint64) []*Record {
	const page = 4096
	var list []*Record
	var head [headerSize]byte
	for _, e := range extents {
		for at := e[0]; at < e[1] && e[1]-at >= page; at += page {
			if n, _ := mem.ReadAt(head[:], int64(at)); n != len(head) {
				continue
			}
			n, err := bodyLength(head[:])
			if err != nil || uint64(n)+headerSize > e[1]-at {
				continue
			}
			b := make([]byte, headerSize+int(n))
			if got, _ := mem.ReadAt(b, int64(at)); got != len(b) {
				continue
			}
			if r, err := Decode(b); err == nil && r.Base == at {
				r.readRegistrations(mem)
				list = append(list, r)
			}
		}
	}
	return list
}

// readRegistrations reads what the unwinders know of a patch. What cannot be
// read, or says nothing that is known, may be anything.
func (r *Record) readRegistrations(mem io.ReaderAt) {
	for i := range r.Unwinders {
		u, b := &r.Unwinders[i], []byte{0}
		if n, _ := mem.ReadAt(b, int64(u.Flag)); n != 1 || b[0] > uint8(Forgotten) {
			b[0] = uint8(Registered)
		}
		u.State = Registration(b[0])
	}
}
