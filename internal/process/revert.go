//go:build linux && amd64

package process

import (
	"fmt"
	"runtime"
	"slices"
	"time"

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
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	deadline := time.Now().Add(opt.timeout())
	var procs []*proc
	defer func() { closeAll(procs) }()
	c := newChange(nil, &opt)
	var reasons refusal.List
	for _, pid := range slices.Compact(slices.Sorted(slices.Values(pids))) {
		p, err := open(pid)
		if err == nil {
			p.opt = &opt
			procs = append(procs, p)
			c.procs = procs
			err = p.permit()
		}
		if err == nil && !opt.ScanMemory {
			err = p.coroutines()
		}
		if err == nil {
			err = c.addReverts(p, name)
		}
		if !collect(&reasons, err) {
			return nil, &ApplyError{"prepare", Unchanged, err}
		}
	}
	if err := reasons.Err(); err != nil {
		return nil, &ApplyError{"prepare", Unchanged, err}
	}
	if len(c.procs) == 0 {
		return nil, fmt.Errorf("no process to revert the patch in")
	}
	c.seal()
	opt.progress("stopping the target", 0, 0)
	if err := c.commit(deadline); err != nil {
		return nil, err
	}
	return c.result(name), nil
}

// addReverts finds the patch in a process, applied wholly or in part, and plans
// to undo its writes, the last first. If there is none, one is retired that was
// mapped by a loader that was killed before its first write.
func (c *change) addReverts(p *proc, name string) error {
	list := named(p.patches, name, (*live.Found).Active)
	if len(list) == 0 {
		list = named(p.patches, name, func(f *live.Found) bool { return f.State == live.Preparing })
	}
	if len(list) == 0 {
		return refusal.New(refusal.NotApplied, p.where(), "no patch %s is applied%s", name, appliedNames(p.patches))
	}
	for _, r := range list {
		x := &part{p: p, record: r.Record, mapped: true, state: live.Reverted, writes: undo(r)}
		start, end := r.Code()
		forbid := append(written(r.Record), live.Range{Start: start, End: end, Name: "patch " + name})
		for _, f := range r.Functions {
			forbid = append([]live.Range{{Start: f.New, End: f.New + f.NewSize, Name: "new " + f.Name}}, forbid...)
		}
		c.add(x, forbid)
	}
	return nil
}

func named(list []live.Found, name string, is func(*live.Found) bool) []*live.Found {
	var out []*live.Found
	for i := range list {
		if f := &list[i]; f.Name == name && is(f) {
			out = append(out, f)
		}
	}
	return out
}

// undo returns the writes that take a patch back. Places that hold the old
// bytes are left alone; those that hold something else must not, and the check
// will say so.
func undo(f *live.Found) []live.Write {
	var list []live.Write
	for i, w := range slices.Backward(f.Writes) {
		expect := w.New
		switch p := f.Places[i]; {
		case f.State == live.Preparing && !f.Active():
			continue // it may never have been its own
		case p.Holds == live.HoldsOld:
			continue
		case p.Holds == live.HoldsTorn:
			expect = p.Have
		}
		list = append(list, live.Write{Function: w.Function, Addr: w.Addr, Old: expect, New: w.Old})
	}
	return list
}

func appliedNames(list []live.Found) string {
	text := ""
	for i := range list {
		if f := &list[i]; f.Active() {
			text += ", " + f.Name
		}
	}
	if text == "" {
		return ""
	}
	return "; applied: " + text[2:]
}

// Status reads what patches are in a process, retired ones included, in the
// order of their addresses. It does not stop it.
func Status(pid int) ([]live.Found, error) {
	p, err := open(pid)
	if err != nil {
		return nil, err
	}
	defer p.close()
	return p.patches, nil
}
