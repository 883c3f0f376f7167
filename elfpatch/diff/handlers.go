package diff

import (
	"encoding/binary"
	"fmt"
)

// The handlers of a function, as GCC and clang write them for C++ and C
// ("language-specific data area"): calls and what is to be done when one of them
// throws. A header of encodings, a table of calls, a table of actions (chains of
// numbers), and, read backwards from its end, the types that numbers stand for;
// behind it lists of types (exception specifications).

// handlers is a decoded data area.
type handlers struct {
	calls    []callSite
	actions  int  // where the actions begin, in the piece
	types    int  // where the types end, in the piece; 0 if there are none
	typeSize int  // bytes of a type
	typeCode byte // encoding of a type
}

// callSite is a stretch of code and what is done when it throws. Offsets are
// from the start of the function.
type callSite struct {
	start, size uint64
	pad         uint64 // where to go on, 0 if nowhere
	action      uint64 // 1 + offset in the actions, 0 if only for cleanups
}

// maxCalls bounds the calls of a function.
const maxCalls = 1 << 16

// readHandlers decodes a data area.
func (s *side) readHandlers(p *piece) (*handlers, error) {
	d := bytesReader{data: s.data(p)}
	h := &handlers{}
	if base := d.byte(); base != encodeOmit {
		return nil, fmt.Errorf("its landing pads count from elsewhere (encoding %#x)", base)
	}
	if h.typeCode = d.byte(); h.typeCode != encodeOmit {
		distance := d.uleb()
		if distance > uint64(len(d.data)-d.at) {
			return nil, fmt.Errorf("its types end behind it")
		}
		h.types = d.at + int(distance)
		if h.typeSize = pointerSize(h.typeCode); h.typeSize == 0 {
			return nil, fmt.Errorf("its types are of encoding %#x", h.typeCode)
		}
	}
	encoding := d.byte()
	field := d.uleb
	switch encoding {
	case 1: // unsigned LEB128
	case encodeUdata4:
		field = d.u32
	default:
		return nil, fmt.Errorf("its calls are of encoding %#x", encoding)
	}
	size := d.uleb()
	if d.bad || size > uint64(len(d.data)-d.at) {
		return nil, fmt.Errorf("it is cut short")
	}
	for h.actions = d.at + int(size); d.at < h.actions && len(h.calls) < maxCalls; {
		h.calls = append(h.calls, callSite{field(), field(), field(), d.uleb()})
	}
	if d.bad || d.at != h.actions || h.types != 0 && h.types < h.actions {
		return nil, fmt.Errorf("its calls are cut short")
	}
	return h, nil
}

// chain returns the numbers of an action: positive ones stand for types,
// negative ones for lists of types, 0 for cleanups. nil if the action is none.
func (h *handlers) chain(data []byte, action uint64) (numbers []int64, ok bool) {
	const longest = 1 << 8
	at := int64(h.actions) + int64(action) - 1
	for len(numbers) < longest {
		if at < int64(h.actions) || at >= int64(len(data)) {
			return nil, false
		}
		d := bytesReader{data: data, at: int(at)}
		numbers = append(numbers, d.sleb())
		from := int64(d.at)
		next := d.sleb()
		if d.bad {
			return nil, false
		}
		if next == 0 {
			return numbers, true
		}
		at = from + next
	}
	return nil, false
}

// typeAt returns the reference to a type, nil for any type.
func (h *handlers) typeAt(p *piece, number int64) *ref {
	off := int64(h.types) - number*int64(h.typeSize)
	if off < 0 {
		return nil
	}
	if i := p.refAt(uint64(off)); i < len(p.refs) && p.refs[i].off == uint64(off) {
		return &p.refs[i]
	}
	return nil
}

// list returns the types of an exception specification.
func (h *handlers) list(data []byte, number int64) (numbers []int64) {
	d := bytesReader{data: data, at: h.types + int(-number) - 1}
	for !d.bad {
		n := d.uleb()
		if n == 0 {
			break
		}
		numbers = append(numbers, int64(n))
	}
	return numbers
}

// settleTypes makes the types of a data area refer to what they mean, instead of
// a pointer to it.
func (s *side) settleTypes(p *piece) {
	h, err := s.readHandlers(p)
	if err != nil || h.typeCode == encodeOmit || h.typeCode&encodeIndirect == 0 {
		return
	}
	for i := range p.refs {
		r := &p.refs[i]
		if r.to == nil {
			continue
		}
		for k := range r.to.refs {
			if to := &r.to.refs[k]; int64(to.off) == r.add {
				off, typ := r.off, r.typ
				*r = *to
				r.off, r.typ = off, typ
				break
			}
		}
	}
}

// compareHandlers compares what two functions of the same code do when
// something in them throws.
func (c *comparison) compareHandlers(p *pairing) *Difference {
	var a, b *piece
	if f := p.orig.frame; f != nil {
		a = f.handlers
	}
	if f := p.patched.frame; f != nil {
		b = f.handlers
	}
	switch {
	case a == nil && b == nil:
		return nil
	case a == nil:
		return &Difference{Old: "no handlers for exceptions", New: "handlers"}
	case b == nil:
		return &Difference{Old: "handlers for exceptions", New: "none"}
	}
	x, err := c.orig.readHandlers(a)
	y, other := c.patched.readHandlers(b)
	if err != nil || other != nil {
		if string(c.orig.data(a)) == string(c.patched.data(b)) && len(a.refs) == len(b.refs) {
			return nil // neither can be read; they say the same
		}
		return &Difference{Old: "handlers for exceptions", New: "others"}
	}
	return c.compareCalls(p, &handled{c.orig, p.orig, a, x}, &handled{c.patched, p.patched, b, y})
}

// handled is a function and its handlers.
type handled struct {
	s  *side
	fn *piece
	at *piece
	*handlers
}

func (c *comparison) compareCalls(p *pairing, a, b *handled) *Difference {
	n := min(len(a.calls), len(b.calls))
	for i := range n {
		x, y := a.calls[i], b.calls[i]
		same := a.samePlace(b, x.start, y.start) && a.samePlace(b, x.start+x.size, y.start+y.size) && (x.pad == 0) == (y.pad == 0) &&
			(x.pad == 0 || a.samePlace(b, x.pad, y.pad)) && (x.action == 0) == (y.action == 0)
		if !same || x.action != 0 && !c.sameAction(p, a, b, x.action, y.action) {
			return &Difference{Off: y.start, Old: "handlers for exceptions", New: "others"}
		}
	}
	if len(a.calls) != len(b.calls) {
		return &Difference{Old: fmt.Sprintf("handlers for exceptions of %d calls", len(a.calls)), New: fmt.Sprintf("of %d", len(b.calls))}
	}
	return nil
}

func (a *handled) samePlace(b *handled, x, y uint64) bool {
	n, more := a.s.place(a.fn, int64(x))
	m, rest := b.s.place(b.fn, int64(y))
	return n == m && more == rest
}

func (c *comparison) sameAction(p *pairing, a, b *handled, x, y uint64) bool {
	xs, ok := a.chain(a.s.data(a.at), x)
	ys, too := b.chain(b.s.data(b.at), y)
	if !ok || !too || len(xs) != len(ys) {
		return false
	}
	for i := range xs {
		switch {
		case xs[i] > 0 && ys[i] > 0:
			if !c.sameType(p, a.typeAt(a.at, xs[i]), b.typeAt(b.at, ys[i])) {
				return false
			}
		case xs[i] < 0 && ys[i] < 0:
			l, m := a.list(a.s.data(a.at), xs[i]), b.list(b.s.data(b.at), ys[i])
			if len(l) != len(m) {
				return false
			}
			for k := range l {
				if !c.sameType(p, a.typeAt(a.at, l[k]), b.typeAt(b.at, m[k])) {
					return false
				}
			}
		case xs[i] != ys[i]:
			return false
		}
	}
	return true
}

func (c *comparison) sameType(p *pairing, r, q *ref) bool {
	if r == nil || q == nil {
		return r == q
	}
	return c.sameRef(p, r, q)
}

// moved writes the data area of a function whose code was laid out anew.
func (h *handlers) moved(data []byte, l *layout) []byte {
	var calls []byte
	for _, c := range h.calls {
		start, end := l.at(int64(c.start)), l.at(int64(c.start+c.size))
		pad := int64(0)
		if c.pad != 0 {
			pad = l.at(int64(c.pad))
		}
		for _, v := range []uint64{uint64(start), uint64(end - start), uint64(pad), c.action} {
			calls = binary.AppendUvarint(calls, v)
		}
	}
	const called = 1 // unsigned LEB128
	table := binary.AppendUvarint([]byte{called}, uint64(len(calls)))
	table = append(table, calls...)
	out := []byte{encodeOmit, h.typeCode}
	if h.typeCode != encodeOmit {
		out = binary.AppendUvarint(out, uint64(len(table)+h.types-h.actions))
	}
	return append(append(out, table...), data[h.actions:]...)
}
