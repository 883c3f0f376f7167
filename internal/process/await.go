//go:build linux && (amd64 || arm64)

package process

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// maxAwaited bounds the threads that are watched for their return.
const maxAwaited = 64

// awaitReturn watches threads that wait in calls with a restart block until the
// first one returns to user mode, by itself, and takes that. It returns nil if
// none does before the deadline. Only the one taken stays seized.
func (p *proc) awaitReturn(tids []int, deadline time.Time) (*thread, error) {
	p.threads = nil
	for _, tid := range tids[:min(len(tids), maxAwaited)] {
		t, err := p.seizeThread(tid)
		if err != nil {
			p.release()
			return nil, err
		}
		if t == nil {
			continue
		}
		p.threads = append(p.threads, t)
		if err := p.watch(t, deadline); err != nil {
			p.drop(t)
			_ = t.detach()
		}
	}
	for len(p.threads) > 0 && time.Now().Before(deadline) {
		for _, t := range p.threads {
			switch ok, err := p.returned(t); {
			case errors.Is(err, errGone):
				p.drop(t)
			case err != nil:
				p.release()
				return nil, err
			case ok:
				p.releaseBut(t)
				if err := p.outOfCall(t, deadline); err != nil {
					p.release()
					return nil, err
				}
				return t, nil
			default:
				continue
			}
			break // the list has changed
		}
		ts := unix.NsecToTimespec(int64(stopPoll))
		unix.Nanosleep(&ts, nil)
	}
	p.release()
	return nil, nil
}

// outOfCall brings a thread that has ended a system call to where it can make
// another one.
func (p *proc) outOfCall(t *thread, deadline time.Time) error {
	if err := t.outOfCall(deadline); err != nil {
		return err
	}
	if err := p.suitable(t); err != nil {
		return cannotCall(p.pid, t.tid, err) // it has gone to a signal handler
	}
	return nil
}

// watch stops a thread and lets it run to its next system call stop.
func (p *proc) watch(t *thread, deadline time.Time) error {
	if err := p.standStill(t, deadline); err != nil {
		return err
	}
	return t.resume(unix.PTRACE_SYSCALL, 0)
}

// returned looks whether a watched thread has come to the end of its call.
func (p *proc) returned(t *thread) (bool, error) {
	ws, got, err := nextStop(t.tid)
	switch {
	case err == unix.EINTR, err == nil && !got:
		return false, nil
	case err != nil, ws.Exited(), ws.Signaled():
		delete(p.seized, t.tid)
		return false, errGone
	}
	t.stopped = true
	signal := 0
	switch s := ws.StopSignal(); {
	case int(ws)>>16 == unix.PTRACE_EVENT_EXEC:
		return false, errExec
	case s == unix.SIGTRAP|traceSyscall:
		if err := t.getRegs(); err != nil {
			return false, err
		}
		if t.regs.callEnded() && p.suitable(t) == nil {
			return true, nil
		}
	case int(ws)>>16 == unix.PTRACE_EVENT_STOP:
	default:
		signal = int(s)
	}
	return false, t.pass(unix.PTRACE_SYSCALL, signal)
}
