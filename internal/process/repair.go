//go:build linux && (amd64 || arm64)

package process

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"livepatch/internal/live"
	"livepatch/internal/refusal"
)

// Repair ends changes of processes that a loader has begun before it died: it
// finishes or takes back what memory says is half done, with the checks of an
// apply or a revert, and retires memory of patches to which nothing leads yet.
// Without a remedy it finishes what was written everywhere and takes back
// anything else. Handlers of breakpoints are taken out. Any loader can do it; the
// record in the target is enough. It waits for one that is at work.
func Repair(pids []int, remedy Remedy, opt Options) (*Repaired, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	deadline := time.Now().Add(opt.timeout())
	for {
		out, err := repair(pids, remedy, deadline, opt)
		const wait = 2 * time.Millisecond
		var busy *BusyError
		if !errors.As(err, &busy) || !busy.again || StateOf(err) != Unchanged || time.Now().Add(wait).After(deadline) {
			return out, err
		}
		opt.progress("another loader is at work", 0, 0)
		time.Sleep(wait)
	}
}

// repair makes one repair of what it finds.
func repair(pids []int, remedy Remedy, deadline time.Time, opt Options) (*Repaired, error) {
	procs, seen, err := openAll(pids, &opt)
	defer closeAll(procs)
	if err != nil {
		return nil, &ApplyError{"prepare", Unchanged, err}
	}
	out := &Repaired{Processes: []RepairedProcess{}, DryRun: opt.DryRun}
	for _, p := range procs {
		err = errors.Join(err, p.notSwitching())
	}
	if err == nil {
		out.Others, remedy, err = decide(procs, remedy)
	}
	if err != nil {
		return nil, &ApplyError{"prepare", Unchanged, err}
	}
	c := &change{procs: procs, opt: &opt, forbid: map[*proc]*live.Ranges{}, seen: seen, remedy: remedy}
	needed := false
	for _, p := range procs {
		did := c.addRepair(p)
		needed = needed || did.Did != DidNothing
		did.Handlers = len(p.traps)
		out.Processes = append(out.Processes, did)
	}
	if needed {
		opt.progress("stopping the target", 0, 0)
		if err := c.commit(deadline); err != nil {
			return nil, err
		}
		out.Pause = c.pause
	}
	// From here on there are no breakpoints.
	for _, p := range procs {
		if opt.DryRun {
			break
		}
		if note := p.removeTraps(); note != "" {
			out.Notes = append(out.Notes, note)
		}
	}
	return out, nil
}

// decide finds the other processes that were to be changed together with those
// given, and what is to be done where nothing is demanded: what has been done in
// one of them since; else, when one of them says that all is written in all, the
// change is finished. What would make the given ones differ from one in which the
// change has ended is refused.
func decide(procs []*proc, remedy Remedy) (others []int, _ Remedy, err error) {
	changes, committed, expected := map[uint64]bool{}, false, 0
	for _, p := range procs {
		c := p.patches.Pending
		if c == nil {
			continue
		}
		if alive(c.Leader.Owner) {
			return nil, 0, p.pending(c)
		}
		if !changes[c.Leader.Change] {
			expected += int(c.Leader.Processes)
		}
		changes[c.Leader.Change] = true
		committed = committed || c.Leader.Phase == live.Committed
	}
	ended := map[live.Outcome][]int{}
	if expected > len(procs) {
		all, err := All()
		if err != nil {
			return nil, 0, err
		}
		for _, pid := range all {
			if slices.ContainsFunc(procs, func(p *proc) bool { return p.pid == pid }) {
				continue
			}
			p, err := open(pid)
			if err != nil {
				continue // not one of them, or gone
			}
			if c := p.patches.Pending; c != nil && changes[c.Leader.Change] {
				others = append(others, pid)
				committed = committed || c.Leader.Phase == live.Committed
			}
			for change := range changes {
				o := p.patches.Outcome(change)
				ended[o] = append(ended[o], pid)
			}
			p.close()
		}
	}
	remedy, err = remedyOf(remedy, committed, ended)
	return others, remedy, err
}

// remedyOf chooses a remedy that agrees with what has become of the change in the
// processes in which it has ended.
func remedyOf(remedy Remedy, committed bool, ended map[live.Outcome][]int) (Remedy, error) {
	kept, taken := ended[live.Kept], ended[live.TakenBack]
	switch {
	case remedy == RollBack && len(kept) > 0:
		return 0, refusal.New(refusal.ChangeDivided, fmt.Sprintf("process %d", kept[0]), "the change was finished there; it cannot be taken back in others alone")
	case remedy == Finish && len(taken) > 0:
		return 0, refusal.New(refusal.ChangeDivided, fmt.Sprintf("process %d", taken[0]), "the change was taken back there; it cannot be finished in others alone")
	case remedy != 0:
		return remedy, nil
	case len(kept) > 0, len(taken) == 0 && committed:
		return Finish, nil
	}
	return RollBack, nil
}

// addRepair plans what is to be done in one process.
func (c *change) addRepair(p *proc) RepairedProcess {
	did := RepairedProcess{PID: p.pid, Did: DidNothing, Patches: []string{}}
	x := &part{p: p}
	for _, r := range p.patches.Records {
		if r.State == live.Preparing && !p.patches.Changes(r) && !alive(r.Owner) {
			x.retire = append(x.retire, r)
			did.Did, did.Patches = DidRetire, append(did.Patches, r.Name)
		}
	}
	var leaving []live.Range
	if ch := p.patches.Pending; ch != nil {
		did.Kind, did.Patches = ch.Report(false).Kind, namesOf(ch.Subjects())
		before, after := p.patches.Before(), p.patches.After()
		did.Did = DidFinish
		if c.remedy == RollBack {
			did.Did = DidRollBack
			before, after = after, before
		}
		x.steps = remaining(ch.Places, c.remedy)
		leaving = live.Leaving(before, after, x.steps)
		x.members = append(x.members, c.repaired(ch.Leader))
		for _, r := range ch.Members {
			if r != ch.Leader {
				x.members = append(x.members, c.repaired(r))
			}
		}
	}
	did.Writes = len(x.steps)
	c.addPart(x, leaving)
	return did
}

// repaired is a patch that the change leaves as it should become, or as it was.
func (c *change) repaired(r *live.Record) *member {
	m := &member{record: r, was: r.Control, next: r.Next, column: r.NextCol, mapped: true}
	if c.remedy == RollBack {
		m.next, m.column = r.Prior, r.PriorCol
		if r.Prior == live.Preparing {
			m.next = live.Reverted
		}
	}
	return m
}

// remaining are the writes that finish a change, or take it back in the opposite
// order. Places that hold something else are among them, so that the check
// refuses.
func remaining(places []live.Place, remedy Remedy) []live.Step {
	var list []live.Step
	for i := range places {
		place := places[i]
		s, done := place.Step, live.HoldsNew
		if remedy == RollBack {
			place = places[len(places)-1-i]
			s, done = place.Step, live.HoldsOld
			s.Old, s.New = s.New, s.Old
		}
		switch place.Holds {
		case done:
			continue
		case live.HoldsTorn:
			s.Old = place.Have
		}
		list = append(list, s)
	}
	return list
}
