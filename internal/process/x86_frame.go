//go:build !arm64

package process

import (
	"encoding/binary"
	"fmt"
)

// Signal frames of x86-64 (struct rt_sigframe, arch/x86/include/asm/sigframe.h).
// The frame starts with the address that `ret` behind `syscall` takes, that of
// `mov $15,%eax; syscall`. What rt_sigreturn does here besides
// (arch/x86/kernel/signal_64.c, fpu/signal.c):
//   - without extended state in the frame it resets the FPU: so it is there, with
//     both magic numbers, and no longer than the thread's own features need;
//   - it does not restore fs_base and gs_base, which no injected call changes.
//
// The frame lies below the 128 bytes that functions may use below their stack
// pointer (System V ABI, 3.2.2).

// registers is struct user_regs_struct of x86-64.
type registers struct {
	R15, R14, R13, R12, Rbp, Rbx, R11, R10, R9, R8, Rax, Rcx, Rdx, Rsi, Rdi uint64
	OrigRax, Rip, Cs, Eflags, Rsp, Ss, FsBase, GsBase, Ds, Es, Fs, Gs       uint64
}

// general returns the registers that may hold addresses of code.
func (r *registers) general() [15]uint64 {
	return [...]uint64{r.R15, r.R14, r.R13, r.R12, r.Rbp, r.Rbx, r.R11, r.R10, r.R9, r.R8, r.Rax, r.Rcx, r.Rdx, r.Rsi, r.Rdi}
}

// dwarf returns the registers in the order of their numbers in DWARF.
func (r *registers) dwarf() []uint64 {
	return []uint64{r.Rax, r.Rdx, r.Rcx, r.Rbx, r.Rsi, r.Rdi, r.Rbp, r.Rsp, r.R8, r.R9, r.R10, r.R11, r.R12, r.R13, r.R14, r.R15}
}

func (r *registers) pc() uint64     { return r.Rip }
func (r *registers) setPC(v uint64) { r.Rip = v }
func (r *registers) sp() uint64     { return r.Rsp }

// tls is where the thread control block is.
func (r *registers) tls() uint64 { return r.FsBase }

// inCall reports whether the thread was stopped in a system call.
func (r *registers) inCall() bool { return int64(r.OrigRax) >= 0 }

// result is that of a system call that has ended.
func (r *registers) result() uint64 { return r.Rax }

// callEnded reports, at a stop of a system call, whether that is over. At the
// entry the result is ENOSYS; a call that is to be restarted is not over.
func (r *registers) callEnded() bool {
	const noSuchCall = -38
	v := int64(r.Rax)
	return v != noSuchCall && (v > errRestartSys || v < errRestartBlock)
}

// foreignMode reports whether the thread runs code of another machine.
func (r *registers) foreignMode() bool { return r.Cs != cs64 }

// calling are the registers with which a thread makes a system call: it starts
// at the instruction for it and finds its way back through the frame.
func (r registers) calling(g gadgets, frame, nr uint64, args ...uint64) registers {
	r.Rip, r.Rsp, r.Rax, r.OrigRax = g.syscall, frame, nr, ^uint64(0)
	r.Eflags &^= flagTrap | flagDirection
	for i, to := range []*uint64{&r.Rdi, &r.Rsi, &r.Rdx, &r.R10, &r.R8, &r.R9} {
		if i < len(args) {
			*to = args[i]
		}
	}
	return r
}

// running returns those of a thread that is about to run code as if that were a
// signal handler: the stack pointer is at the frame, which begins with the address
// to return to.
func (r registers) running(g gadgets, frame, code uint64) registers {
	r = r.calling(g, frame, 0)
	r.Rip, r.Rax = code, 0
	return r
}

// leaving are the registers with which a thread makes its last system call.
func (r registers) leaving(g gadgets, nr, arg uint64) registers {
	r.Rip, r.Rax, r.OrigRax, r.Rdi = g.syscall, nr, ^uint64(0), arg
	return r
}

// cameBack reports whether a thread that is at the end of rt_sigreturn has the
// registers that it shall go on with.
func (r registers) cameBack(saved registers) bool {
	r.OrigRax = saved.OrigRax
	return r == saved
}

const (
	syscallLength  = 2 // bytes of the syscall instruction
	redZone        = 128
	cs64           = 0x33
	sysPoll        = 7
	flagTrap       = 1 << 8
	flagDirection  = 1 << 10
	minXstate      = 576 // legacy area and header
	xstateHeader   = 512
	swReserved     = 464 // software's part of the legacy area
	fpXstateMagic1 = 0x46505853
	fpXstateMagic2 = 0x46505845
	ucFlags        = 1 | 2 | 4 // UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS
	featurePKRU    = 9
	maxFeatures    = 63
	maxXstate      = 16 << 10
	maxFrame       = maxXstate + 1024 // bytes that a frame and its alignment may take
	frameSize      = 8 + 304 + 128    // return address, ucontext, siginfo
)

// inRestartBlock reports whether the thread waits in a system call that only
// restart_syscall can resume: it knows how much of the time is left. A poll
// without time limit can just as well be made anew.
func (r *registers) inRestartBlock() bool {
	return int64(r.OrigRax) >= 0 && int64(r.Rax) == errRestartBlock && !r.endlessPoll()
}

func (r *registers) endlessPoll() bool { return r.OrigRax == sysPoll && int32(r.Rdx) < 0 }

// restarted returns the registers with which the thread continues by itself:
// if it was interrupted in a system call that the kernel would start again,
// it stands before the call.
func (r registers) restarted() registers {
	if int64(r.OrigRax) >= 0 {
		switch v := int64(r.Rax); {
		case v == errRestartSys, v == errRestartNoIntr, v == errRestartNoHand, v == errRestartBlock && r.endlessPoll():
			r.Rax = r.OrigRax
			r.Rip -= syscallLength
		}
	}
	r.OrigRax = ^uint64(0)
	return r
}

// xsaveLayout is where the processor puts each feature in the standard form of
// the XSAVE area (CPUID leaf 0xd).
type xsaveLayout [maxFeatures]struct{ offset, size uint32 }

// signalFrame returns the bytes of a frame that restores regs, xstate (as
// PTRACE_GETREGSET returns it) and mask, and the address they belong at. The
// return address in the frame is that of the code that calls rt_sigreturn.
func signalFrame(regs *registers, xstate vectorState, mask, restorer uint64, features *xsaveLayout) (addr uint64, frame []byte, err error) {
	fp, err := sigframeState(xstate, features)
	if err != nil {
		return 0, nil, err
	}
	fpAddr := (regs.Rsp - redZone - uint64(len(fp))) &^ 63
	addr = (fpAddr-frameSize)&^15 - 8 // as if the handler had just been called
	frame = make([]byte, fpAddr-addr+uint64(len(fp)))
	le := binary.LittleEndian
	at := 0
	put := func(values ...uint64) {
		for _, v := range values {
			le.PutUint64(frame[at:], v)
			at += 8
		}
	}
	put(restorer)
	put(ucFlags, 0, 0, invalidStackFlags, 0) // flags, link, stack
	put(regs.R8, regs.R9, regs.R10, regs.R11, regs.R12, regs.R13, regs.R14, regs.R15)
	put(regs.Rdi, regs.Rsi, regs.Rbp, regs.Rbx, regs.Rdx, regs.Rax, regs.Rcx, regs.Rsp, regs.Rip, regs.Eflags)
	put(regs.Cs&0xffff | regs.Ss&0xffff<<48) // cs, gs, fs, ss
	put(0, 0, mask, 0, fpAddr)               // err, trapno, oldmask, cr2, fpstate
	put(0, 0, 0, 0, 0, 0, 0, 0)
	put(mask)
	copy(frame[fpAddr-addr:], fp)
	return addr, frame, nil
}

// sigframeState turns the XSAVE area of a register set into that of a signal
// frame: cut to the features in use, with the software's bytes and the magic
// number behind it.
func sigframeState(xstate vectorState, features *xsaveLayout) ([]byte, error) {
	if len(xstate) < minXstate {
		return nil, fmt.Errorf("extended state of %d bytes: the processor has no XSAVE", len(xstate))
	}
	le := binary.LittleEndian
	used := le.Uint64(xstate[xstateHeader:])
	// The kernel keeps the protection keys outside the XSAVE area and says
	// nothing of them in its header, but fills in their value.
	if p := features[featurePKRU]; p.size >= 4 && uint64(p.offset)+4 <= uint64(len(xstate)) && le.Uint32(xstate[p.offset:]) != 0 {
		used |= 1 << featurePKRU
	}
	size := uint64(minXstate)
	for i := 2; i < maxFeatures; i++ {
		if used>>i&1 == 0 {
			continue
		}
		f := features[i]
		end := uint64(f.offset) + uint64(f.size)
		if f.size == 0 || end > uint64(len(xstate)) {
			return nil, fmt.Errorf("extended state of %d bytes has the unknown feature %d", len(xstate), i)
		}
		size = max(size, end)
	}
	out := make([]byte, size+4)
	copy(out, xstate[:size])
	le.PutUint64(out[xstateHeader:], used)
	clear(out[xstateHeader+8 : minXstate])
	le.PutUint32(out[swReserved:], fpXstateMagic1)
	le.PutUint32(out[swReserved+4:], uint32(size)+4)
	le.PutUint64(out[swReserved+8:], used|3)
	le.PutUint32(out[swReserved+16:], uint32(size))
	clear(out[swReserved+20 : xstateHeader])
	le.PutUint32(out[size:], fpXstateMagic2)
	return out, nil
}

// vectorState is the extended state of a thread.
type vectorState []byte

func (s vectorState) bytes() []byte { return s }

// sameState reports whether two register sets hold the same extended state:
// all but the software's bytes and the header, in which the processor may say
// of a feature in its initial state either way.
func sameState(a, b vectorState) bool {
	if len(a) != len(b) || len(a) < minXstate {
		return false
	}
	for i := range a {
		if i >= swReserved && i < minXstate {
			continue
		}
		if a[i] != b[i] {
			return false
		}
	}
	return true
}
