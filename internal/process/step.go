//go:build linux && (amd64 || arm64)

package process

import (
	"encoding/binary"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"livepatch/internal/live"
)

// How far one thread is moved in one try.
const (
	maxMoves  = 256 // instructions
	maxNudges = 16
)

// stepOut moves a thread, all others standing, until it is outside the ranges. A
// thread that calls a small function all the time is nearly always stopped in
// it. Instructions that only move registers, or return, are carried out for it; if
// the next one is another, the thread is let run for a moment. It gives up at a
// system call, at a signal, after some tries, or when the time is over; the thread
// then stands where it came to, as if it had been stopped there.
//
// Single steps would be simpler. But a thread that is stepped stops by a signal,
// SIGTRAP, and if its tracer dies then, the signal is delivered and kills the
// program.
func (c *checker) stepOut(t *thread, limit time.Time) (hit live.Hit, inside bool, err error) {
	for nudges := 0; ; nudges++ {
		if err := c.carryOut(t); err != nil {
			return hit, true, err
		}
		hit, inside = c.ranges.PC(t.regs.pc())
		if !inside || nudges == maxNudges || t.signal != 0 || t.grouped || t.kept || c.p.atSyscall(t) || time.Now().After(limit) {
			return hit, inside, nil
		}
		if err := t.nudge(nudges, limit); err != nil {
			return hit, true, err
		}
		switch moved, _, err := c.p.heading(t); {
		case err != nil:
			return hit, true, err
		case moved: // it has met a breakpoint, see thread
			return hit, false, nil
		}
	}
}

// carryOut does for a thread what its next instructions do, as long as they are
// known and it is inside the ranges.
func (c *checker) carryOut(t *thread) error {
	r := t.regs
	for range maxMoves {
		var code [maxInstruction]byte
		if _, inside := c.ranges.PC(r.pc()); !inside || r.inCall() {
			break
		}
		n, _ := c.p.mem.ReadAt(code[:], int64(r.pc()))
		if !r.emulate(code[:n], c.p.word) {
			break
		}
	}
	if r == t.regs {
		return nil
	}
	t.regs = r
	return t.setRegs(&r)
}

// word reads eight bytes of the target.
func (p *proc) word(addr uint64) (uint64, bool) {
	var b [8]byte
	n, _ := p.mem.ReadAt(b[:], int64(addr))
	return binary.LittleEndian.Uint64(b[:]), n == len(b)
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
	return t.waitStop(limit)
}

// atSyscall reports whether the thread is about to make a system call, in which
// it could block, or was stopped in one.
func (p *proc) atSyscall(t *thread) bool {
	if t.regs.inCall() {
		return true
	}
	var code [syscallLength]byte
	return p.readMem(code[:], t.regs.pc()) != nil || entersKernel(code[:])
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
	if s := ws.StopSignal(); int(ws)>>16 == 0 {
		t.signal = int(s)
		if s == unix.SIGTRAP && t.stepped() {
			t.signal = 0
		}
	}
	if err := t.getRegs(); err != nil {
		return err
	}
	if int(ws)>>16 == unix.PTRACE_EVENT_EXEC {
		return errExec
	}
	return nil
}

// stepped reports whether the SIGTRAP that a thread has stopped for is that of the
// step, not of a breakpoint, or sent by somebody.
func (t *thread) stepped() bool {
	var info siginfo
	err := ptrace(unix.PTRACE_GETSIGINFO, t.tid, 0, unsafe.Pointer(&info))
	return err == nil && info.code > 0 && info.code != trapCode
}
