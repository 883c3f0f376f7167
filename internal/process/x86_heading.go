//go:build linux && amd64

package process

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"

	"livepatch/internal/live"
	"livepatch/trampoline"
)

// Threads that meet a breakpoint are often stopped on their way: with the signal
// pending, about to receive it, in the handler, or on the way back. Where they
// stand then says nothing; what counts is where they go on.

const (
	sigTrap = int32(unix.SIGTRAP)

	// struct ucontext of x86-64: registers, in the order of struct sigcontext,
	// and the mask.
	contextRegs = 40
	contextMask = 296
	contextSize = contextMask + 8
)

// heading sets t.regs to those with which the thread goes on behind the handlers
// of breakpoints that are known. moved is true if that is not where it stands;
// mask is its signal mask there. A *BusyError says that it cannot be told now.
func (p *proc) heading(t *thread) (moved bool, mask uint64, err error) {
	if err := t.getRegs(); err != nil {
		return false, 0, err
	}
	for _, trap := range p.traps {
		if trap.Contains(t.regs.Rip) {
			mask, err = p.leaveHandler(t, trap)
			return true, mask, err
		}
	}
	if mask, err = t.sigmask(); err != nil {
		return false, 0, err
	}
	if to, ok := p.breakpoint(t); ok {
		t.regs.Rip = to
		return true, mask, nil
	}
	return false, mask, nil
}

// leaveHandler reads the registers and the mask that a thread in the handler goes
// on with from its signal frame.
func (p *proc) leaveHandler(t *thread, trap *live.Trap) (mask uint64, err error) {
	var context uint64
	switch at := t.regs.Rip - trap.Base - live.TrapCode; {
	case at < trampoline.X86TrapOther:
		context = t.regs.Rsp + 8 // behind the return address
	case at >= trampoline.X86TrapRestorer:
		context = t.regs.Rsp
	default: // it makes system calls, or gives the signal to another handler
		return 0, &BusyError{PID: p.pid, Thread: t.tid, Reason: "is in the handler of breakpoints"}
	}
	b := make([]byte, contextSize)
	if err := p.readMem(b, context); err != nil {
		return 0, err
	}
	r, le := &t.regs, binary.LittleEndian
	for i, to := range []*uint64{
		&r.R8, &r.R9, &r.R10, &r.R11, &r.R12, &r.R13, &r.R14, &r.R15,
		&r.Rdi, &r.Rsi, &r.Rbp, &r.Rbx, &r.Rdx, &r.Rax, &r.Rcx, &r.Rsp, &r.Rip, &r.Eflags,
	} {
		*to = le.Uint64(b[contextRegs+8*i:])
	}
	if to, ok := trap.Detour(r.Rip); ok {
		r.Rip = to
	}
	return le.Uint64(b[contextMask:]), nil
}

// trapped reports whether a stopped thread is about to receive, or has still to
// receive, a SIGTRAP that an instruction has raised.
func (t *thread) trapped() bool {
	if t.signal == int(sigTrap) {
		var info siginfo
		return ptrace(unix.PTRACE_GETSIGINFO, t.tid, 0, unsafe.Pointer(&info)) == nil && info.code == trapCode
	}
	const most = 8
	var list [most]siginfo
	for off := uint64(0); ; off += most {
		ask := struct {
			off        uint64
			flags, num int32
		}{off, 0, most}
		n, _, e := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_PEEKSIGINFO, uintptr(t.tid),
			uintptr(unsafe.Pointer(&ask)), uintptr(unsafe.Pointer(&list[0])), 0, 0)
		if e != 0 || n == 0 {
			return false
		}
		for _, info := range list[:n] {
			if info.signo == sigTrap && info.code == trapCode {
				return true
			}
		}
	}
}

// breakpoint returns where a thread goes on that is about to receive the signal of a
// breakpoint. Its registers have been read.
func (p *proc) breakpoint(t *thread) (to uint64, ok bool) {
	for _, trap := range p.traps {
		if to, ok := trap.Detour(t.regs.Rip); ok && t.trapped() {
			return to, true
		}
	}
	return 0, false
}

// trapSites are the places at which threads may meet a breakpoint while code is
// changed.
func trapSites(edits []trampoline.Edit) []trampoline.TrapSite { return trampoline.X86TrapSites(edits) }

// trapHandler returns the handler for them, and the place in it where a thread
// leaves it.
func trapHandler(sites []trampoline.TrapSite, previous live.Action) (code []byte, restorer uint64) {
	return trampoline.X86TrapHandler(sites, previous.Handler, previous.Mask), trampoline.X86TrapRestorer
}

// trapFunctions are those of the handler, by place in its code, and how the caller
// of the first one is found. Debuggers know a signal frame by the code that leaves
// it, if that has no other name than this one.
func trapFunctions() ([]Function, []trampoline.Row) {
	const leaves = trampoline.X86TrapRestorer
	return []Function{
		{"livepatch@breakpoint", 0, trampoline.X86TrapEnd}, {"__restore_rt", leaves, trampoline.X86TrapData - leaves},
	}, trampoline.X86TrapRows()
}
