package live

import (
	"bytes"
	"cmp"
	"slices"
)

// A version is one function of a patch.
type version struct {
	record   *Record
	function int
}

// tops returns for each replaced function, by the address of the original, the
// version that calls reach when a set of patches is applied: that of the
// latest.
func tops(set []*Record) map[uint64]version {
	top := map[uint64]version{}
	for _, r := range byAge(set) {
		for i := range r.Functions {
			top[r.Functions[i].Old] = version{r, i}
		}
	}
	return top
}

// byAge sorts records by the order in which they were applied.
func byAge(set []*Record) []*Record {
	set = slices.Clone(set)
	slices.SortFunc(set, func(a, b *Record) int {
		return cmp.Or(cmp.Compare(a.Sequence, b.Sequence), cmp.Compare(a.Base, b.Base))
	})
	return set
}

// A Step is one write of a change: from Old, which must be there, to New.
type Step struct {
	Record   *Record // of the patch that comes, or that goes
	Function int     // index into its functions, or Whole
	Addr     uint64
	Old, New []byte
}

// Name is that of the function, or of the patch if it switches all.
func (s *Step) Name() string {
	if s.Function == Whole {
		return "patch " + s.Record.Name
	}
	return s.Record.Functions[s.Function].Name
}

// text is code as a set of patches makes it, where any patch of interest
// touches it.
type text map[uint64]byte

func (t text) put(addr uint64, b []byte) {
	for i, v := range b {
		t[addr+uint64(i)] = v
	}
}

func (t text) get(addr uint64, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = t[addr+uint64(i)]
	}
	return b
}

// A Set is what of patches is in force in a process: those that are applied, and
// those whose redirects are in its text for others to use.
type Set struct {
	Applied []*Record
	Hosts   []Host // applied or not
}

// Top returns the version that calls of a function reach, given by the address of
// the original; nil if that is the original.
func (s Set) Top(old uint64) *Function {
	if v, ok := tops(s.Applied)[old]; ok {
		return &v.record.Functions[v.function]
	}
	return nil
}

// redirects calls do for the writes that make up a set of patches: of each
// function those of its latest version, in the order of writing, then those of
// hosts. The latter come beneath: text that both write is that of the former.
func (s Set) redirects(do func(r *Record, w *Write)) {
	top := tops(s.Applied)
	for _, r := range byAge(s.Applied) {
		for i := range r.Writes {
			w := &r.Writes[i]
			if w.Function != Whole && top[r.Functions[w.Function].Old] == (version{r, w.Function}) && r.Slot(w.Function) == nil {
				do(r, w)
			}
		}
	}
	for _, h := range s.Hosts {
		for i := range h.Writes {
			if w := &h.Writes[i]; w.Function != Whole && h.Slot(w.Function) != nil {
				do(h.Record, w)
			}
		}
	}
}

// switches calls do for the writes that switch the patches of a set.
func (s Set) switches(do func(r *Record, w *Write)) {
	for _, r := range byAge(s.Applied) {
		for i := range r.Writes {
			if w := &r.Writes[i]; w.Function == Whole {
				do(r, w)
			}
		}
	}
}

// columns calls do for the bytes that hosts switch by, of those that another set
// has, or that it has not.
func (s Set) columns(other Set, common bool, do func(r *Record, w *Write)) {
	for _, h := range s.Hosts {
		has := slices.ContainsFunc(other.Hosts, func(o Host) bool { return o.Record == h.Record })
		if has == common {
			do(h.Record, &Write{Function: Whole, Addr: h.Index, Old: []byte{0}, New: []byte{h.Column}})
		}
	}
}

// all calls do for every write of a set. Where several write the same bytes, the
// last is what stands there.
func (s Set) all(do func(r *Record, w *Write)) {
	type write struct {
		r *Record
		w *Write
	}
	var list []write
	s.redirects(func(r *Record, w *Write) { list = append(list, write{r, w}) })
	for _, x := range slices.Backward(list) {
		do(x.r, x.w)
	}
	s.switches(do)
	s.columns(Set{}, false, do)
}

// Plan returns the writes that lead from one set of patches to another,
// in an order in which every function is old or new at any time. A function
// that has a version before and after goes from one to the other at once: it is
// never what the file holds in between, and its redirect is used again. What
// becomes unpatched is written last.
//
// Patches that switch are switched last, so that all their functions come at
// once, and back first; but before their redirects where one of those takes the
// place of another patch's, which leads to no old body. A host that stays is
// switched first of all: what its records say is looked at only by calls that
// come through them.
func Plan(before, after Set) []Step {
	p := planner{have: text{}, want: text{}, kept: map[uint64]bool{}}
	file := func(_ *Record, w *Write) { p.have.put(w.Addr, w.Old); p.want.put(w.Addr, w.Old) }
	before.all(file)
	after.all(file)
	before.all(func(_ *Record, w *Write) { p.have.put(w.Addr, w.New) })
	after.all(func(_ *Record, w *Write) { p.want.put(w.Addr, w.New) })
	after.columns(before, true, p.keep)
	coming := func() { after.switches(p.keep); after.columns(before, false, p.keep) }
	switch {
	case haveCommon(tops(before.Applied), tops(after.Applied)):
		coming()
		after.redirects(p.keep)
	default:
		after.redirects(p.keep)
		coming()
	}
	before.redirects(p.leave)
	before.switches(p.leave)
	before.columns(after, false, p.leave)
	for _, s := range slices.Backward(p.gone) {
		p.step(s.Record, s.Function, s.Addr, s.New)
	}
	return p.steps
}

// planner collects the steps of a Plan.
type planner struct {
	have, want text // now, on the way, and in the end
	kept       map[uint64]bool
	steps      []Step
	gone       []Step // of what goes, the first one last
}

func (p *planner) step(r *Record, function int, addr uint64, to []byte) {
	if old := p.have.get(addr, len(to)); !bytes.Equal(old, to) {
		p.steps = append(p.steps, Step{r, function, addr, old, to})
		p.have.put(addr, to)
	}
}

// keep makes a write of the set after.
func (p *planner) keep(r *Record, w *Write) {
	p.step(r, w.Function, w.Addr, p.want.get(w.Addr, len(w.New)))
	for i := range w.New {
		p.kept[w.Addr+uint64(i)] = true
	}
}

// leave notes what of a write of the set before is to be taken back.
func (p *planner) leave(r *Record, w *Write) {
	for lo, hi := 0, 0; lo < len(w.Old); lo = hi + 1 {
		for hi = lo; hi < len(w.Old) && !p.kept[w.Addr+uint64(hi)]; hi++ {
		}
		if hi > lo {
			addr := w.Addr + uint64(lo)
			p.gone = append(p.gone, Step{Record: r, Function: w.Function, Addr: addr, New: p.want.get(addr, hi-lo)})
		}
	}
}

// haveCommon reports whether a function has a version in both.
func haveCommon(a, b map[uint64]version) bool {
	for addr := range a {
		if _, ok := b[addr]; ok {
			return true
		}
	}
	return false
}

// A Conflict is a function that two patches claim which do not build on each
// other.
type Conflict struct {
	Function string
	Owner    *Record
}

// Claims returns the functions of a patch that others of a set have replaced
// without its being made to build on them. A patch owns the functions that it
// replaces; who wants one of them has to name it among the packages it requires.
func Claims(r *Record, set []*Record) []Conflict {
	below := Below(r, set)
	var list []Conflict
	for _, f := range r.Functions {
		for _, other := range byAge(set) {
			o := other.shares(f.Old, f.OldSize)
			if o == nil || o.Old == f.Old && slices.Contains(below, other) {
				continue
			}
			list = append(list, Conflict{f.Name, other})
		}
	}
	return list
}

// Below returns the patches of a set that a patch builds on, directly or through
// others.
func Below(r *Record, set []*Record) (below []*Record) {
	for todo := []*Record{r}; len(todo) > 0; todo = todo[1:] {
		for _, digest := range todo[0].Requires {
			for _, other := range set {
				if other.Digest == digest && !slices.Contains(below, other) {
					below, todo = append(below, other), append(todo, other)
				}
			}
		}
	}
	return below
}

// Missing returns the digests that a patch requires and no patch of a set has.
func Missing(r *Record, set []*Record) (list [][32]byte) {
	for _, digest := range r.Requires {
		if !slices.ContainsFunc(set, func(o *Record) bool { return o.Digest == digest }) {
			list = append(list, digest)
		}
	}
	return list
}

// Above returns the patches of a set that rest on one of it: they build on it, or
// are later versions of one of its functions.
func Above(r *Record, set []*Record) (list []*Record) {
	for _, o := range byAge(set) {
		over := o.Sequence > r.Sequence && slices.ContainsFunc(o.Functions, func(f Function) bool {
			return slices.ContainsFunc(r.Functions, func(g Function) bool { return f.Old == g.Old })
		})
		if over || slices.Contains(Below(o, set), r) {
			list = append(list, o)
		}
	}
	return list
}
