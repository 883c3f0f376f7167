//go:build linux && (amd64 || arm64)

package process

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Passes over the thread list. A thread that is found by a later one was started
// after the first began; it has never executed what was there before.
const maxPasses = 3

// Threads that are asked to stop together. Those that run have to be scheduled
// before they stop, which they do at the same time then; but those that sleep stop
// at once and wait for their turn.
const maxBatch = 16

// visit stops every thread of a process, each for as long as look takes: at no
// moment do all of them stand still, unless there is one only. Every thread goes
// back to user mode by an exception return or through the scheduler and has then
// executed a serialising instruction. A thread that look calls busy, or on a
// foreign stack, is seen again until the limit.
func (p *proc) visit(limit time.Time, look func(t *thread) error) error {
	seen := map[int]bool{}
	for pass := 0; ; pass++ {
		tids, err := p.tids()
		if err != nil {
			return err
		}
		size := min(max(1, len(tids)/2), maxBatch)
		fresh := slices.DeleteFunc(tids, func(tid int) bool { return seen[tid] })
		var busy error
		for batch := range slices.Chunk(fresh, size) {
			switch err := p.see(batch, seen, look); {
			case transient(err):
				busy = err
			case err != nil:
				return err
			}
		}
		switch {
		case busy != nil && time.Now().After(limit):
			return busy
		case busy != nil:
			p.attendAll()
			time.Sleep(stopPoll)
		case len(fresh) == 0 && len(seen) == 0:
			return p.lost()
		case len(fresh) == 0 || pass+1 >= maxPasses:
			p.counted = len(seen)
			return p.same()
		}
	}
}

// transient reports whether a thread may be in another state soon.
func transient(err error) bool {
	return errors.As(err, new(*BusyError)) || errors.As(err, new(*foreignError))
}

// see asks some threads to stop, shows each to look when it does, and lets it go
// on at once. Those that need not be seen again are noted. The error is that of
// one which has to be.
func (p *proc) see(tids []int, seen map[int]bool, look func(t *thread) error) (busy error) {
	defer p.release()
	for _, tid := range tids {
		t, err := p.seizeThread(tid)
		if err != nil {
			return err
		}
		if t == nil {
			seen[tid] = true
			continue
		}
		p.threads = append(p.threads, t)
		t.ran = time.Now()
		if err := t.interrupt(); err != nil && !errors.Is(err, errGone) {
			return fmt.Errorf("stop thread %d of process %d: %w", tid, p.pid, err)
		}
	}
	late := time.Now().Add(p.opt.maxPause())
	for spins := 0; len(p.threads) > 0; spins++ {
		for _, t := range slices.Clone(p.threads) {
			switch err := p.seeStopped(t, look); {
			case err == nil, errors.Is(err, errGone):
				seen[t.tid] = true
			case transient(err):
				busy = err
			case errors.Is(err, errLate) && time.Now().After(late):
				return &BusyError{PID: p.pid, Thread: t.tid, Reason: "does not stop" + p.waitingFor(t.tid)}
			case errors.Is(err, errLate) && spins%looksAfter == looksAfter-1 && !t.held():
				p.drop(t)
				seen[t.tid] = true
			case errors.Is(err, errLate):
			default:
				return fmt.Errorf("process %d: %w", p.pid, err)
			}
		}
		p.pace(spins)
	}
	return busy
}

// seeStopped shows a thread to look, if it has stopped, and lets it go on. While
// it has not, the error is errLate.
func (p *proc) seeStopped(t *thread, look func(t *thread) error) error {
	now := time.Now()
	err := t.waitStop(time.Time{}) // that is, it does not wait
	if errors.Is(err, errLate) {
		t.ran = now
		return err
	}
	if err == nil {
		err = look(t)
	}
	if errors.Is(err, errGone) {
		p.drop(t)
		return err
	}
	gone := t.detach()
	p.longest = max(p.longest, time.Since(t.ran))
	if gone == nil {
		p.threads = slices.DeleteFunc(p.threads, func(o *thread) bool { return o == t })
	} else {
		p.drop(t)
	}
	return err
}

// pace passes the time between two looks at threads that are about to stop.
func (p *proc) pace(spins int) {
	p.attendAll()
	if spins < spinsBefore {
		unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		return
	}
	if spins%looksAfter == 0 {
		p.reap()
	}
	ts := unix.NsecToTimespec(int64(stopPoll))
	unix.Nanosleep(&ts, nil)
}

// withMain stops the first thread of a process while do runs. Loaders exclude
// each other by that: each holds this thread when it begins a change.
func (p *proc) withMain(do func() error) error {
	var inner error
	done := false
	err := p.see([]int{p.pid}, map[int]bool{}, func(*thread) error {
		inner, done = do(), true
		return nil
	})
	switch {
	case err != nil:
		return errors.Join(inner, err)
	case !done:
		return p.lost()
	}
	return inner
}
