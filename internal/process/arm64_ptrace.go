//go:build linux && arm64

package process

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Register sets, by their notes in core files (include/uapi/linux/elf.h).
const (
	ntPrstatus      = 1
	ntPrfpreg       = 2
	ntArmTLS        = 0x401
	ntArmSystemCall = 0x404
	ntArmSVE        = 0x405
	ntArmPACMask    = 0x406
	ntArmSSVE       = 0x40b
	ntArmPOE        = 0x40f
	ntArmGCS        = 0x410

	prstatusSize = 34 * 8
	maxSVE       = sveHeader + 32*maxVL + 17*maxVL/8 + 64
)

// trapCode is the si_code of what a breakpoint raises: TRAP_BRKPT.
const trapCode = 1

// rankOfCall says what a thread suffers that waits in a system call.
func rankOfCall(nr int) int {
	switch nr {
	case unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_FUTEX, unix.SYS_RESTART_SYSCALL:
		return rankLate
	case unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_PWAIT2, unix.SYS_SEMOP, unix.SYS_SEMTIMEDOP,
		unix.SYS_RT_SIGTIMEDWAIT, unix.SYS_RECVFROM, unix.SYS_RECVMSG:
		return rankInterrupted
	}
	return rankRestarts
}

// regset reads a register set, as much of it as there is.
func (t *thread) regset(note int, b []byte) ([]byte, error) {
	iov := unix.Iovec{Base: &b[0], Len: uint64(len(b))}
	err := ptrace(unix.PTRACE_GETREGSET, t.tid, uintptr(note), unsafe.Pointer(&iov))
	return b[:iov.Len], err
}

func (t *thread) setRegset(note int, b []byte) error {
	iov := unix.Iovec{Base: &b[0], Len: uint64(len(b))}
	return ptrace(unix.PTRACE_SETREGSET, t.tid, uintptr(note), unsafe.Pointer(&iov))
}

func (t *thread) getRegs() error {
	b, err := t.regset(ntPrstatus, make([]byte, prstatusSize))
	var tp []byte
	if err == nil {
		tp, err = t.regset(ntArmTLS, make([]byte, 8))
	}
	if err == nil && (len(b) != prstatusSize || len(tp) != 8) {
		// A 32-bit program has fewer registers.
		t.regs = registers{PState: psrMode32}
		return nil
	}
	if err != nil {
		return fmt.Errorf("read registers of thread %d: %w", t.tid, err)
	}
	le := binary.LittleEndian
	for i := range t.regs.X {
		t.regs.X[i] = le.Uint64(b[8*i:])
	}
	t.regs.SP, t.regs.PC, t.regs.PState = le.Uint64(b[248:]), le.Uint64(b[256:]), le.Uint64(b[264:])
	t.regs.tp = le.Uint64(tp)
	return nil
}

// setRegs sets all but the thread register. A system call whose entry or exit the
// thread stands at is forgotten: it is neither made nor started again.
func (t *thread) setRegs(r *registers) error {
	var b []byte
	for _, v := range append(r.X[:], r.SP, r.PC, r.PState) {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	err := t.setRegset(ntPrstatus, b)
	if err == nil {
		err = t.setRegset(ntArmSystemCall, []byte{0xff, 0xff, 0xff, 0xff})
	}
	if err != nil {
		return fmt.Errorf("set registers of thread %d: %w", t.tid, err)
	}
	return nil
}

// vectors reads what a thread has beside its general registers.
func (t *thread) vectors() (s vectorState, err error) {
	if s.simd, err = t.regset(ntPrfpreg, make([]byte, simdSize)); err != nil {
		return s, fmt.Errorf("read SIMD registers of thread %d: %w", t.tid, err)
	}
	for _, set := range []struct {
		note, size int
		to         *[]byte
	}{{ntArmSVE, maxSVE, &s.sve}, {ntArmPOE, 8, &s.poe}} {
		switch b, err := t.regset(set.note, make([]byte, set.size)); {
		case err == nil:
			*set.to = b
		case !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENODEV):
			return s, fmt.Errorf("read register set %#x of thread %d: %w", set.note, t.tid, err)
		}
	}
	return s, nil
}

// callNumber is that of the system call at whose entry a thread has stopped.
func (t *thread) callNumber() (int64, error) {
	b, err := t.regset(ntArmSystemCall, make([]byte, 4))
	if err != nil {
		return 0, fmt.Errorf("read the system call of thread %d: %w", t.tid, err)
	}
	return int64(int32(binary.LittleEndian.Uint32(b))), nil
}

// inRestartBlock reports whether the thread may wait in a call with a restart block.
func (t *thread) inRestartBlock() bool { return t.regs.inRestartBlock(t.p.atSyscall(t)) }

// cannotReturn says why a system call made for the thread would not leave it as it
// is; empty if it would.
func (t *thread) cannotReturn() string {
	if b, err := t.regset(ntArmSSVE, make([]byte, sveHeader)); err == nil && len(b) == sveHeader {
		if s := (vectorState{sve: b}); s.hasSVE() {
			return "it is in streaming mode"
		}
	}
	return ""
}

// shadowStack reports whether returns are compared with a stack that the thread
// cannot write (guarded control stack).
func (t *thread) shadowStack() bool {
	const enabled = 1
	b, err := t.regset(ntArmGCS, make([]byte, 24))
	return err == nil && len(b) == 24 && b[0]&enabled != 0
}

// outOfCall brings a thread that stands at the end of a system call to where its
// registers are what they will be in user mode: it stands there.
func (t *thread) outOfCall(deadline time.Time) error {
	if err := ptraceWord(unix.PTRACE_INTERRUPT, t.tid, 0, 0); err != nil {
		return err
	}
	for signal := 0; ; signal, t.signal = t.signal, 0 {
		if err := t.resume(unix.PTRACE_CONT, signal); err != nil {
			return err
		}
		if err := t.waitStop(deadline); err != nil {
			return err
		}
		if t.signal == 0 {
			return t.getRegs()
		}
	}
}

// signedBits are the bits of a return address that hold its signature, and those
// above, of which none is set in an address of the program.
func (t *thread) signedBits() uint64 {
	const top = 0xff << 56
	b, err := t.regset(ntArmPACMask, make([]byte, 16))
	if err != nil || len(b) != 16 {
		return 0
	}
	return binary.LittleEndian.Uint64(b[8:]) | top
}

// frameFor returns the frame that brings a thread of this processor back. Its
// restorer is in a register.
func frameFor(regs *registers, state vectorState, mask, _ uint64) (addr uint64, frame []byte, err error) {
	return signalFrame(regs, state, mask)
}
