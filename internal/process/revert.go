//go:build linux && amd64

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
	return RevertAll([]int{pid}, name, opt)
}

// RevertAll takes a patch back out of several processes, out of all or none.
func RevertAll(pids []int, name string, opt Options) (*Result, error) {
	return transact(pids, nil, takeNamed(name), opt)
}

// takeNamed takes the patch of a name. One on which others rest stays, with them.
func takeNamed(name string) removal {
	return func(p *proc) ([]*live.Record, error) {
		applied := p.patches.Applied()
		list := slices.DeleteFunc(slices.Clone(applied), func(r *live.Record) bool { return r.Name != name })
		if len(list) == 0 {
			return nil, refusal.New(refusal.NotApplied, p.where(), "no patch %s is applied%s", name, appliedNames(applied))
		}
		return list, nil
	}
}

func appliedNames(list []*live.Record) string {
	if len(list) == 0 {
		return ""
	}
	return "; applied: " + joined(namesOf(list))
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
