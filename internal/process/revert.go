//go:build linux && (amd64 || arm64)

package process

import (
	"slices"
	"strings"

	"livepatch/internal/live"
	"livepatch/internal/refusal"
)

// Revert takes a patch back out of a process. It needs no package: what was
// written is recorded in the target. The memory of the patch stays, because
// something may hold an address in it.
func Revert(pid int, name string, opt Options) (*Result, error) {
	return Remove([]int{pid}, Removal{Name: name}, opt)
}

// Remove takes patches back out of several processes, out of all or none.
func Remove(pids []int, what Removal, opt Options) (*Result, error) {
	return transact(pids, nil, removal{what.of, what.ClearSites}, opt)
}

// of returns the applied patches of a process that go.
func (what Removal) of(p *proc) ([]*live.Record, error) {
	applied := p.patches.Applied()
	if what.ClearSites { // those that only host can still go
		for _, h := range p.patches.Before().Hosts {
			if h.State == live.Hosting {
				applied = append(applied, h.Record)
			}
		}
	}
	var list []*live.Record
	switch {
	case what.All:
		list = applied
		if len(list) == 0 {
			return nil, refusal.New(refusal.NotApplied, p.where(), "no patch is applied")
		}
	case what.To != "":
		to := named(applied, what.To)
		if len(to) == 0 {
			return nil, notApplied(p, what.To, applied)
		}
		list = slices.DeleteFunc(slices.Clone(applied), func(r *live.Record) bool { return r.Sequence <= to[0].Sequence })
		if len(list) == 0 {
			return nil, refusal.New(refusal.NotApplied, p.where(), "no patch is applied after %s", what.To)
		}
	default:
		if list = named(applied, what.Name); len(list) == 0 {
			return nil, notApplied(p, what.Name, applied)
		}
	}
	if what.ClearSites {
		if err := lends(p, list); err != nil {
			return nil, err
		}
	}
	return list, supports(p, list, p.patches.Applied())
}

// supports refuses to take away patches on which others rest that stay.
func supports(p *proc, goes, applied []*live.Record) error {
	stay := slices.DeleteFunc(slices.Clone(applied), func(r *live.Record) bool { return slices.Contains(goes, r) })
	var list refusal.List
	for _, r := range goes {
		if r.State != live.Applied {
			continue
		}
		if above := live.Above(r, stay); len(above) > 0 {
			list = append(list, refusal.New(refusal.BuiltUpon, p.where(), "patch %s rests on patch %s in %s", joined(namesOf(above)), r.Name, r.Target))
		}
	}
	return list.Err()
}

// lends refuses to take away sites through which a patch is reached that stays.
func lends(p *proc, goes []*live.Record) error {
	var list refusal.List
	for _, r := range goes {
		for _, o := range p.patches.Applied() {
			guest := slices.ContainsFunc(o.Slots, func(s live.Slot) bool { return s.Host == r.Base })
			if guest && !slices.Contains(goes, o) {
				list = append(list, refusal.New(refusal.BuiltUpon, p.where(), "patch %s is reached through the sites of patch %s in %s", o.Name, r.Name, r.Target))
			}
		}
	}
	return list.Err()
}

func named(list []*live.Record, name string) []*live.Record {
	return slices.DeleteFunc(slices.Clone(list), func(r *live.Record) bool { return r.Name != name })
}

func notApplied(p *proc, name string, applied []*live.Record) error {
	text := ""
	if len(applied) > 0 {
		text = "; applied: " + joined(namesOf(applied))
	}
	return refusal.New(refusal.NotApplied, p.where(), "no patch %s is applied%s", name, text)
}

// namesOf lists the names of patches, each once, in the order of the list.
func namesOf(list []*live.Record) (names []string) {
	for _, r := range list {
		if !slices.Contains(names, r.Name) {
			names = append(names, r.Name)
		}
	}
	return names
}

func joined(names []string) string { return strings.Join(names, ", ") }
