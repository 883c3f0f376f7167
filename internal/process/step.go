//go:build linux && amd64

package process

import (
	"bytes"
	"time"

	"golang.org/x/sys/unix"

	"livepatch/internal/live"
)

// maxSteps bounds the instructions that one thread is stepped in one try.
const maxSteps = 256

// stepOut runs a thread, alone and instruction by instruction, until it has
// left the ranges. A thread that calls a small function all the time is nearly
// always stopped in it; a few instructions later it has returned. It gives up
// at a system call, at a signal, after maxSteps, or when the time is over; the
// thread then stands where it came to, as if it had been stopped there.
func (c *checker) stepOut(t *thread, limit time.Time) (hit live.Hit, inside bool, err error) {
	for range maxSteps {
		hit, inside = c.ranges.PC(t.regs.Rip)
		if !inside || t.signal != 0 || t.grouped || c.p.atSyscall(t) || time.Now().After(limit) {
			return hit, inside, nil
		}
		if err := t.step(limit); err != nil {
			return hit, true, err
		}
	}
	hit, inside = c.ranges.PC(t.regs.Rip)
	return hit, inside, nil
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

// step runs one instruction. If a signal comes instead, it is kept.
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
