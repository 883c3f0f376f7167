//go:build linux && (amd64 || arm64)

package process

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"livepatch/internal/live"
	"livepatch/internal/refusal"
)

// Reclaim unmaps the memory of reverted patches of a name, "" for all, of which it
// can prove that nothing leads to it and nobody holds an address in it. What stays
// is told with the reason, which the record keeps, too.
func Reclaim(pids []int, name string, opt Options) (*Reclaimed, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	opt.ScanMemory = true // stacks on which no thread stands are looked through, too
	deadline := time.Now().Add(opt.timeout())
	procs, _, err := openAll(pids, &opt)
	defer closeAll(procs)
	if err != nil {
		return nil, &ApplyError{"prepare", Unchanged, err}
	}
	out := &Reclaimed{Processes: []ReclaimedProcess{}, DryRun: opt.DryRun}
	for _, p := range procs {
		x := &reclaiming{p: p, opt: &opt, stays: map[*live.Record]stay{}}
		if err := x.prepare(name); err != nil {
			return out, &ApplyError{"prepare", Unchanged, err}
		}
		if err := x.run(deadline); err != nil {
			return out, &ApplyError{stageCheck, Unchanged, err}
		}
		out.Processes = append(out.Processes, x.report())
		out.Pause = max(out.Pause, x.pause)
	}
	return out, nil
}

// reclaiming is what is done in one process.
type reclaiming struct {
	p     *proc
	opt   *Options
	list  []*live.Record
	loose bool                  // stacks may rest where no thread stands: every word counts
	stays map[*live.Record]stay // those that are not unmapped
	pause time.Duration
}

// stay says why memory stays mapped.
type stay struct {
	why  live.Stay
	text string
}

func (x *reclaiming) keep(r *live.Record, why live.Stay, format string, args ...any) {
	if _, ok := x.stays[r]; !ok {
		x.stays[r] = stay{why, fmt.Sprintf(format, args...)}
	}
}

// prepare finds the patches, and the tables by which stacks are unwound.
func (x *reclaiming) prepare(name string) error {
	if c := x.p.patches.Pending; c != nil {
		return x.p.pending(c)
	}
	if len(x.p.traps) > 0 {
		return refusal.New(refusal.Interrupted, x.p.where(), "it has a handler of breakpoints that a change has left behind: repair it first")
	}
	for _, r := range x.p.patches.Records {
		if (r.State == live.Reverted || r.State == live.Unused) && (name == "" || r.Name == name) {
			x.list = append(x.list, r)
		}
	}
	if len(x.list) == 0 && name != "" {
		return refusal.New(refusal.NotApplied, x.p.where(), "no reverted patch %s is mapped", name)
	}
	x.p.readFrames()
	x.loose = x.p.coroutines() != nil
	return nil
}

// run proves what can be proven, makes unwinders forget what nobody can come to
// any more, proves it once more, and unmaps.
func (x *reclaiming) run(deadline time.Time) error {
	if err := x.prove(deadline); err != nil || x.opt.DryRun {
		return err
	}
	told := false
	for _, r := range x.free() {
		if !r.Known() {
			continue
		}
		told = true
		if err := x.p.forget(r, deadline, x.opt); err != nil || r.Known() {
			if gone := x.p.same(); gone != nil {
				return gone
			}
			x.keep(r, live.StaysUnwinder, "%s: %v", live.StaysUnwinder, err)
		}
	}
	if told {
		// Nobody could come to them meanwhile; but the call itself may have left
		// addresses behind.
		if err := x.prove(deadline); err != nil {
			return err
		}
	}
	// From here on the records of what is unmapped say that nobody uses it.
	return x.unmap(deadline)
}

// free are the patches that nothing is known against.
func (x *reclaiming) free() (list []*live.Record) {
	for _, r := range x.list {
		if _, stays := x.stays[r]; !stays {
			list = append(list, r)
		}
	}
	return list
}

// prove stops the process, looks for everything that may lead to the patches, and
// marks them as unused, or with the reason why they stay.
func (x *reclaiming) prove(deadline time.Time) error {
	_, err := retry(deadline, x.opt, func() error {
		start := time.Now()
		defer func() { x.pause = max(x.pause, time.Since(start)) }()
		defer x.p.release()
		limit := start.Add(x.opt.maxPause())
		if err := x.p.stop(limit); err != nil {
			return err
		}
		var members []*member
		for _, r := range x.list {
			members = append(members, &member{record: r, was: r.Control, mapped: true})
		}
		if err := x.p.alone(members); err != nil {
			return err
		}
		if err := x.look(limit); err != nil {
			return err
		}
		x.opt.at("proven")
		return x.mark()
	})
	return err
}

// mark writes into the records what was found. What is unused belongs to this
// loader from then on: another one that came to it would unmap it a second time.
func (x *reclaiming) mark() error {
	if x.opt.DryRun {
		return nil
	}
	owner, err := self()
	if err != nil {
		return err
	}
	for _, r := range x.list {
		s, stays := x.stays[r]
		switch {
		case stays && r.State == live.Reverted:
			if err := x.p.writeVerified([]byte{byte(s.why)}, r.Base+live.StayOffset, x.p.anyThread()); err != nil {
				return err
			}
			r.Stays = s.why
		case !stays && !r.Known():
			control := r.Control
			control.State, control.Owner = live.Unused, owner
			if err := x.p.writeVerified(control.Encode(), r.Base+live.ControlOffset, x.p.anyThread()); err != nil {
				return err
			}
			r.Control = control
		}
	}
	return nil
}

// unmap takes the memory away that nobody uses.
func (x *reclaiming) unmap(deadline time.Time) error {
	list := x.free()
	if len(list) == 0 {
		return nil
	}
	x.opt.at("unused")
	err := x.p.withThread(deadline, x.opt, func(c *injection) error {
		for _, r := range list {
			if _, err := c.call(unix.SYS_MUNMAP, r.Base, r.Size()); err != nil {
				return fmt.Errorf("unmap %#x bytes at %#x: %w", r.Size(), r.Base, err)
			}
			x.opt.at("unmapped")
		}
		return nil
	})
	var busy *BusyError
	if errors.As(err, &busy) {
		for _, r := range list {
			x.keep(r, live.StaysUnmapping, "%s: %v", live.StaysUnmapping, busy)
		}
		return nil
	}
	return err
}

func (x *reclaiming) report() ReclaimedProcess {
	out := ReclaimedProcess{PID: x.p.pid, Patches: []ReclaimedPatch{}}
	for _, r := range x.list {
		s, stays := x.stays[r]
		out.Patches = append(out.Patches, ReclaimedPatch{Patch: r.Name, Target: r.Target, Base: r.Base, Bytes: r.Size(), Unmapped: !stays, Reason: s.text})
	}
	return out
}
