//go:build linux && amd64

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
	t, err := p.seize(tid)
	switch {
	case err == nil:
		return t, nil
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
	case s.tracer != 0:
		return nil, refusal.New(refusal.AlreadyTraced, p.where(), "process %d (%s) traces thread %d", s.tracer, commandOf(s.tracer), tid)
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

// drop forgets a thread that has ended.
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
func (p *proc) release() {
	var gone []*thread
	for _, t := range p.threads {
		// There is nothing to be done about one that cannot be released while
		// we live.
		if err := t.detach(); errors.Is(err, errGone) {
			gone = append(gone, t)
		}
	}
	p.threads = nil
	if p.missed || len(gone) > 0 {
		p.missed = false
		p.afterExec(gone)
	}
}

// reap takes note of the ends of seized threads. One that starts another program
// cannot stop before that has been done with all the others.
func (p *proc) reap() {
	for _, t := range p.threads {
		_ = unix.Waitid(unix.P_PID, t.tid, nil, unix.WEXITED|unix.WNOHANG|unix.WALL, nil)
	}
}

// afterExec does what a tracer has to when a process starts another program, or
// ends, while threads are seized: it takes note of the ends of the other
// threads, for which the kernel waits, and lets the one go that has become the
// first, under whose number it was never waited for.
func (p *proc) afterExec(gone []*thread) {
	limit := time.Now().Add(patience)
	for _, t := range gone {
		if t.tid != p.pid { // the end of the first one is told last
			_, _ = t.wait(limit)
		}
	}
	for time.Now().Before(limit) {
		s, err := readStatus(p.path("status"))
		if err != nil || s.tracer != unix.Gettid() {
			return
		}
		t := &thread{p: p, tid: p.pid}
		if err := t.waitStop(limit); err == nil || errors.Is(err, errExec) {
			_ = t.detach()
		}
	}
}
