//go:build arm64

package process

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
)

// Signal frames of arm64 (struct rt_sigframe, arch/arm64/kernel/signal.c;
// arch/arm64/include/uapi/asm/sigcontext.h). No return address is in it: `ret` behind
// `svc` takes that of `mov x8, #139; svc` from x30. The procedure call standard
// leaves nothing below the stack pointer to functions.
//
// Registers are followed by records, each of a magic number, a size and data:
//   - FPSIMD, without which rt_sigreturn kills the program;
//   - SVE, if the thread has such state: a system call drops all of it but what the
//     SIMD registers hold, and so does rt_sigreturn without this record;
//   - POE, where the processor has permission overlays, whose register rt_sigreturn
//     sets in any case.
//
// What does not fit into the 4,096 bytes of the frame is announced by a record EXTRA
// and follows it. Matrix state (ZA, ZT0) and TPIDR2 stay as they are without a
// record, and no injected call changes them. A thread in streaming mode is not used:
// a system call ends that mode.
//
// System calls (arch/arm64/kernel/signal.c, ptrace.c, syscall.c):
//   - A thread that is interrupted in one that the kernel starts again has been put
//     before the instruction when a tracer sees it, with its first argument in x0,
//     whatever the reason; the kernel remembers for itself whether restart_syscall
//     is to be called instead, and does so only if the tracer leaves pc alone. So a
//     thread with a restart block is known by the call that it stands before.
//   - At the stops at entry and exit x7 says which it is, 0 or 1. Its value comes back
//     when the thread goes on; what a tracer writes is lost.

// registers is struct user_pt_regs with tpidr_el0, the thread register.
type registers struct {
	X      [31]uint64
	SP, PC uint64
	PState uint64
	tp     uint64
}

const (
	syscallLength = 4 // bytes of the svc instruction
	redZone       = 0

	// Bits of pstate.
	psrMode32 = 1 << 4
	psrSS     = 1 << 21 // a step
	psrBType  = 3 << 10 // kind of the branch that led here

	// System calls with a restart block (kernel/time, kernel/futex), and arguments
	// with which they have none.
	sysNanosleep      = 101
	sysFutex          = 98
	sysClockNanosleep = 115
	sysRestartSyscall = 128
	timerAbsolute     = 1
	futexCommand      = 0x7f
	futexWait         = 0

	linkRegister = 30
)

func (r *registers) pc() uint64     { return r.PC }
func (r *registers) setPC(v uint64) { r.PC = v }
func (r *registers) sp() uint64     { return r.SP }

// tls is where the thread control block is.
func (r *registers) tls() uint64 { return r.tp }

// general returns the registers that may hold addresses of code.
func (r *registers) general() [31]uint64 { return r.X }

// dwarf returns the registers in the order of their numbers in DWARF.
func (r *registers) dwarf() []uint64 { return append(r.X[:], r.SP) }

// inCall reports whether the thread was stopped in a system call. It never is seen
// so: it stands before the call, or behind.
func (r *registers) inCall() bool { return false }

// result is that of a system call that has ended.
func (r *registers) result() uint64 { return r.X[0] }

// callEnded reports, at a stop of a system call, whether that is over.
func (r *registers) callEnded() bool {
	const exit = 1
	v := int64(r.X[0])
	return r.X[7] == exit && (v > errRestartSys || v < errRestartBlock)
}

// foreignMode reports whether the thread runs code of another machine.
func (r *registers) foreignMode() bool { return r.PState&psrMode32 != 0 }

// inRestartBlock reports whether the thread may wait in a system call that only
// restart_syscall can resume: it knows how much of the time is left. One that is
// about to make such a call is taken for one that waits in it. standing says
// whether the thread stands before a system call.
func (r *registers) inRestartBlock(standing bool) bool {
	if !standing {
		return false
	}
	switch uint32(r.X[8]) {
	case sysNanosleep, sysRestartSyscall:
		return true
	case sysClockNanosleep:
		return r.X[1]&timerAbsolute == 0
	case sysFutex:
		return r.X[1]&futexCommand == futexWait && r.X[3] != 0
	}
	return false
}

// restarted returns the registers with which the thread continues by itself. The
// kernel has made them so already.
func (r registers) restarted() registers { return r }

// calling are the registers with which a thread makes a system call: it starts at
// the instruction for it and finds its way back through the frame.
func (r registers) calling(g gadgets, frame, nr uint64, args ...uint64) registers {
	r.PC, r.SP, r.X[8], r.X[linkRegister] = g.syscall, frame, nr, g.sigreturn
	r.PState &^= psrBType | psrSS
	copy(r.X[:6], args)
	return r
}

// running are the registers of a thread that is about to run code as if that were a
// signal handler, which returns by the link register.
func (r registers) running(g gadgets, frame, code uint64) registers {
	r = r.calling(g, frame, 0)
	r.PC = code
	return r
}

// leaving are the registers with which a thread makes its last system call.
func (r registers) leaving(g gadgets, nr, arg uint64) registers {
	r.PC, r.X[8], r.X[0] = g.syscall, nr, arg
	r.PState &^= psrBType | psrSS
	return r
}

// cameBack reports whether a thread that is at the end of rt_sigreturn has the
// registers that it shall go on with. Its x7 is not to be seen there.
func (r registers) cameBack(saved registers) bool {
	r.X[7] = saved.X[7]
	return r == saved
}

// vectorState is what a thread has beside its general registers, as
// PTRACE_GETREGSET returns it.
type vectorState struct {
	simd []byte // struct user_fpsimd_state
	sve  []byte // struct user_sve_header and, if it has any, registers; nil without SVE
	poe  []byte // POR_EL0; nil without
}

const (
	simdSize  = 32*16 + 4 + 4 + 8 // registers, fpsr, fpcr, reserved
	simdFPSR  = 32 * 16
	sveHeader = 16 // size, max size (4 each); vl, max vl, flags, reserved (2 each)
	sveVL     = 8
	sveFlags  = 12
	svePTRegs = 1 // flag: SVE registers follow, not SIMD ones
	maxVL     = 256

	// Records of the frame.
	magicFPSIMD = 0x46508001
	magicSVE    = 0x53564501
	magicExtra  = 0x45585401
	magicPOE    = 0x504f4530
	recordHead  = 8
	fpsimdSize  = recordHead + 4 + 4 + 32*16
	extraSize   = 32
	poeSize     = 16
	endSize     = 16 // of the mark behind the last record

	// Offsets in struct rt_sigframe: siginfo (128), ucontext.
	frameFlags    = 128 + 16 + 8 // of the signal stack
	frameMask     = 128 + 40
	frameContext  = 128 + 176
	frameRegs     = frameContext + 8
	frameRecords  = frameContext + 288
	recordsSize   = 4096
	frameFixed    = frameRecords + recordsSize
	maxFrame      = frameFixed + 12<<10 // bytes that a frame and its alignment may take
	stackAlign    = 16
	bytesOfVector = 8 // bits of a predicate for one byte
)

// sveRegsSize is the bytes of Z, P and FFR registers of a vector length.
func sveRegsSize(vl int) int { return 32*vl + 17*vl/bytesOfVector }

// signalFrame returns the bytes of a frame that restores regs, state and mask, and the
// address they belong at.
func signalFrame(regs *registers, state vectorState, mask uint64) (addr uint64, frame []byte, err error) {
	fpsimd, sve, err := state.records()
	if err != nil {
		return 0, nil, err
	}
	inside := len(fpsimd)+len(sve)+endSize <= recordsSize
	size := frameFixed
	if !inside {
		size = max(size, frameRecords+len(fpsimd)+extraSize+2*endSize+len(sve))
	}
	addr = (regs.SP - uint64(size)) &^ (stackAlign - 1)
	frame = make([]byte, frameRecords, size)
	le := binary.LittleEndian
	le.PutUint32(frame[frameFlags:], invalidStackFlags)
	le.PutUint64(frame[frameMask:], mask)
	for i, v := range regs.X {
		le.PutUint64(frame[frameRegs+8*i:], v)
	}
	for i, v := range []uint64{regs.SP, regs.PC, regs.PState} {
		le.PutUint64(frame[frameRegs+8*(len(regs.X)+i):], v)
	}
	frame = append(frame, fpsimd...)
	if !inside {
		extra := make([]byte, extraSize+endSize)
		putHead(extra, magicExtra, extraSize)
		le.PutUint64(extra[8:], addr+uint64(len(frame)+len(extra)))
		le.PutUint32(extra[16:], uint32(len(sve)+endSize))
		frame = append(frame, extra...)
	}
	frame = append(frame, sve...)
	return addr, append(frame, make([]byte, size-len(frame))...), nil
}

func putHead(b []byte, magic, size uint32) {
	binary.LittleEndian.PutUint32(b, magic)
	binary.LittleEndian.PutUint32(b[4:], size)
}

func (s vectorState) bytes() []byte { return slices.Concat(s.simd, s.sve, s.poe) }

// records returns the records that restore the state: those that always fit into the
// frame, and that of SVE, empty if there is no such state.
func (s *vectorState) records() (fpsimd, sve []byte, err error) {
	if len(s.simd) < simdSize {
		return nil, nil, fmt.Errorf("SIMD registers of %d bytes", len(s.simd))
	}
	fpsimd = make([]byte, recordHead, fpsimdSize+poeSize)
	putHead(fpsimd, magicFPSIMD, fpsimdSize)
	fpsimd = append(append(fpsimd, s.simd[simdFPSR:simdFPSR+8]...), s.simd[:simdFPSR]...)
	if s.poe != nil {
		head := make([]byte, recordHead)
		putHead(head, magicPOE, poeSize)
		fpsimd = append(append(fpsimd, head...), s.poe...)
	}
	if !s.hasSVE() {
		return fpsimd, nil, nil
	}
	le := binary.LittleEndian
	vl := int(le.Uint16(s.sve[sveVL:]))
	n := sveRegsSize(vl)
	if vl == 0 || vl > maxVL || vl%16 != 0 || len(s.sve) < sveHeader+n {
		return nil, nil, fmt.Errorf("SVE registers of %d bytes for vectors of %d", len(s.sve), vl)
	}
	sve = make([]byte, alignUp(uint64(sveHeader+n), stackAlign))
	putHead(sve, magicSVE, uint32(len(sve)))
	le.PutUint16(sve[recordHead:], uint16(vl))
	copy(sve[sveHeader:], s.sve[sveHeader:sveHeader+n])
	return fpsimd, sve, nil
}

// hasSVE reports whether there is more than the SIMD registers hold.
func (s *vectorState) hasSVE() bool {
	return len(s.sve) >= sveHeader && binary.LittleEndian.Uint16(s.sve[sveFlags:])&svePTRegs != 0
}

// sameState reports whether two threads have the same registers.
func sameState(a, b vectorState) bool {
	return bytes.Equal(a.simd, b.simd) && bytes.Equal(a.sve, b.sve) && bytes.Equal(a.poe, b.poe)
}
