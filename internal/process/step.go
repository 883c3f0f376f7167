//go:build linux && amd64

package process

import (
	"bytes"
	"time"

	"golang.org/x/sys/unix"

	"livepatch/internal/live"
)

// maxNudges bounds how often one thread is let run in one try.
const maxNudges = 256

// stepOut runs a thread, alone and for some microseconds at a time, until it
// stands outside the ranges. A thread that calls a small function all the time is
// nearly always stopped in it; let run once more, it stands elsewhere. It gives
// up at a system call, at a signal, after maxNudges, or when the time is over; the
// thread then stands where it came to, as if it had been stopped there.
//
// Single steps would lead out of it for certain. But a thread that is stepped
// stops by a signal, SIGTRAP, and if its tracer dies then, the signal is
// delivered and kills the program.
func (c *checker) stepOut(t *thread, limit time.Time) (hit live.Hit, inside bool, err error) {
	for i := range maxNudges {
		hit, inside = c.ranges.PC(t.regs.Rip)
		if !inside || t.signal != 0 || t.grouped || t.kept || c.p.atSyscall(t) || time.Now().After(limit) {
			return hit, inside, nil
		}
		if err := t.nudge(i, limit); err != nil {
			return hit, true, err
		}
	}
	hit, inside = c.ranges.PC(t.regs.Rip)
	return hit, inside, nil
}

// nudge lets a thread run for a moment, of a length that differs from one time
// to the next.
func (t *thread) nudge(i int, limit time.Time) error {
	const lengths, unit = 16, 500 * time.Nanosecond
	if err := t.resume(unix.PTRACE_CONT, 0); err != nil {
		return err
	}
	for until := time.Now().Add(time.Duration(i%lengths) * unit); time.Now().Before(until); {
	}
	if err := t.interrupt(); err != nil {
		return err
	}
	if err := t.waitStop(limit); err != nil {
		return err
	}
	return t.getRegs()
}

// atSyscall reports whether the thread is about to make a system call, in which
// it could block, or was stopped in one.
func (p *proc) atSyscall(t *thread) bool {
	if int64(t.regs.OrigRax) >= 0 {
		return true
	}
	var code [2]byte
	if p.readMem(code[:], t.regs.Rip) != nil {
		return true
	}
	return bytes.Equal(code[:], []byte{0x0f, 0x05}) || // syscall
		bytes.Equal(code[:], []byte{0x0f, 0x34}) || // sysenter
		bytes.Equal(code[:], []byte{0xcd, 0x80}) // int $0x80
}

// step runs one instruction, of a thread that may die with its tracer. If a
// signal comes instead, it is kept.
func (t *thread) step(limit time.Time) error {
	if err := t.resume(unix.PTRACE_SINGLESTEP, 0); err != nil {
		return err
	}
	ws, err := t.wait(limit)
	if err != nil {
		return err
	}
	t.stopped = true
	if s := ws.StopSignal(); s != unix.SIGTRAP && int(ws)>>16 == 0 {
		t.signal = int(s)
	}
	if err := t.getRegs(); err != nil {
		return err
	}
	if int(ws)>>16 == unix.PTRACE_EVENT_EXEC {
		return errExec
	}
	return nil
}
