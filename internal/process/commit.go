//go:build linux && amd64

package process

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"livepatch/internal/live"
	"livepatch/internal/refusal"
)

// A change is a set of writes to stopped processes: to apply, or to revert.
type change struct {
	procs  []*proc
	parts  []*part
	opt    *Options
	ranges map[*proc][]live.Range // code that no thread may be inside of
	forbid map[*proc]*live.Ranges // the same, once all are known
	pause  Pause
	tries  int
	counts map[*proc]int // threads
}

// part is what changes in one image of one process.
type part struct {
	p      *proc
	record *live.Record
	mapped bool         // the record is in the target's memory
	writes []live.Write // Old is expected, New is written
	state  live.State   // of the record afterwards
	done   []live.Write // what was written, Old as it was read
}

// A step of one try.
const (
	stageStop  = "stop"
	stageCheck = "check"
	stageWrite = "write"
)

// commit tries until the change is made, is refused, or the time is over.
func (c *change) commit(deadline time.Time) error {
	stage := ""
	tries, err := retry(deadline, c.opt, func() (err error) {
		stage, err = c.try()
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
	for _, p := range c.procs {
		if err := p.stop(limit); err != nil {
			return stageStop, err
		}
		c.counts[p] = len(p.threads)
	}
	// From here on nothing runs.
	stopped := time.Now()
	c.opt.at("stopped")
	if err := c.check(limit); err != nil {
		return stageCheck, c.orEnded(err)
	}
	// From here on no thread is inside, or will return into, what changes.
	checked := time.Now()
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
		if err := x.recorded(); err != nil {
			return err
		}
		list = append(list, x.p.sites(x.writes, x.record.Functions, func(w *live.Write) []byte { return w.Old })...)
	}
	if err := list.Err(); err != nil {
		return err
	}
	for _, p := range c.procs {
		check := checker{p: p, ranges: c.forbid[p], all: c.opt.ScanMemory, limit: limit}
		if err := check.threads(); err != nil {
			return err
		}
	}
	if over := time.Since(limit); over > 0 {
		return &BusyError{PID: c.procs[0].pid, Reason: fmt.Sprintf("cannot be stopped and checked within %v", c.opt.maxPause())}
	}
	return nil
}

// recorded makes sure that the patch's memory is still there and that no other
// loader has been at work.
func (x *part) recorded() error {
	if !x.mapped {
		return nil
	}
	want := x.record.Encode()
	have := make([]byte, len(want))
	if err := x.p.readMem(have, x.record.Base); err != nil {
		return fmt.Errorf("process %d: the memory of patch %s is gone: %w", x.p.pid, x.record.Name, err)
	}
	if !bytes.Equal(have, want) {
		return fmt.Errorf("process %d: the record of patch %s has changed in the meantime", x.p.pid, x.record.Name)
	}
	return nil
}

// write makes every write and, last, changes the states. If anything fails, all
// that was written is taken back before the target runs again.
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

// orEnded is err, unless it has a simple reason: a process was killed.
func (c *change) orEnded(err error) error {
	for _, p := range c.procs {
		if gone := p.same(); errors.Is(gone, errEnded) {
			return gone
		}
	}
	return err
}

var errFault = errors.New("write failed on purpose")

func (c *change) writeAll() error {
	for _, x := range c.parts {
		x.done = x.done[:0]
		for _, w := range x.writes {
			old := make([]byte, len(w.New))
			if err := x.p.readMem(old, w.Addr); err != nil {
				return err
			}
			x.done = append(x.done, live.Write{Function: w.Function, Addr: w.Addr, Old: old, New: w.New})
			if c.opt.fault != nil && c.opt.fault(w.Addr) {
				return errors.Join(errFault, x.p.writeVerified(w.New[:1], w.Addr, x.p.anyThread()))
			}
			if err := x.p.writeVerified(w.New, w.Addr, x.p.anyThread()); err != nil {
				return err
			}
			c.opt.at("written")
		}
	}
	for _, x := range c.parts {
		if err := x.p.setState(x.record, x.state); err != nil {
			return err
		}
	}
	return nil
}

// rollBack undoes what writeAll did, in the opposite order.
func (c *change) rollBack() error {
	var errs []error
	for i := len(c.parts) - 1; i >= 0; i-- {
		x := c.parts[i]
		if errors.Is(x.p.same(), errEnded) {
			continue // nothing of it is left
		}
		for j := len(x.done) - 1; j >= 0; j-- {
			w := x.done[j]
			errs = append(errs, x.p.writeVerified(w.Old, w.Addr, x.p.anyThread()))
		}
		errs = append(errs, x.p.setState(x.record, x.record.State))
		x.done = nil
	}
	return errors.Join(errs...)
}

// setState changes the one byte of a record that says what is applied.
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
func (c *change) result(name string) *Result {
	r := &Result{Patch: name, Attempts: c.tries, DryRun: c.opt.DryRun, Pause: c.pause}
	for _, p := range c.procs {
		out := Patched{PID: p.pid, Threads: c.counts[p]}
		for _, x := range c.parts {
			if x.p == p {
				out.Images = append(out.Images, x.image())
			}
		}
		r.Processes = append(r.Processes, out)
	}
	for _, x := range c.parts {
		if x.p == c.procs[0] {
			r.Functions += len(x.record.Functions)
		}
	}
	return r
}

func (x *part) image() Image {
	im := Image{
		Target: x.record.Target, BuildID: hex.EncodeToString(x.record.BuildID), Bias: x.record.Bias,
		Base: x.record.Base, Size: x.record.Size(), Journal: []Written{},
	}
	for _, w := range x.done {
		im.Journal = append(im.Journal, Written{
			Function: x.record.Functions[w.Function].Name, Address: w.Addr, Length: len(w.New),
			Old: hex.EncodeToString(w.Old), New: hex.EncodeToString(w.New),
		})
	}
	return im
}
