package live

import (
	"slices"
)

// Leaving returns the code that no thread may be inside of while a process goes
// from one set of applied patches to another: the versions that calls reach
// before and not after, and what the steps write over; but not the old bodies
// that a patch goes on to use until it is switched. Of a version in a patch
// that is the whole code of the patch, for the records do not tell which of it
// only that version uses.
func Leaving(before, after Set, steps []Step) []Range {
	var list []Range
	old, top := tops(before.Applied), tops(after.Applied)
	patch := map[*Record]bool{}
	leave := func(v version) {
		f := &v.record.Functions[v.function]
		list = append(list, Range{Start: f.New, End: f.New + f.NewSize, Name: "new " + f.Name})
		patch[v.record] = true
	}
	for addr, v := range old {
		if top[addr] != v {
			leave(v)
		}
	}
	for addr, v := range top {
		if _, ok := old[addr]; ok || v.record.Switched() {
			continue // calls that run in an old body end there
		}
		f := &v.record.Functions[v.function]
		list = append(list, Range{Start: f.Old, End: f.Old + f.OldSize, Name: f.Name})
		for _, x := range f.Outlined {
			list = append(list, Range{Start: x.Addr, End: x.Addr + x.Size, Name: f.Name + " (outlined)"})
		}
	}
	for _, r := range before.Applied {
		if !slices.Contains(after.Applied, r) {
			patch[r] = true
		}
	}
	for r := range patch {
		list = append(list, r.CodeRanges()...)
	}
	for i := range steps {
		s := &steps[i]
		if s.Function == Whole && s.Record.Hosts() {
			list = append(list, s.Record.handler())
		}
		list = append(list, Range{Start: s.Addr, End: s.Addr + uint64(len(s.Old)), Name: s.Name(), Written: true})
	}
	return list
}

// handler is the code of a host that reads its column and the record.
func (r *Record) handler() Range {
	return Range{Start: r.Handler.Addr, End: r.Handler.Addr + r.Handler.Size, Name: "handler of " + r.Name}
}

// CodeRanges is the code of a patch, cut where its functions begin: an address
// of one is no return address, and handlers leave such addresses on stacks.
func (r *Record) CodeRanges() []Range {
	start, end := r.Code()
	cuts := []uint64{start, end}
	for _, f := range r.Functions {
		if f.New > start && f.New < end {
			cuts = append(cuts, f.New)
		}
	}
	slices.Sort(cuts)
	var list []Range
	for i, from := range cuts[:len(cuts)-1] {
		list = append(list, Range{Start: from, End: cuts[i+1], Name: "patch " + r.Name})
	}
	return list
}
