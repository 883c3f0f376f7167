package process

// A thread that runs a system call on our behalf must come back to where it was
// even if the loader dies in between. So, before its registers are touched, a
// signal frame as the kernel makes it for a handler is built below the end of its
// stack. It holds all registers, vector registers and the signal mask. The thread
// then starts at an instruction that enters the kernel, with its stack pointer at
// the frame: whenever nobody intervenes, a return behind that instruction takes it
// to a call of rt_sigreturn, which puts everything back.
//
// On every machine rt_sigreturn does two things that one might not expect:
//   - it replaces the thread's restart block, so a call that would be resumed by
//     restart_syscall (-ERESTART_RESTARTBLOCK) would not go on as it should:
//     threads in such calls are not used;
//   - it sets the alternate signal stack from the frame, unless the flags are
//     invalid, which it passes over silently: so they are.

// invalidStackFlags is no mode of sigaltstack.
const invalidStackFlags = 0x40

// Results of interrupted system calls that only the kernel and tracers see
// (include/linux/errno.h).
const (
	errRestartSys    = -512
	errRestartNoIntr = -513
	errRestartNoHand = -514
	errRestartBlock  = -516
)

// gadgets are the addresses of that code in the target.
type gadgets struct {
	syscall, sigreturn uint64
	slack              uint64 // where both were written for want of it, 0 otherwise
}
