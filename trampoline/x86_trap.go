package trampoline

// The handler of breakpoints of x86-64.
//
// While code is changed, threads that meet a breakpoint get SIGTRAP. This handler
// lies in their process and knows all the breakpoints, so that they are sent on
// whether or not the loader still lives: it looks for the place in a sorted table
// and writes the target into the RIP that the thread goes on with. It makes no
// system call for that, calls nothing, and uses no stack, so it can run in any
// thread, at any place, on a signal stack.
//
// Any other SIGTRAP is given to the action from before: a function is jumped to,
// with the mask that it asked for, but for SIGTRAP itself, which must not be
// blocked where a breakpoint may be. The default action is put back and the signal
// raised again, with all that was known of it; then it ends the process when the
// handler returns, at the very registers. A signal that was ignored is so again,
// unless an instruction has raised it: that the kernel does not ignore.
//
// Offsets are those of siginfo_t (si_code) and ucontext_t (RIP, mask), see
// arch/x86/include/uapi/asm/sigcontext.h and ucontext.h of Linux. The last two
// instructions have the form by which unwinders know a signal frame.

import "encoding/binary"

// Places in the bytes that X86TrapHandler returns; the handler is at the start.
const (
	X86TrapOther    = 0x5c  // up to here the stack pointer is that at the handler's start
	X86TrapEnd      = 0x107 // up to here it is the handler
	X86TrapRestorer = 0x110 // sa_restorer of the handler's action
	X86TrapData     = 0x120 // up to here there is code
	x86TrapOld      = X86TrapData
	x86TrapMask     = x86TrapOld + 8
	x86TrapCount    = x86TrapMask + 8
	x86TrapTable    = 0x160
	x86TrapEntry    = 16 // bytes: address, target

	sigtrapBit = 1 << (5 - 1) // of SIGTRAP in a mask
)

var x86TrapCode = []byte{
	0xf3, 0x0f, 0x1e, 0xfa, // endbr64
	0x8b, 0x46, 0x08, // mov 0x8(%rsi),%eax  ; si_code
	0x3d, 0x80, 0x00, 0x00, 0x00, // cmp $0x80,%eax  ; SI_KERNEL: raised by an instruction
	0x75, 0x4e, // jne other
	0x48, 0x8b, 0x82, 0xa8, 0x00, 0x00, 0x00, // mov 0xa8(%rdx),%rax  ; RIP, behind the breakpoint
	0x48, 0xff, 0xc8, // dec %rax
	0x4c, 0x8d, 0x05, 0x41, 0x01, 0x00, 0x00, // lea table(%rip),%r8
	0x8b, 0x0d, 0x0b, 0x01, 0x00, 0x00, // mov count(%rip),%ecx
	// search:
	0x85, 0xc9, // test %ecx,%ecx
	0x74, 0x33, // je other
	0x41, 0x89, 0xc9, // mov %ecx,%r9d
	0x41, 0xd1, 0xe9, // shr %r9d  ; the middle one
	0x45, 0x89, 0xca, // mov %r9d,%r10d
	0x49, 0xc1, 0xe2, 0x04, // shl $0x4,%r10
	0x4d, 0x01, 0xc2, // add %r8,%r10
	0x49, 0x3b, 0x02, // cmp (%r10),%rax
	0x74, 0x12, // je hit
	0x72, 0x0b, // jb left
	0x4d, 0x8d, 0x42, 0x10, // lea 0x10(%r10),%r8
	0x44, 0x29, 0xc9, // sub %r9d,%ecx
	0xff, 0xc9, // dec %ecx
	0xeb, 0xda, // jmp search
	// left:
	0x44, 0x89, 0xc9, // mov %r9d,%ecx
	0xeb, 0xd5, // jmp search
	// hit:
	0x49, 0x8b, 0x42, 0x08, // mov 0x8(%r10),%rax  ; target
	0x48, 0x89, 0x82, 0xa8, 0x00, 0x00, 0x00, // mov %rax,0xa8(%rdx)  ; go on there
	0xc3, // ret
	// other (X86TrapOther):
	0x48, 0x8b, 0x05, 0xbd, 0x00, 0x00, 0x00, // mov old(%rip),%rax
	0x48, 0x83, 0xf8, 0x01, // cmp $0x1,%rax
	0x77, 0x09, // ja chain
	0x72, 0x48, // jb default
	0x83, 0x7e, 0x08, 0x00, // cmpl $0x0,0x8(%rsi)  ; si_code: sent by somebody?
	0x7f, 0x42, // jg default
	0xc3, // ret
	// chain:
	0x49, 0x89, 0xfc, // mov %rdi,%r12
	0x49, 0x89, 0xf5, // mov %rsi,%r13
	0x49, 0x89, 0xd6, // mov %rdx,%r14
	0x48, 0x8b, 0x82, 0x28, 0x01, 0x00, 0x00, // mov 0x128(%rdx),%rax  ; mask of the thread
	0x48, 0x0b, 0x05, 0x9f, 0x00, 0x00, 0x00, // or mask(%rip),%rax
	0x50,                         // push %rax
	0xb8, 0x0e, 0x00, 0x00, 0x00, // mov $0xe,%eax  ; rt_sigprocmask(SIG_SETMASK, …)
	0xbf, 0x02, 0x00, 0x00, 0x00, // mov $0x2,%edi
	0x48, 0x89, 0xe6, // mov %rsp,%rsi
	0x31, 0xd2, // xor %edx,%edx
	0x41, 0xba, 0x08, 0x00, 0x00, 0x00, // mov $0x8,%r10d
	0x0f, 0x05, // syscall
	0x58,             // pop %rax
	0x4c, 0x89, 0xe7, // mov %r12,%rdi
	0x4c, 0x89, 0xee, // mov %r13,%rsi
	0x4c, 0x89, 0xf2, // mov %r14,%rdx
	0x31, 0xc0, // xor %eax,%eax
	0xff, 0x25, 0x6d, 0x00, 0x00, 0x00, // jmp *old(%rip)
	// default:
	0x49, 0x89, 0xf4, // mov %rsi,%r12
	0xb8, 0x0d, 0x00, 0x00, 0x00, // mov $0xd,%eax  ; rt_sigaction(SIGTRAP, action, 0, 8)
	0xbf, 0x05, 0x00, 0x00, 0x00, // mov $0x5,%edi
	0x48, 0x8d, 0x35, 0x71, 0x00, 0x00, 0x00, // lea action(%rip),%rsi
	0x31, 0xd2, // xor %edx,%edx
	0x41, 0xba, 0x08, 0x00, 0x00, 0x00, // mov $0x8,%r10d
	0x0f, 0x05, // syscall
	0xb8, 0x27, 0x00, 0x00, 0x00, // mov $0x27,%eax  ; getpid()
	0x0f, 0x05, // syscall
	0x41, 0x89, 0xc5, // mov %eax,%r13d
	0xb8, 0xba, 0x00, 0x00, 0x00, // mov $0xba,%eax  ; gettid()
	0x0f, 0x05, // syscall
	0x89, 0xc6, // mov %eax,%esi
	0x44, 0x89, 0xef, // mov %r13d,%edi
	0xba, 0x05, 0x00, 0x00, 0x00, // mov $0x5,%edx
	0x4d, 0x89, 0xe2, // mov %r12,%r10
	0xb8, 0x29, 0x01, 0x00, 0x00, // mov $0x129,%eax  ; rt_tgsigqueueinfo(pid, tid, SIGTRAP, info)
	0x0f, 0x05, // syscall
	0x85, 0xc0, // test %eax,%eax
	0x74, 0x0c, // je sent
	0xba, 0x05, 0x00, 0x00, 0x00, // mov $0x5,%edx
	0xb8, 0xea, 0x00, 0x00, 0x00, // mov $0xea,%eax  ; tgkill(pid, tid, SIGTRAP)
	0x0f, 0x05, // syscall
	// sent:
	0xc3,                                                 // ret
	0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, // padding
	// restorer (X86TrapRestorer):
	0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00, // mov $0xf,%rax  ; rt_sigreturn()
	0x0f, 0x05, // syscall
	0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, // padding
}

// X86TrapRows say how who called the handler is found from its instructions, up to
// X86TrapEnd. The padding behind it is nobody's: it is what stands before the place
// that the handler returns to, and so where unwinders look who called it.
func X86TrapRows() []Row {
	const pushed, popped = 0x8a, 0xa2 // behind these instructions
	return []Row{{}, {Off: pushed, Pushed: 8}, {Off: popped}}
}

// X86TrapHandler returns the handler for breakpoints, sorted by address, with the
// function (0 is SIG_DFL, 1 is SIG_IGN) and the mask of the action to which other
// signals are given. The bytes can lie at any multiple of 16, to be executed there.
func X86TrapHandler(sites []TrapSite, old, mask uint64) []byte {
	b := make([]byte, x86TrapTable+x86TrapEntry*len(sites))
	le := binary.LittleEndian
	copy(b, x86TrapCode)
	le.PutUint64(b[x86TrapOld:], old)
	le.PutUint64(b[x86TrapMask:], mask&^sigtrapBit)
	le.PutUint64(b[x86TrapCount:], uint64(len(sites)))
	for i, s := range sites {
		at := b[x86TrapTable+x86TrapEntry*i:]
		le.PutUint64(at, s.Addr)
		le.PutUint64(at[8:], s.Target)
	}
	return b
}
