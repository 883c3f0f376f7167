package live

import (
	"bytes"
	"io"
	"slices"
)

// Holds says what stands at the place of a step.
type Holds uint8

const (
	HoldsOther Holds = iota // neither, or it cannot be read
	HoldsOld                // the bytes from before the step
	HoldsNew                // the bytes of the step
	HoldsTorn               // the first bytes new, the others old: a write over two pages that was cut; or a breakpoint before such
)

// A Place is a step and what was found where it belongs.
type Place struct {
	Step
	Holds Holds
	Have  []byte // as long as the step's bytes; nil if it cannot be read
}

func look(mem io.ReaderAt, steps []Step) []Place {
	list := make([]Place, len(steps))
	for i, s := range steps {
		list[i].Step = s
		have := make([]byte, len(s.New))
		if n, _ := mem.ReadAt(have, int64(s.Addr)); n == len(have) {
			list[i].Have, list[i].Holds = have, s.holds(have)
		}
	}
	return list
}

func (s *Step) holds(have []byte) Holds {
	switch {
	case bytes.Equal(have, s.New):
		return HoldsNew
	case bytes.Equal(have, s.Old):
		return HoldsOld
	}
	for i := 1; i < len(have); i++ {
		if bytes.Equal(have[:i], s.New[:i]) && bytes.Equal(have[i:], s.Old[i:]) {
			return HoldsTorn
		}
	}
	return HoldsOther
}

func count(list []Place, h ...Holds) (n int) {
	for i := range list {
		if slices.Contains(h, list[i].Holds) {
			n++
		}
	}
	return n
}

// Patches are the patches of one process: their records, and what memory says.
type Patches struct {
	Records []*Record // by age
	Pending *Change   // that was begun and not ended; nil without
	Places  []Place   // of the redirects of Active, from the file's bytes on
}

// A Change leads a process from one set of applied patches to another.
type Change struct {
	Leader  *Record // its phase is that of the change
	Members []*Record
	Places  []Place // of its steps
}

// Look completes the records of a process by what stands in its memory: a loader
// that was killed leaves a change behind of which only memory can tell how far
// it has come.
func Look(mem io.ReaderAt, records []*Record) *Patches {
	p := &Patches{Records: byAge(records)}
	for _, r := range p.Records {
		if r.Phase != Idle {
			p.Pending = p.change(r)
			p.Pending.Places = look(mem, Plan(p.Before(), p.After()))
			break
		}
	}
	p.Places = look(mem, Plan(Set{}, p.set(
		func(r *Record) bool { return p.before(r) == Applied || p.after(r) == Applied },
		func(r *Record) bool { return p.before(r).hosts() || p.after(r).hosts() }, p.columnAfter)))
	return p
}

func (p *Patches) change(leader *Record) *Change {
	c := &Change{Leader: leader}
	for _, r := range p.Records {
		if r.Change == leader.Change && r.Next != 0 && r.Prior != 0 {
			c.Members = append(c.Members, r)
		}
	}
	return c
}

func (p *Patches) where(is func(r *Record) bool) (list []*Record) {
	for _, r := range p.Records {
		if is(r) {
			list = append(list, r)
		}
	}
	return list
}

// Applied are the patches that are applied; those that were before the pending
// change if there is one.
func (p *Patches) Applied() []*Record {
	return p.where(func(r *Record) bool { return p.before(r) == Applied })
}

// Before is what is in force; or was, before the pending change if there is one.
func (p *Patches) Before() Set {
	return p.set(
		func(r *Record) bool { return p.before(r) == Applied },
		func(r *Record) bool { return p.before(r).hosts() },
		func(r *Record) uint8 {
			if p.Changes(r) {
				return r.PriorCol
			}
			return r.Column
		})
}

// After is what is in force when the pending change is finished.
func (p *Patches) After() Set {
	return p.set(
		func(r *Record) bool { return p.after(r) == Applied },
		func(r *Record) bool { return p.after(r).hosts() }, p.columnAfter)
}

func (p *Patches) columnAfter(r *Record) uint8 {
	if p.Changes(r) {
		return r.NextCol
	}
	return r.Column
}

func (p *Patches) set(applied, hosting func(r *Record) bool, column func(r *Record) uint8) Set {
	s := Set{Applied: p.where(applied)}
	for _, r := range p.where(func(r *Record) bool { return r.Hosts() && hosting(r) }) {
		s.Hosts = append(s.Hosts, Host{r, column(r)})
	}
	return s
}

func (p *Patches) before(r *Record) State {
	if p.Changes(r) {
		return r.Prior
	}
	return r.State
}

func (p *Patches) after(r *Record) State {
	if p.Changes(r) {
		return r.Next
	}
	return r.State
}

// Changes reports whether a patch is a member of the pending change.
func (p *Patches) Changes(r *Record) bool {
	return p.Pending != nil && slices.Contains(p.Pending.Members, r)
}

// Outcome is what has become of a change in a process in which it has ended.
type Outcome uint8

const (
	Unknown   Outcome = iota // it was not about the process, or something else came after it
	Kept                     // it was finished
	TakenBack                // it was rolled back
)

// Outcome returns what has become of a change that is not pending any more.
func (p *Patches) Outcome(change uint64) Outcome {
	if p.Pending != nil && p.Pending.Leader.Change == change {
		return Unknown
	}
	for _, r := range p.Records {
		switch {
		case r.Change != change || r.Next == 0 || r.Prior == 0 || r.Next == r.Prior:
		case r.State == r.Next:
			return Kept
		default:
			return TakenBack
		}
	}
	return Unknown
}

// Written is the number of the change's writes that are in memory, wholly or in
// part.
func (c *Change) Written() int { return count(c.Places, HoldsNew, HoldsTorn) }

// Foreign is the number of places of a patch that hold what no patch has put
// there.
func (p *Patches) Foreign(r *Record) (n int) {
	places := p.Places
	if p.Pending != nil {
		places = p.Pending.Places
	}
	for i := range places {
		s := &places[i]
		if s.Record == r && (s.Holds == HoldsOther || p.Pending == nil && s.Holds != HoldsNew) {
			n++
		}
	}
	return n
}

// Versions lists the patches that have replaced a function, given by the address
// of the original, the one that calls reach last.
func (p *Patches) Versions(old uint64) []*Record {
	return slices.DeleteFunc(p.Applied(), func(r *Record) bool {
		return !slices.ContainsFunc(r.Functions, func(f Function) bool { return f.Old == old })
	})
}

// NextSequence is the number for a patch that is put on top of all.
func (p *Patches) NextSequence() uint64 {
	if len(p.Records) == 0 {
		return 1
	}
	return p.Records[len(p.Records)-1].Sequence + 1
}

// Pristine returns a reader of the target's memory as it was before the
// patches. What somebody else has written is left.
func (p *Patches) Pristine(mem io.ReaderAt) io.ReaderAt {
	list := slices.Clone(p.Places)
	if p.Pending != nil {
		list = append(list, look(mem, Plan(Set{}, p.Before()))...)
		list = append(list, look(mem, Plan(Set{}, p.After()))...)
	}
	list = slices.DeleteFunc(list, func(s Place) bool { return s.Holds != HoldsNew && s.Holds != HoldsTorn })
	return pristine{mem, list}
}

type pristine struct {
	mem     io.ReaderAt
	written []Place
}

func (p pristine) ReadAt(b []byte, off int64) (int, error) {
	n, err := p.mem.ReadAt(b, off)
	for _, s := range slices.Backward(p.written) { // of writes to the same bytes the first knows what was there before
		overlay(b[:n], uint64(off), s.Old, s.Addr)
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
