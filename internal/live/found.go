package live

import (
	"bytes"
	"io"
)

// Holds says what stands at the place of a write.
type Holds uint8

const (
	HoldsOther Holds = iota // neither, or it belongs to another patch
	HoldsOld                // the bytes from before the patch
	HoldsNew                // the bytes of the patch
	HoldsTorn               // the first bytes new, the others old: a write over two pages that was cut
)

// holds compares memory with a write.
func (w *Write) holds(have []byte) Holds {
	switch {
	case bytes.Equal(have, w.New):
		return HoldsNew
	case bytes.Equal(have, w.Old):
		return HoldsOld
	}
	for i := 1; i < len(have); i++ {
		if bytes.Equal(have[:i], w.New[:i]) && bytes.Equal(have[i:], w.Old[i:]) {
			return HoldsTorn
		}
	}
	return HoldsOther
}

// A Place is what was found at the place of a write.
type Place struct {
	Holds Holds
	Have  []byte // as long as the write; nil if it cannot be read
}

// Found is a patch in a target, and what memory says of its writes: a loader
// that was killed leaves a record behind that only memory can complete.
type Found struct {
	*Record
	Places []Place // of Writes
}

// Look reads the places of all writes of the patches of one process.
func Look(mem io.ReaderAt, records []*Record) []Found {
	list := make([]Found, len(records))
	for i, r := range records {
		list[i] = Found{r, make([]Place, len(r.Writes))}
		for j := range r.Writes {
			w, have := &r.Writes[j], make([]byte, len(r.Writes[j].New))
			if n, _ := mem.ReadAt(have, int64(w.Addr)); n != len(have) {
				continue
			}
			p := Place{w.holds(have), have}
			if r.State != Applied && claimed(w, records) {
				// A short jump of another patch can have the same bytes.
				p.Holds = HoldsOther
			}
			list[i].Places[j] = p
		}
	}
	return list
}

// claimed reports whether the place of a write is one of an applied patch.
func claimed(w *Write, records []*Record) bool {
	for _, r := range records {
		if _, ok := r.Redirect(w.Addr, uint64(len(w.New))); ok {
			return true
		}
	}
	return false
}

func (f *Found) count(h ...Holds) (n int) {
	for _, p := range f.Places {
		for _, one := range h {
			if p.Holds == one {
				n++
			}
		}
	}
	return n
}

// Written is the number of writes that are in memory, wholly or in part.
func (f *Found) Written() int { return f.count(HoldsNew, HoldsTorn) }

// Foreign is the number of places of an applied or interrupted patch that hold
// neither the old bytes nor the new ones.
func (f *Found) Foreign() int {
	if !f.Active() {
		return 0
	}
	return f.count(HoldsOther)
}

// Interrupted reports whether a loader was killed between two writes of an
// apply or of a revert, so that the target runs a mixture.
func (f *Found) Interrupted() bool {
	switch f.State {
	case Preparing:
		return f.Written() > 0
	case Applied:
		return f.count(HoldsOld, HoldsTorn) > 0
	}
	return false
}

// Active reports whether the patch is applied, be it in part.
func (f *Found) Active() bool { return f.State == Applied || f.Interrupted() }

// Owns is Record.Owns for a patch that may be applied in part.
func (f *Found) Owns(addr, n uint64) (name string, ok bool) {
	if !f.Active() {
		return "", false
	}
	r := *f.Record
	r.State = Applied
	return r.Owns(addr, n)
}

// Pristine returns a reader of the target's memory as it was before the
// patches.
func Pristine(mem io.ReaderAt, found []Found) io.ReaderAt { return pristine{mem, found} }

type pristine struct {
	mem   io.ReaderAt
	found []Found
}

func (p pristine) ReadAt(b []byte, off int64) (int, error) {
	n, err := p.mem.ReadAt(b, off)
	for i := range p.found {
		f := &p.found[i]
		for j := range f.Writes {
			if h := f.Places[j].Holds; h == HoldsNew || h == HoldsTorn {
				overlay(b[:n], uint64(off), f.Writes[j].Old, f.Writes[j].Addr)
			}
		}
	}
	return n, err
}

// overlay copies what lies at one address over what lies at another, where both
// overlap.
func overlay(to []byte, at uint64, from []byte, addr uint64) {
	switch {
	case addr >= at && addr-at < uint64(len(to)):
		copy(to[addr-at:], from)
	case at > addr && at-addr < uint64(len(from)):
		copy(to, from[at-addr:])
	}
}
