package process

import (
	"encoding/binary"
	"fmt"
)

// A thread that runs a system call on our behalf must come back to where it was
// even if the loader dies in between. So, before its registers are touched, a
// signal frame as the kernel makes it for a handler (struct rt_sigframe,
// arch/x86/include/asm/sigframe.h) is built below the red zone of its stack. It
// holds all registers, the extended state and the signal mask. The thread then
// starts at `syscall; ret` with its stack pointer at the frame: whenever nobody
// intervenes, `ret` takes it to `mov $15,%eax; syscall`, and rt_sigreturn puts
// everything back.
//
// What rt_sigreturn does that one might not expect (arch/x86/kernel/signal_64.c,
// fpu/signal.c):
//   - it replaces the thread's restart block, so a call that would be resumed by
//     restart_syscall (-ERESTART_RESTARTBLOCK) would return EINTR: threads in
//     such calls are not used;
//   - it sets the alternate signal stack from the frame, unless the flags are
//     invalid, which it passes over silently: so they are;
//   - without extended state in the frame it resets the FPU: so it is there, with
//     both magic numbers, and no longer than the thread's own features need;
//   - it does not restore fs_base and gs_base, which no injected call changes.

// registers is struct user_regs_struct of x86-64.
type registers struct {
	R15, R14, R13, R12, Rbp, Rbx, R11, R10, R9, R8, Rax, Rcx, Rdx, Rsi, Rdi uint64
	OrigRax, Rip, Cs, Eflags, Rsp, Ss, FsBase, GsBase, Ds, Es, Fs, Gs       uint64
}

// general returns the registers that may hold addresses of code.
func (r *registers) general() [15]uint64 {
	return [...]uint64{r.R15, r.R14, r.R13, r.R12, r.Rbp, r.Rbx, r.R11, r.R10, r.R9, r.R8, r.Rax, r.Rcx, r.Rdx, r.Rsi, r.Rdi}
}

// Results of interrupted system calls that only the kernel and tracers see
// (include/linux/errno.h).
const (
	errRestartSys     = -512
	errRestartNoIntr  = -513
	errRestartNoHand  = -514
	errRestartBlock   = -516
	syscallLength     = 2 // bytes of the syscall instruction
	redZone           = 128
	cs64              = 0x33
	sysRtSigreturn    = 15
	sysPoll           = 7
	flagTrap          = 1 << 8
	flagDirection     = 1 << 10
	minXstate         = 576 // legacy area and header
	xstateHeader      = 512
	swReserved        = 464 // software's part of the legacy area
	fpXstateMagic1    = 0x46505853
	fpXstateMagic2    = 0x46505845
	ucFlags           = 1 | 2 | 4 // UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS
	invalidStackFlags = 0x40      // no mode of sigaltstack
	featurePKRU       = 9
	maxFeatures       = 63
	frameSize         = 8 + 304 + 128 // return address, ucontext, siginfo
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
func signalFrame(regs *registers, xstate []byte, mask, restorer uint64, features *xsaveLayout) (addr uint64, frame []byte, err error) {
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
func sigframeState(xstate []byte, features *xsaveLayout) ([]byte, error) {
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

// sameState reports whether two register sets hold the same extended state:
// all but the software's bytes and the header, in which the processor may say
// of a feature in its initial state either way.
func sameState(a, b []byte) bool {
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
