//go:build linux && amd64

package process

import (
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// trapCode is the si_code of what a breakpoint raises: SI_KERNEL.
const trapCode = 0x80

// rankOfCall says what a thread suffers that waits in a system call.
func rankOfCall(nr int) int {
	switch nr {
	case unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_POLL, unix.SYS_FUTEX, unix.SYS_RESTART_SYSCALL:
		return rankLate
	case unix.SYS_EPOLL_WAIT, unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_PWAIT2, unix.SYS_SEMOP, unix.SYS_SEMTIMEDOP,
		unix.SYS_RT_SIGTIMEDWAIT, unix.SYS_RECVFROM, unix.SYS_RECVMSG:
		return rankInterrupted
	}
	return rankRestarts
}

// cpuid runs the CPUID instruction.
func cpuid(leaf, subleaf uint32) (a, b, c, d uint32)

// xsaveFeatures asks the processor, which is the target's too.
func xsaveFeatures() *xsaveLayout {
	const leafXsave = 0xd
	l := &xsaveLayout{}
	if top, _, _, _ := cpuid(0, 0); top < leafXsave {
		return l
	}
	low, _, _, high := cpuid(leafXsave, 0)
	supported := uint64(high)<<32 | uint64(low)
	for i := 2; i < maxFeatures; i++ {
		if supported>>i&1 != 0 {
			size, offset, _, _ := cpuid(leafXsave, uint32(i))
			l[i].offset, l[i].size = offset, size
		}
	}
	return l
}

func (t *thread) getRegs() error {
	if err := ptrace(unix.PTRACE_GETREGS, t.tid, 0, unsafe.Pointer(&t.regs)); err != nil {
		return fmt.Errorf("read registers of thread %d: %w", t.tid, err)
	}
	return nil
}

func (t *thread) setRegs(r *registers) error {
	if err := ptrace(unix.PTRACE_SETREGS, t.tid, 0, unsafe.Pointer(r)); err != nil {
		return fmt.Errorf("set registers of thread %d: %w", t.tid, err)
	}
	return nil
}

// vectors reads the extended state.
func (t *thread) vectors() (vectorState, error) {
	const ntX86Xstate = 0x202
	b := make([]byte, maxXstate)
	iov := unix.Iovec{Base: &b[0], Len: uint64(len(b))}
	if err := ptrace(unix.PTRACE_GETREGSET, t.tid, ntX86Xstate, unsafe.Pointer(&iov)); err != nil {
		return nil, fmt.Errorf("read extended state of thread %d: %w", t.tid, err)
	}
	return b[:iov.Len], nil
}

// callNumber is that of the system call at whose entry a thread has stopped.
func (t *thread) callNumber() (int64, error) {
	if err := t.getRegs(); err != nil {
		return 0, err
	}
	return int64(t.regs.OrigRax), nil
}

// inRestartBlock reports whether the thread waits in a call with a restart block.
func (t *thread) inRestartBlock() bool { return t.regs.inRestartBlock() }

// cannotReturn says why a system call made for the thread would not leave it as it
// is; empty if it would.
func (t *thread) cannotReturn() string { return "" }

// shadowStack reports whether returns are compared with a stack that the thread
// cannot write. permit has seen to that.
func (t *thread) shadowStack() bool { return false }

// outOfCall brings a thread that stands at the end of a system call to where its
// registers are what they will be in user mode: it stands there.
func (t *thread) outOfCall(time.Time) error { return nil }

// signedBits are the bits of a return address that hold its signature.
func (t *thread) signedBits() uint64 { return 0 }

// frameFor returns the frame that brings a thread of this processor back.
func frameFor(regs *registers, state vectorState, mask, restorer uint64) (addr uint64, frame []byte, err error) {
	return signalFrame(regs, state, mask, restorer, xsaveFeatures())
}
