//go:build linux && (amd64 || arm64)

package process

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"livepatch/internal/live"
	"livepatch/internal/refusal"
)

// A change leads stopped processes from one set of applied patches to another,
// all or none of them.
type change struct {
	procs  []*proc
	parts  []*part
	opt    *Options
	forbid map[*proc]*live.Ranges // code that no thread may be inside of
	pause  Pause
	tries  int
	counts map[*proc]int                           // threads
	seen   []int                                   // processes that there were when the change was prepared
	left   []*proc                                 // of procs, those that are there no more
	admit  func(pids []int, limit time.Time) error // makes ready what came since; nil where nobody may come
	remedy Remedy                                  // what is done about an earlier change; 0 if this is one of its own

	// Of SwitchInt3.
	entered bool // a thread may have executed what came, though it went again
	sync    Sync
	took    time.Duration // from the first handler to the last
	forked  []int         // processes that were forked meanwhile
	notes   []string      // of what is left behind
}

// part is what changes in one process.
type part struct {
	p       *proc
	members []*member // the first leads
	steps   []live.Step
	done    []live.Step    // what was written, Old as it was read
	retire  []*live.Record // of no change, to be marked as reverted: nothing leads to them
}

// member is a patch of one image that comes or goes.
type member struct {
	record *live.Record
	was    live.Control // what the target's memory holds of the record's control
	next   live.State
	column uint8  // that it takes then, if it hosts slots
	mapped bool   // the record is in the target's memory
	fill   []byte // what its writable part is to hold; nil if it holds that
	data   []byte // what that holds of one that comes
	cells  []cell // of its records, to be written before the change begins
	lent   bool   // it neither comes nor goes: only its column changes
}

// The stages of one try.
const (
	stageStop  = "stop"
	stageCheck = "check"
	stageWrite = "write"
)

// add plans what leads a process to another set of applied patches.
func (c *change) add(p *proc, members []*member) error {
	x := &part{p: p, members: members}
	if err := x.columns(); err != nil {
		return err
	}
	before, after := p.patches.Before(), x.after()
	x.steps = live.Plan(before, after)
	leaving := live.Leaving(before, after, x.steps)
	for _, m := range x.members {
		if m.fill != nil { // nobody may be using the variables
			leaving = append(leaving, m.record.CodeRanges()...)
		}
	}
	c.addPart(x, leaving)
	return nil
}

func (c *change) addPart(x *part, leaving []live.Range) {
	for i := range leaving {
		x.p.lookAtEnd(&leaving[i])
	}
	c.parts = append(c.parts, x)
	c.forbid[x.p] = live.NewRanges(leaving)
}

// lookAtEnd finds out whether a call may end the code of a range. Code that
// cannot be read may.
func (p *proc) lookAtEnd(r *live.Range) {
	if r.Written {
		return
	}
	code := make([]byte, min(r.End-r.Start, 16))
	r.Open = p.readMem(code, r.End-uint64(len(code))) != nil || live.MayEndWithCall(machine, code)
}

// commit tries until the change is made, is refused, or the time is over.
func (c *change) commit(deadline time.Time) error {
	if c.opt.Switch == SwitchInt3 && c.remedy == 0 {
		return c.commitRunning(deadline)
	}
	stage := ""
	tries, err := retry(deadline, c.opt, func() (err error) {
		stage, err = c.try()
		c.doubt(err)
		return err
	})
	c.tries = tries
	var known *ApplyError
	if err == nil || errors.As(err, &known) {
		return err
	}
	return &ApplyError{stage, Unchanged, err}
}

// try stops everything, checks everything, writes everything and lets go.
func (c *change) try() (stage string, err error) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // no collection while others wait
	defer hurry()()
	start := time.Now()
	limit := start.Add(c.opt.maxPause())
	c.counts = map[*proc]int{}
	release := func() {
		for _, p := range c.procs {
			p.release()
		}
	}
	defer release()
	if err := c.stopAll(limit); err != nil {
		return stageStop, err
	}
	// From here on nothing runs.
	stopped := time.Now()
	c.opt.at("stopped")
	if err := c.check(limit); err != nil {
		return stageCheck, c.orEnded(err)
	}
	// From here on no thread is inside, or will return into, what changes.
	checked := time.Now()
	c.opt.at("checked")
	if !c.opt.DryRun {
		if err := c.write(); err != nil {
			return stageWrite, err
		}
	}
	written := time.Now()
	release()
	c.pause = Pause{Total: time.Since(start), Stop: stopped.Sub(start), Check: checked.Sub(stopped), Write: written.Sub(checked)}
	return "", nil
}

// hurry lets this thread run before others while the target waits for it, where
// that is permitted, and returns how to end that. Threads that were let go would
// otherwise take the processor from the one that lets the others go.
func hurry() (end func()) {
	const highest = -20
	self := unix.Gettid()
	old, err := unix.Getpriority(unix.PRIO_PROCESS, self)
	if err != nil || unix.Setpriority(unix.PRIO_PROCESS, self, highest) != nil {
		return func() {}
	}
	const zero = 20 // the system call returns 20 less the nice value
	return func() { _ = unix.Setpriority(unix.PRIO_PROCESS, self, zero-old) }
}

// check compares the sites and looks through the threads.
func (c *change) check(limit time.Time) error {
	var list refusal.List
	for _, x := range c.parts {
		if err := x.p.alone(x.members); err != nil {
			return err
		}
		steps := x.present()
		if c.opt.DryRun {
			steps = ofText(steps)
		}
		list = append(list, x.p.sites(x.p.mem, steps)...)
		list = append(list, x.hosted()...)
	}
	if err := list.Err(); err != nil {
		return err
	}
	for _, x := range c.parts {
		check := checker{p: x.p, ranges: c.forbid[x.p], all: c.opt.ScanMemory, limit: limit, frames: x.p.frames}
		if err := check.threads(); err != nil {
			return err
		}
	}
	if over := time.Since(limit); over > 0 {
		return &BusyError{PID: c.procs[0].pid, Reason: fmt.Sprintf("cannot be stopped and checked within %v", c.opt.maxPause())}
	}
	return nil
}

// write makes the change. If anything fails, all that was written is taken back
// before the target runs again.
func (c *change) write() error {
	err := c.writeAll()
	if err == nil {
		return nil
	}
	if back := c.rollBack(); back != nil {
		return &ApplyError{stageWrite, Interrupted, errors.Join(err, back)}
	}
	return &ApplyError{stageWrite, RolledBack, c.orEnded(err)}
}

// orEnded is err, unless it has a simple reason: a process was killed, or has started
// another program.
func (c *change) orEnded(err error) error {
	for _, p := range c.procs {
		if gone := p.same(); Ended(gone) {
			return gone
		}
	}
	return err
}

var errFault = errors.New("write failed on purpose")

func (c *change) writeAll() error {
	if err := c.begin(); err != nil {
		return err
	}
	// From here on whoever finds the target knows what is being done to it.
	c.opt.at("begun")
	for _, x := range c.parts {
		x.done = x.done[:0]
		for _, s := range x.steps {
			if err := x.write(&s, c.opt); err != nil {
				return err
			}
			c.opt.at("written")
		}
	}
	return c.end()
}

func (x *part) write(s *live.Step, opt *Options) error {
	old := make([]byte, len(s.New))
	if err := x.p.readMem(old, s.Addr); err != nil {
		return err
	}
	done := *s
	done.Old = old
	x.done = append(x.done, done)
	if opt.fault != nil && opt.fault(s.Addr) {
		return errors.Join(errFault, x.p.writeVerified(s.New[:1], s.Addr, x.p.anyThread()))
	}
	return x.p.writeVerified(s.New, s.Addr, x.p.anyThread())
}

// begin tells the records what is going to be done: first each what becomes of
// it, then, by one byte in each process, that it has begun.
func (c *change) begin() error {
	if c.remedy != 0 {
		return nil // they know
	}
	var random [8]byte
	_, _ = rand.Read(random[:]) // it never fails
	id := binary.LittleEndian.Uint64(random[:])
	owner, err := self()
	if err != nil {
		return err
	}
	for _, x := range c.parts {
		for _, m := range x.members {
			if m.fill != nil {
				if err := x.p.writeVerified(m.fill, m.record.Base+m.record.Sizes[partRead]+m.record.Sizes[partExec], x.p.anyThread()); err != nil {
					return err
				}
			}
			for _, cell := range m.cells {
				if err := x.p.writeVerified(cell.bytes(), cell.addr, x.p.anyThread()); err != nil {
					return err
				}
			}
			control := m.record.Control
			control.Next, control.Prior, control.Phase = m.next, control.State, live.Idle
			control.NextCol, control.PriorCol, control.Stays = m.column, control.Column, live.NotTried
			control.Change, control.Owner, control.Processes = id, owner, uint32(len(c.parts))
			if err := x.p.writeVerified(control.Encode(), m.record.Base+live.ControlOffset, x.p.anyThread()); err != nil {
				return err
			}
			m.record.Control = control
		}
	}
	return c.phase(live.Begun)
}

// end makes the change the state of things: first, by one byte in each process,
// it says that all is written, then the states follow. One that was rolled back
// sets the states back instead, for some may have followed already.
func (c *change) end() error {
	if c.remedy != RollBack {
		if err := c.phase(live.Committed); err != nil {
			return err
		}
		c.opt.at("committed")
	}
	for _, x := range c.parts {
		for _, m := range x.members {
			if err := x.p.setState(m.record, m.next); err != nil {
				return err
			}
			if err := x.p.setColumn(m); err != nil {
				return err
			}
		}
	}
	if err := c.phase(live.Idle); err != nil {
		return err
	}
	for _, x := range c.parts {
		for _, r := range x.retire {
			if err := x.p.setState(r, live.Reverted); err != nil {
				return err
			}
		}
	}
	return nil
}

// phase sets the phase of the change in every process.
func (c *change) phase(to live.Phase) error {
	for _, x := range c.parts {
		if len(x.members) == 0 {
			continue
		}
		leader := x.members[0].record
		if err := x.p.writeVerified([]byte{byte(to)}, leader.Base+live.PhaseOffset, x.p.anyThread()); err != nil {
			return err
		}
		leader.Phase = to
	}
	return nil
}

// rollBack undoes what writeAll did, in the opposite order.
func (c *change) rollBack() error {
	var errs []error
	for _, x := range slices.Backward(c.parts) {
		if Ended(x.p.same()) {
			continue // nothing of it is left
		}
		for _, s := range slices.Backward(x.done) {
			errs = append(errs, x.p.writeVerified(s.Old, s.Addr, x.p.anyThread()))
		}
		x.done = nil
	}
	return errors.Join(append(errs, c.restoreControls())...)
}

// restoreControls makes the records say what they said before.
func (c *change) restoreControls() error {
	var errs []error
	for _, x := range slices.Backward(c.parts) {
		if Ended(x.p.same()) {
			continue
		}
		for _, m := range x.members {
			errs = append(errs, x.p.writeVerified(m.was.Encode(), m.record.Base+live.ControlOffset, x.p.anyThread()))
		}
	}
	return errors.Join(errs...)
}

// setState changes the one byte of a record that says what is applied. The
// record in our own memory keeps what it was, for a way back.
func (p *proc) setState(r *live.Record, s live.State) error {
	return p.writeVerified([]byte{byte(s)}, r.Base+live.StateOffset, p.anyThread())
}

func (p *proc) anyThread() *thread {
	if len(p.threads) == 0 {
		return nil
	}
	return p.threads[0]
}

// writeVerified writes and reads back.
func (p *proc) writeVerified(b []byte, addr uint64, t *thread) error {
	if err := p.writeMem(b, addr, t); err != nil {
		return err
	}
	have := make([]byte, len(b))
	if err := p.readMem(have, addr); err != nil {
		return err
	}
	if !bytes.Equal(have, b) {
		return fmt.Errorf("process %d: memory at %#x does not hold what was written", p.pid, addr)
	}
	return nil
}

// result says what was done.
func (c *change) result() *Result {
	r := &Result{Attempts: c.tries, DryRun: c.opt.DryRun, Pause: c.pause, Applied: []string{}, Reverted: []string{}, Unpatched: c.unpatched(), Switch: SwitchStop}
	if c.opt.Switch == SwitchInt3 {
		r.Switch, r.Sync, r.Took, r.Forked, r.Notes = SwitchInt3, c.sync, c.took, c.forked, c.notes
	}
	functions := map[uint64]bool{}
	for _, x := range c.parts {
		out := Patched{PID: x.p.pid, Threads: c.counts[x.p]}
		for _, m := range x.members {
			out.Images = append(out.Images, x.image(m, c.opt.DryRun))
			if m.lent {
				continue
			}
			names := &r.Applied
			if m.next != live.Applied {
				names = &r.Reverted
			}
			if !slices.Contains(*names, m.record.Name) {
				*names = append(*names, m.record.Name)
			}
			for i := range m.record.Functions {
				if x == c.parts[0] {
					functions[m.record.Functions[i].Old] = true
				}
			}
		}
		r.Processes = append(r.Processes, out)
	}
	r.Functions = len(functions)
	return r
}

// unpatched lists the functions of the first process that no patch replaces any
// more.
func (c *change) unpatched() []string {
	names := []string{}
	x := c.parts[0]
	still := map[uint64]bool{}
	for _, r := range x.after().Applied {
		for _, f := range r.Functions {
			still[f.Old] = true
		}
	}
	for _, r := range x.p.patches.Applied() {
		for _, f := range r.Functions {
			if !still[f.Old] && !slices.Contains(names, f.Name) {
				names = append(names, f.Name)
			}
		}
	}
	return names
}

// after is what is in force when the change is made.
func (x *part) after() live.Set {
	after := x.p.patches.Before()
	for _, m := range x.members {
		after.Applied = slices.DeleteFunc(after.Applied, func(r *live.Record) bool { return r == m.record })
		after.Hosts = slices.DeleteFunc(after.Hosts, func(h live.Host) bool { return h.Record == m.record })
		if m.next == live.Applied {
			after.Applied = append(after.Applied, m.record)
		}
		if m.record.Hosts() && (m.next == live.Applied || m.next == live.Hosting) {
			after.Hosts = append(after.Hosts, live.Host{Record: m.record, Column: m.column})
		}
	}
	return after
}

func (x *part) image(m *member, dry bool) Image {
	r := m.record
	im := Image{
		Patch: r.Name, Target: r.Target, BuildID: hex.EncodeToString(r.BuildID), Bias: r.Bias,
		State: m.next.String(), Base: r.Base, Size: r.Size(), Journal: []Written{},
	}
	if dry && !m.mapped {
		im.Base = 0
	}
	for _, s := range x.done {
		if s.Record == r {
			im.Journal = append(im.Journal, Written{
				Function: s.Name(), Address: s.Addr, Length: len(s.New),
				Old: hex.EncodeToString(s.Old), New: hex.EncodeToString(s.New),
			})
		}
	}
	return im
}
