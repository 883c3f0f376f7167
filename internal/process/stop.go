//go:build linux && (amd64 || arm64)

package process

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"livepatch/internal/refusal"
)

// stop stops every thread of the process: passes over the thread list are
// repeated until one finds nobody new, for a thread that has not stopped yet
// can start others, and one that has cannot.
func (p *proc) stop(deadline time.Time) error {
	known := map[int]bool{}
	for {
		tids, err := p.tids()
		if err != nil {
			return err
		}
		var fresh []*thread
		for _, tid := range tids {
			if known[tid] {
				continue
			}
			t, err := p.seizeThread(tid)
			if err != nil {
				return err
			}
			if t == nil {
				continue
			}
			known[tid] = true
			fresh = append(fresh, t)
			p.threads = append(p.threads, t)
			if err := t.interrupt(); err != nil && !errors.Is(err, errGone) {
				return fmt.Errorf("stop thread %d of process %d: %w", tid, p.pid, err)
			}
		}
		if len(fresh) == 0 {
			if len(p.threads) == 0 {
				return p.lost()
			}
			return p.same()
		}
		if err := p.waitAll(fresh, deadline); err != nil {
			return err
		}
	}
}

// seizeThread seizes one thread, nil if it is ending.
func (p *proc) seizeThread(tid int) (*thread, error) {
	if p.held != nil && p.held.tid == tid {
		return p.held, nil
	}
	if p.guard != nil && p.guard.threads[tid] != nil {
		return p.guard.threads[tid], nil
	}
	t, err := p.seize(tid)
	switch {
	case err == nil:
		return p.track(t), nil
	case errors.Is(err, errGone):
		return nil, nil
	case !errors.Is(err, unix.EPERM):
		return nil, fmt.Errorf("seize thread %d of process %d: %w", tid, p.pid, err)
	}
	// EPERM is also what threads give that are dead but not yet gone, such as
	// a main thread that left by pthread_exit.
	s, serr := p.threadStatus(tid)
	switch {
	case serr != nil, s.state == 'Z', s.state == 'X':
		return nil, nil
	case s.tracer == unix.Gettid() && p.guard != nil: // since another one has started it
		return p.adopt(tid), nil
	case s.tracer != 0 && isLoader(s.tracer):
		return nil, otherLoader(p.pid, s.tracer)
	case s.tracer != 0:
		return nil, refusal.New(refusal.AlreadyTraced, p.where(), "process %d (%s) traces thread %d", s.tracer, commandOf(s.tracer), tid)
	}
	if err := p.same(); err != nil { // it is starting another program
		return nil, err
	}
	return nil, p.denied()
}

// waitAll waits for threads that were interrupted; those that end are dropped.
func (p *proc) waitAll(list []*thread, deadline time.Time) error {
	for _, t := range list {
		err := t.waitStop(deadline)
		switch {
		case err == nil:
		case errors.Is(err, errGone):
			p.drop(t)
		case errors.Is(err, errExec):
			return fmt.Errorf("process %d: %w", p.pid, errExec)
		case errors.Is(err, errLate):
			return &BusyError{PID: p.pid, Thread: t.tid, Reason: "does not stop" + p.waitingFor(t.tid)}
		default:
			return fmt.Errorf("stop thread %d of process %d: %w", t.tid, p.pid, err)
		}
	}
	return nil
}

func (p *proc) waitingFor(tid int) string {
	if s, err := p.threadStatus(tid); err == nil && s.state == 'D' {
		return " (uninterruptible sleep)"
	}
	return ""
}

// drop takes a thread off the list. What is owed to it, if it has not been seen
// to end, settle does.
func (p *proc) drop(t *thread) {
	p.missed = true
	for i, o := range p.threads {
		if o == t {
			p.threads = append(p.threads[:i], p.threads[i+1:]...)
			return
		}
	}
}

// patience bounds the waiting for what the kernel is about to do.
const patience = 100 * time.Millisecond

// release lets every thread go.
func (p *proc) release() { p.releaseBut(nil) }

// releaseBut lets every thread go but one, nil for none.
func (p *proc) releaseBut(keep *thread) {
	for _, t := range p.threads {
		if t != keep {
			// There is nothing to be done here about one that cannot be
			// released; settle tries again.
			_ = t.detach()
		}
	}
	p.threads = nil
	owed := len(p.seized)
	if keep != nil {
		p.threads = []*thread{keep}
		owed--
	}
	if owed > 0 || p.missed {
		p.missed = false
		p.settle(keep)
	}
}

// reap takes note of the ends of seized threads. One that starts another program
// cannot stop before that has been done with all the others. The kernel tells a
// tracer of stops whatever it asks for; a stop that is taken here would be missed
// where it is waited for. So it looks first, and an end stays one.
func (p *proc) reap() {
	const exited, dumped = 1, 3 // CLD_EXITED, CLD_KILLED, CLD_DUMPED
	const ends = unix.WEXITED | unix.WNOHANG | unix.WALL
	list := p.threads
	if p.guard != nil {
		list = p.guard.list
	}
	for _, t := range list {
		var info unix.Siginfo
		if unix.Waitid(unix.P_PID, t.tid, &info, ends|unix.WNOWAIT, nil) == nil && info.Code >= exited && info.Code <= dumped {
			_ = unix.Waitid(unix.P_PID, t.tid, nil, ends, nil)
		}
	}
}

// debt bounds the waiting for the ends of threads that were killed, or that an
// exec ends, while they were seized. On a busy machine that takes its time.
const debt = 3 * time.Second

// settle does what a tracer owes to threads that it has seized and that were
// neither let go nor seen to end. Until it has taken note of the end of a thread,
// the kernel keeps the thread, and with it the process: whoever started it would
// wait for its end for as long as the tracer lives. After an exec one thread has
// the number of the process, under which it may never have been seized.
func (p *proc) settle(keep *thread) {
	for limit := time.Now().Add(debt); ; {
		if s, err := readStatus(p.path("status")); err == nil && s.tracer == unix.Gettid() && p.guard == nil {
			p.seizing(p.pid)
		}
		owed := 0
		for tid := range p.seized {
			switch {
			case keep != nil && tid == keep.tid:
			case p.settled(tid):
				delete(p.seized, tid)
			default:
				owed++
			}
		}
		if owed == 0 || time.Now().After(limit) {
			return
		}
		ts := unix.NsecToTimespec(int64(stopPoll))
		unix.Nanosleep(&ts, nil)
	}
}

// settled reports whether nothing is owed to a thread any more, or nothing that
// can be given: the end of the first thread is told when all others have ended.
func (p *proc) settled(tid int) bool {
	ws, got, err := nextStop(tid)
	switch {
	case err == unix.EINTR:
		return false
	case err != nil, got && (ws.Exited() || ws.Signaled()):
		return true
	case got && int(ws)>>16 == unix.PTRACE_EVENT_CLONE: // the new thread is traced, too
		if started, err := startedBy(tid); err == nil {
			p.seizing(started)
		}
		return false
	case got:
		signal := uintptr(0)
		if receives(tid, ws) {
			signal = uintptr(ws.StopSignal())
		}
		return ptraceWord(unix.PTRACE_DETACH, tid, 0, signal) == nil
	}
	s, err := readStatus(fmt.Sprintf("/proc/%d/status", tid))
	switch {
	case err != nil, s.tracer != unix.Gettid():
		return true
	case s.state == 'Z':
		return tid == p.pid && p.lives()
	case ptraceWord(unix.PTRACE_DETACH, tid, 0, 0) == nil:
		return true
	}
	_ = ptraceWord(unix.PTRACE_INTERRUPT, tid, 0, 0) // it runs, or it is ending
	return false
}
