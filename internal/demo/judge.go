package demo

import (
	"cmp"
	"fmt"
	"slices"
)

// A span is the numbers of the last reply before something was done and the
// last one when it had been done.
type span struct{ from, to uint64 }

// judge checks all replies together. Sorted by number they must be complete, the
// discounts counted without a gap, and the versions wrong, then right from a number in
// applied on, then wrong again from one in reverted on: no reply is between.
func judge(replies []reply, applied, reverted span) error {
	replies = slices.Clone(replies)
	slices.SortFunc(replies, func(a, b reply) int { return cmp.Compare(a.serial, b.serial) })
	if err := checkCounts(replies); err != nil {
		return err
	}
	var runs []run
	for _, r := range replies {
		v, err := r.answeredBy()
		if err != nil {
			return err
		}
		if n := len(runs); v != either && (n == 0 || runs[n-1].version != v) {
			runs = append(runs, run{v, r.serial})
		}
	}
	if len(runs) != 3 || runs[0].version != wrong {
		return fmt.Errorf("the answers changed other than wrong, right, wrong: %v", runs[:min(len(runs), 8)])
	}
	for i, s := range []span{applied, reverted} {
		// A request that was under way has its number, and its answer, later.
		if at := runs[i+1].first; at <= s.from {
			return fmt.Errorf("the answers turned %v at reply %d, before it was asked for at %d", runs[i+1].version, at, s.from)
		} else if last := lastOf(replies, runs[i].version, at); last > s.to+slack {
			return fmt.Errorf("the answers were still %v at reply %d, after the end at %d", runs[i].version, last, s.to)
		}
	}
	return nil
}

// slack is how many replies may be counted but not yet received: one for every
// client.
const slack = clients

// A run is a stretch of replies of one version.
type run struct {
	version version
	first   uint64
}

// lastOf returns the number of the last reply below limit that v gave.
func lastOf(sorted []reply, v version, limit uint64) uint64 {
	var last uint64
	for _, r := range sorted {
		if r.serial >= limit {
			break
		}
		if got, err := r.answeredBy(); err == nil && got == v {
			last = r.serial
		}
	}
	return last
}

// checkCounts checks that the static counters of the server never jumped: the
// numbers of the replies, and the discounts, each count from 1 without gap or repeat.
func checkCounts(sorted []reply) error {
	var given []uint64
	for i, r := range sorted {
		if r.serial != uint64(i)+1 {
			return fmt.Errorf("reply number %d where %d was due: the counter jumped", r.serial, i+1)
		}
		if r.discounted() {
			given = append(given, r.given)
		}
	}
	slices.Sort(given)
	for i, n := range given {
		if n != uint64(i)+1 {
			return fmt.Errorf("discount number %d where %d was due: the counter jumped", n, i+1)
		}
	}
	return nil
}
