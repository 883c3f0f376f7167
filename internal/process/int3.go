//go:build linux && (amd64 || arm64)

package process

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"time"

	"livepatch/internal/live"
	"livepatch/internal/refusal"
	"livepatch/trampoline"
)

// Changing code while threads run. The order of the writes and why it is safe is
// in trampoline/x86_live.go. What is not looked at, because it can be known only
// while nothing runs, is whether a thread is inside a function that goes: it
// finishes there, as the memory of what goes stays mapped.

// A liveChange is the change of one process in this way.
type liveChange struct {
	x      *part
	lead   []live.Step // of data, before the rounds
	rounds []trampoline.Round
	trail  []live.Step // of data, after them
	sites  []trampoline.TrapSite
	before *live.Ranges // where no thread may be at the start
	inside *live.Ranges // where none may be when the second round begins; nil for nowhere
	made   int          // rounds
	wrote  int          // of lead and trail
	trap   *live.Trap   // the handler
}

// commitRunning is commit for SwitchInt3.
func (c *change) commitRunning(deadline time.Time) error {
	list, err := c.planAllRunning()
	if err != nil {
		return &ApplyError{stageCheck, Unchanged, err}
	}
	// From here on every write can be made while threads run.
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // no collection while a thread waits
	defer hurry()()
	begin := time.Now()
	if !c.opt.DryRun {
		if err := c.installTraps(list, deadline); err != nil {
			c.removeTraps(list)
			return &ApplyError{stageCheck, Unchanged, errors.Join(c.orEnded(err), c.noted())}
		}
	}
	// From here on a thread that meets a breakpoint is sent on.
	c.opt.at("handlers")
	stage := ""
	c.tries, err = retry(deadline, c.opt, func() (err error) {
		stage, err = c.tryRunning(list)
		return err
	})
	if !c.opt.DryRun && StateOf(err) != Interrupted {
		c.removeTraps(list)
	}
	c.took = time.Since(begin)
	for _, s := range list {
		c.counts[s.x.p] = s.x.p.counted
		c.pause.Total = max(c.pause.Total, s.x.p.longest)
	}
	var known *ApplyError
	switch {
	case err == nil && !c.opt.DryRun:
		c.findForked(list)
		return nil
	case err == nil:
		return nil
	case errors.As(err, &known):
		return &ApplyError{known.Stage, known.State, errors.Join(err, c.noted())}
	case c.entered:
		return &ApplyError{stage, RolledBack, errors.Join(err, c.noted())}
	}
	return &ApplyError{stage, Unchanged, errors.Join(err, c.noted())}
}

// noted is what is left behind, nil if nothing is.
func (c *change) noted() error {
	var errs []error
	for _, n := range c.notes {
		errs = append(errs, errors.New(n))
	}
	return errors.Join(errs...)
}

// planAllRunning plans the rounds of every process, or refuses.
func (c *change) planAllRunning() ([]*liveChange, error) {
	var list []*liveChange
	var reasons refusal.List
	c.counts = map[*proc]int{}
	for _, x := range c.parts {
		s, err := c.planRunning(x)
		if err == nil && len(s.rounds) > 0 {
			err = x.p.permitTraps()
		}
		if !collect(&reasons, err) {
			return nil, err
		}
		list = append(list, s)
	}
	return list, reasons.Err()
}

// planRunning plans the rounds of one process.
func (c *change) planRunning(x *part) (*liveChange, error) {
	s := &liveChange{x: x}
	edits := s.divide()
	var err error
	if s.rounds, err = trampoline.LiveRounds(machine, edits); err != nil {
		where := x.p.where()
		var refused *trampoline.LiveError
		if errors.As(err, &refused) {
			for _, step := range x.steps {
				if step.Addr == refused.Addr {
					where += ": " + step.Name()
				}
			}
		}
		return nil, refusal.New(refusal.NeedsStop, where, "%v", err)
	}
	s.sites = trapSites(edits)
	var inside []live.Range
	for _, step := range x.steps {
		e := trampoline.Edit{Addr: step.Addr, Old: step.Old, New: step.New}
		if !slices.ContainsFunc(edits, func(o trampoline.Edit) bool { return o.Addr == e.Addr }) {
			continue // data
		}
		start := step.Addr // where a thread meets the breakpoint: not inside
		switch {
		case slices.ContainsFunc(s.sites, func(o trampoline.TrapSite) bool { return jumpsTo(edits, o.Addr, step.Addr) }):
			start-- // into the filler: its first byte is no entry that keeps calls away
		case !e.Divided(machine):
			continue
		}
		inside = append(inside, live.Range{Start: start, End: step.Addr + uint64(len(step.New)), Name: step.Name()})
	}
	before := slices.Clone(inside)
	for _, m := range x.members {
		if m.cells != nil { // it may have read the column that is written now when that was in use
			before = append(before, live.Range{Start: m.record.Handler.Addr, End: m.record.Handler.Addr + m.record.Handler.Size, Name: "handler of " + m.record.Name})
		}
		if m.fill != nil { // nobody may be using the variables
			start, end := m.record.Code()
			before = append(before, live.Range{Start: start - 1, End: end, Name: "patch " + m.record.Name})
		}
	}
	if len(inside) > 0 {
		if c.opt.ScanMemory {
			return nil, refusal.New(refusal.NeedsStop, x.p.where()+": "+inside[0].Name, "the program switches stacks, and its memory can be looked through only while nothing runs")
		}
		s.inside = live.NewRanges(inside)
	}
	s.before = live.NewRanges(before)
	return s, nil
}

// jumpsTo reports whether the edit at from is, before or after, a jump to an
// address.
func jumpsTo(edits []trampoline.Edit, from, to uint64) bool {
	for _, e := range edits {
		if e.Addr != from {
			continue
		}
		for _, code := range [][]byte{e.Old, e.New} {
			if at, ok := trampoline.Target(machine, code, e.Addr); ok && at == to {
				return true
			}
		}
	}
	return false
}

func (c *change) installTraps(list []*liveChange, deadline time.Time) error {
	for _, s := range list {
		if len(s.sites) == 0 {
			continue
		}
		_, err := retry(deadline, c.opt, func() error { return s.x.p.installTrap(s.sites, deadline) })
		if err != nil {
			return err
		}
		s.trap = s.x.p.traps[len(s.x.p.traps)-1]
	}
	return nil
}

func (c *change) removeTraps(list []*liveChange) {
	for _, s := range list {
		if note := s.x.p.removeTraps(); note != "" {
			c.notes = append(c.notes, note)
		}
	}
}

// tryRunning makes the change once, or takes it back.
func (c *change) tryRunning(list []*liveChange) (stage string, err error) {
	limit := time.Now().Add(c.opt.maxPause())
	for _, s := range list {
		if err := s.look(s.before, limit); err != nil {
			return stageCheck, c.orEnded(err)
		}
	}
	// From here on few threads, if any, are inside what changes.
	if c.opt.DryRun {
		return "", nil
	}
	return c.guarded(list, func() (string, error) { return c.play(list, limit) })
}

// play makes the change once, or takes it back.
func (c *change) play(list []*liveChange, limit time.Time) (stage string, err error) {
	if err := c.held(list, c.lead); err != nil {
		return stageCheck, c.orEnded(err)
	}
	// From here on whoever finds the target knows what is being done to it.
	c.opt.at("begun")
	err = c.playAll(list, limit)
	if err == nil {
		err = c.writing(list, c.end)
	}
	if err == nil {
		return "", nil
	}
	if back := c.undoRounds(list); back != nil {
		return stageWrite, &ApplyError{stageWrite, Interrupted, errors.Join(err, back)}
	}
	if transient(err) {
		return stageWrite, err
	}
	return stageWrite, &ApplyError{stageWrite, RolledBack, c.orEnded(err)}
}

// lead makes sure that the target is as planned and says that the change begins.
// No other loader can do so meanwhile.
func (c *change) lead() error {
	if err := c.newcomers(); err != nil {
		return err
	}
	var reasons refusal.List
	for _, x := range c.parts {
		if err := x.p.alone(x.members); err != nil {
			return err
		}
		reasons = append(reasons, x.p.sites(x.p.mem, x.present())...)
		reasons = append(reasons, x.hosted()...)
	}
	if err := reasons.Err(); err != nil {
		return err
	}
	if err := c.begin(); err != nil {
		return errors.Join(err, c.restoreControls())
	}
	return nil
}

// held runs do while the first thread of every process stands.
func (c *change) held(list []*liveChange, do func() error) error {
	if len(list) == 0 {
		return do()
	}
	return list[0].x.p.withMain(func() error { return c.held(list[1:], do) })
}

// writing runs do, and if it fails once more while the first thread of every
// process stands: the kernel may let nobody write but through ptrace.
func (c *change) writing(list []*liveChange, do func() error) error {
	if do() == nil {
		return nil
	}
	return c.held(list, do)
}

// playAll makes all writes: of data that leads nowhere yet, of code, of data that
// what was written leads to.
func (c *change) playAll(list []*liveChange, limit time.Time) error {
	for _, s := range list {
		s.made, s.wrote = 0, 0
	}
	err := c.data(list, func(s *liveChange) []live.Step { return s.lead })
	if err == nil {
		err = c.playRounds(list, limit)
	}
	if err == nil {
		err = c.data(list, func(s *liveChange) []live.Step { return s.trail })
	}
	if err != nil {
		return err
	}
	for _, s := range list {
		s.x.done = slices.DeleteFunc(slices.Clone(s.x.steps), func(step live.Step) bool {
			return step.Function == live.Whole && !slices.ContainsFunc(slices.Concat(s.lead, s.trail), func(o live.Step) bool { return o.Addr == step.Addr })
		})
	}
	return nil
}

// data writes data of every process.
func (c *change) data(list []*liveChange, of func(s *liveChange) []live.Step) error {
	for _, s := range list {
		for _, step := range of(s) {
			c.entered = true
			s.wrote++
			err := c.writing(list, func() error {
				if c.opt.fault != nil && c.opt.fault(step.Addr) {
					return errFault
				}
				return s.x.p.writeVerified(step.New, step.Addr, s.x.p.anyThread())
			})
			if err != nil {
				return err
			}
			c.opt.at("written")
		}
	}
	return nil
}

// undoData takes back what was written of data, all but the first ones, and notes
// what it met.
func (c *change) undoData(list []*liveChange, but func(s *liveChange) int, note func(s *liveChange, err error)) {
	for _, s := range slices.Backward(list) {
		all := slices.Concat(s.lead, s.trail)
		for s.wrote > but(s) {
			step := all[s.wrote-1]
			s.wrote--
			note(s, c.writing(list, func() error {
				return s.x.p.writeVerified(step.Old, step.Addr, s.x.p.anyThread())
			}))
		}
	}
}

// playRounds makes all rounds in all processes, each round in all before the next
// one in any.
func (c *change) playRounds(list []*liveChange, limit time.Time) error {
	rounds := 0
	for _, s := range list {
		rounds = max(rounds, len(s.rounds))
	}
	for i := range rounds {
		for _, s := range list {
			c.entered = true
			s.made = i + 1
			if err := c.writeRound(list, s, i, false); err != nil {
				return err
			}
		}
		c.opt.at(fmt.Sprintf("round %d", i+1))
		c.restoreTraps(list, limit)
		for _, s := range list {
			if i == rounds-1 && s.trap != nil {
				break // whoever takes the handler out stops every thread once more
			}
			if err := c.synchronise(s, i == 0, limit); err != nil {
				return err
			}
		}
		c.restoreTraps(list, limit)
		c.opt.at(fmt.Sprintf("synchronised %d", i+1))
	}
	return nil
}

// writeRound makes the writes of one round of one process, or takes them back.
func (c *change) writeRound(list []*liveChange, s *liveChange, round int, back bool) error {
	if round >= len(s.rounds) {
		return nil
	}
	return c.writing(list, func() error {
		for _, w := range s.rounds[round] {
			if back {
				w.Old, w.New = w.New, w.Old
			} else if c.opt.fault != nil && c.opt.fault(w.Addr) {
				return errFault
			}
			if err := s.x.p.writeVerified(w.New, w.Addr, s.x.p.anyThread()); err != nil {
				return err
			}
			c.opt.at("written")
		}
		return nil
	})
}

// undoRounds takes back what was made of the rounds, and the beginning.
func (c *change) undoRounds(list []*liveChange) error {
	var errs []error
	note := func(s *liveChange, err error) {
		if err != nil && !Ended(err) && !Ended(s.x.p.same()) { // else nothing is left of it
			errs = append(errs, err)
		}
	}
	c.undoData(list, func(s *liveChange) int { return len(s.lead) }, note)
	rounds := 0
	for _, s := range list {
		rounds = max(rounds, s.made)
	}
	limit := time.Now().Add(c.opt.maxPause())
	for i := rounds - 1; i >= 0; i-- {
		for _, s := range list {
			if s.made > i {
				// A round that failed may have been made in part: its writes are of
				// single bytes, or behind breakpoints.
				note(s, c.writeRound(list, s, i, true))
			}
		}
		for _, s := range list {
			if s.made > i && i > 0 {
				// With the last round taken back the breakpoints are there again.
				note(s, c.synchronise(s, i == len(s.rounds)-1, limit))
			}
		}
	}
	c.undoData(list, func(*liveChange) int { return 0 }, note)
	for _, s := range list {
		s.made, s.x.done = 0, nil
	}
	return errors.Join(append(errs, c.writing(list, c.restoreControls))...)
}

// synchronise makes every thread execute a serialising instruction, and, if clear
// is demanded, makes sure that none is inside what changes.
func (c *change) synchronise(s *liveChange, clear bool, limit time.Time) error {
	p := s.x.p
	switch {
	case len(s.rounds) == 0:
		return nil
	case clear && s.inside != nil:
		return s.look(s.inside, limit)
	case p.barrier:
		c.sync = SyncMembarrier
		return p.synchronise(limit)
	}
	c.sync = SyncInterrupt
	return p.visit(limit, func(*thread) error { return nil })
}

// look makes sure that no thread is in the ranges or returns to them, and that
// none would be killed by a breakpoint.
func (s *liveChange) look(ranges *live.Ranges, limit time.Time) error {
	p := s.x.p
	if err := p.readMaps(); err != nil {
		return err
	}
	check := checker{p: p, ranges: ranges, buf: make([]byte, 64<<10)}
	return p.visit(limit, func(t *thread) error {
		_, mask, err := p.heading(t)
		switch {
		case err != nil:
			return err
		case mask&trapBit != 0 && p.guard == nil:
			return &BusyError{PID: p.pid, Thread: t.tid, Reason: "blocks SIGTRAP"}
		}
		return check.words(t, t.regs.pc())
	})
}

// findForked looks for processes that were forked while there were breakpoints:
// they have a copy of them, and of the handler, so they run, but somebody has to
// end the change in them.
func (c *change) findForked(list []*liveChange) {
	all, err := All()
	if err != nil {
		return
	}
	for _, pid := range all {
		if slices.ContainsFunc(c.procs, func(p *proc) bool { return p.pid == pid }) {
			continue
		}
		mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
		if err != nil {
			continue // a kernel thread, or not ours
		}
		for _, s := range list {
			if s.trap != nil && s.copied(mem) {
				c.forked = append(c.forked, pid)
			}
		}
		mem.Close()
	}
}

// copied reports whether memory holds a copy of the handler.
func (s *liveChange) copied(mem io.ReaderAt) bool {
	if s.trap == nil {
		return false
	}
	list := live.FindTraps(mem, [][2]uint64{{s.trap.Base, s.trap.Base + s.trap.Size}})
	return len(list) == 1 && list[0].Owner == s.trap.Owner && list[0].Own == s.trap.Own
}
