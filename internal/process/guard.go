//go:build linux && (amd64 || arm64)

package process

import (
	"errors"
	"fmt"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"livepatch/internal/live"
)

// A thread that blocks SIGTRAP, or is in a handler that does, and meets a breakpoint
// is not sent to the handler: the kernel lifts the block, makes the default action
// that of the whole process, and the signal ends it (force_sig_info_to_task,
// kernel/signal.c). But it tells a tracer first. So all threads are traced from before
// the first breakpoint until no thread can meet one; they are not stopped by that.
// Whatever a thread would be given as a signal, it stops, and is let go on with it at
// once, unless it has met a breakpoint: then it goes on where the jump leads, without
// the signal.
//
// If the loader dies the kernel ends the tracing, and the handler in the target does
// what the loader did.

// A guard is what is known of a process all of whose threads are traced.
type guard struct {
	threads map[int]*thread
	list    []*thread // these, and some that have ended
	next    int       // in list, to be looked at
	met     bool      // a breakpoint, since SIGTRAP was last known to have its handler
}

// guardThreads begins to trace all threads. Those that they start are traced from
// their beginning.
func (p *proc) guardThreads() error {
	p.guard = &guard{threads: map[int]*thread{}}
	p.options |= unix.PTRACE_O_TRACECLONE
	for {
		tids, err := p.tids()
		if err != nil {
			return err
		}
		before := len(p.guard.list)
		for _, tid := range tids {
			if _, err := p.seizeThread(tid); err != nil {
				return err
			}
		}
		if len(p.guard.list) == before {
			return nil
		}
	}
}

// track makes a thread that is traced one of those of the guard.
func (p *proc) track(t *thread) *thread {
	if p.guard != nil {
		delete(p.seized, t.tid)
		t.guarded = true
		p.guard.threads[t.tid] = t
		p.guard.list = append(p.guard.list, t)
	}
	return t
}

// giveUp makes a thread of the guard one that is let go after it has been seen.
func (t *thread) giveUp() {
	if t.guarded {
		t.guarded = false
		t.p.seizing(t.tid)
		delete(t.p.guard.threads, t.tid)
	}
}

// adopt takes in a thread that the kernel has made this loader the tracer of, because
// one that it traces has started it.
func (p *proc) adopt(tid int) *thread {
	if t := p.guard.threads[tid]; t != nil {
		return t
	}
	return p.track(&thread{p: p, tid: tid})
}

// attend lets threads of the guard go on that have stopped by themselves. It looks at
// some, at others the next time: somebody waits for other things.
func (p *proc) attend() {
	if p.guard == nil {
		return
	}
	const most = 64
	g := p.guard
	for range min(most, len(g.list)) {
		g.next %= max(1, len(g.list))
		t := g.list[g.next]
		if g.threads[t.tid] != t {
			g.list = slices.Delete(g.list, g.next, g.next+1)
			continue
		}
		g.next++
		if slices.Contains(p.threads, t) {
			continue // whoever stopped it looks at it
		}
		switch err := t.waitStop(time.Time{}); {
		case err == nil, errors.Is(err, errExec):
			_ = t.goOn() // if it is gone, the next look tells
		case errors.Is(err, errGone):
			delete(g.threads, t.tid)
		}
	}
}

// attendAll is called wherever this OS thread waits for something else.
func (p *proc) attendAll() {
	if p.opt != nil && p.opt.attend != nil {
		p.opt.attend()
	}
}

// guarded runs do. If that is asked for, all threads are traced meanwhile of the
// processes that will have breakpoints.
func (c *change) guarded(list []*liveChange, do func() (stage string, err error)) (stage string, err error) {
	if !c.opt.Guard {
		return do()
	}
	c.opt.attend = func() {
		for _, p := range c.procs {
			p.attend()
		}
	}
	defer func() {
		const patience = 5 * time.Second
		for _, s := range list {
			if left := s.x.p.unguard(time.Now().Add(patience)); left != nil && !errors.Is(left, errEnded) && !errors.Is(left, errExec) {
				c.notes = append(c.notes, left.Error())
			}
		}
		c.opt.attend = nil
	}()
	for _, s := range list {
		if s.trap != nil {
			if err := s.x.p.guardThreads(); err != nil {
				return stageCheck, c.orEnded(err)
			}
		}
	}
	return do()
}

// starts takes in the thread that another one has stopped to tell of, and lets that
// one go on.
func (t *thread) starts() error {
	tid, err := startedBy(t.tid)
	if err != nil {
		return err
	}
	if t.p.guard != nil {
		t.p.adopt(tid)
	}
	return t.resume(unix.PTRACE_CONT, 0)
}

// startedBy is the number of the thread that one tells of that has stopped for that.
func startedBy(tid int) (started int, err error) {
	var n uint64
	err = ptrace(unix.PTRACE_GETEVENTMSG, tid, 0, unsafe.Pointer(&n))
	return int(n), err
}

// goOn lets a thread of the guard go on, with the signal that it has stopped for, but
// for that of a breakpoint.
func (t *thread) goOn() error {
	signal, grouped := t.signal, t.grouped
	t.signal, t.grouped = 0, false
	if grouped {
		return t.staysStopped()
	}
	return t.pass(unix.PTRACE_CONT, signal)
}

// pass lets a thread go on with the signal that it has stopped to receive. If that is
// the signal of a breakpoint, it goes on where the handler would send it: there may be
// no handler any more.
func (t *thread) pass(request, signal int) error {
	if signal != int(unix.SIGTRAP) || len(t.p.traps) == 0 {
		return t.resume(request, signal)
	}
	if err := t.getRegs(); err != nil {
		return err
	}
	t.signal = signal
	to, ok := t.p.breakpoint(t)
	t.signal = 0
	if !ok {
		return t.resume(request, signal)
	}
	if t.p.guard != nil {
		t.p.guard.met = true
	}
	t.regs.setPC(to)
	if err := t.setRegs(&t.regs); err != nil {
		return err
	}
	if h := t.p.opt.hook; h != nil { // not by Options.at, which attends to threads
		h("sent")
	}
	return t.resume(request, 0)
}

// staysStopped leaves a thread stopped by job control, until that lets it go on.
func (t *thread) staysStopped() error {
	if t.resume(unix.PTRACE_LISTEN, 0) == nil {
		return nil
	}
	// It has made a system call since it stopped. The kernel stops it again if it has
	// no tracer.
	if err := ptraceWord(unix.PTRACE_DETACH, t.tid, 0, 0); err != nil {
		return err
	}
	return ptraceWord(unix.PTRACE_SEIZE, t.tid, 0, t.p.options)
}

// restoreTrap makes the handler of breakpoints the action of SIGTRAP again, if it is
// not any more because a thread that blocks the signal has met one.
func (p *proc) restoreTrap(deadline time.Time) error {
	if p.guard == nil || !p.guard.met {
		return nil
	}
	s, err := readStatus(p.path("status"))
	if err != nil {
		return p.gone(err)
	}
	if s.caught&trapBit == 0 {
		trap := p.traps[len(p.traps)-1]
		err = p.withThread(deadline, p.opt, func(c *injection) error {
			_, err := c.call(unix.SYS_RT_SIGACTION, uint64(unix.SIGTRAP), trap.Base+live.TrapAction, 0, wordSize)
			return err
		})
		if err != nil {
			return fmt.Errorf("process %d: set the action of SIGTRAP again: %w", p.pid, err)
		}
	}
	p.guard.met = false
	return nil
}

// restoreTraps does so in all processes of a change. What cannot be done now is done
// later.
func (c *change) restoreTraps(list []*liveChange, limit time.Time) {
	for _, s := range list {
		s.x.p.attendAll()
		_ = s.x.p.restoreTrap(limit)
	}
}

// unguard ends the tracing when there are no breakpoints any more. Each thread is let
// go when it has received the signal of none.
func (p *proc) unguard(limit time.Time) error {
	if p.guard == nil {
		return nil
	}
	err := p.restoreTrap(limit)
	err = errors.Join(err, p.visit(limit, func(t *thread) error {
		moved, _, err := p.heading(t)
		switch {
		case err != nil:
			return err
		case moved:
			return &BusyError{PID: p.pid, Thread: t.tid, Reason: "has met a breakpoint"}
		}
		t.giveUp()
		return nil
	}), p.restoreTrap(limit))
	for _, t := range p.guard.threads {
		t.giveUp()
	}
	p.guard = nil
	p.options &^= unix.PTRACE_O_TRACECLONE
	p.settle(nil)
	return err
}
