package unwind

// arm64: "DWARF for the Arm 64-bit Architecture", 4.1: 0 to 30 x0 to x30, 31 sp.
// A function that calls nothing has its return address in x30.
var arm64 = traits{
	sp:     31,
	ra:     30,
	unit:   4,
	leaf:   true,
	before: 4,
	call: func(b []byte) bool {
		w := le.Uint32(b)
		return w>>26 == 0b100101 || // bl
			w&0xfffffc1f == 0xd63f0000 || // blr
			w&0xfefff800 == 0xd63f0800 // blraa, blrab, and with zero
	},
	trap:    func(b []byte) bool { return le.Uint32(b) == 0xd4000001 }, // svc #0
	handled: arm64Handled,
}

// arm64Handled looks at code that the vDSO has without a description: mov x8, #139;
// svc #0. It stands at the stack pointer, where the kernel has put struct rt_sigframe
// (arch/arm64/kernel/signal.c; struct sigcontext of asm/sigcontext.h).
func arm64Handled(u *Unwinder, r *Registers) (*Registers, bool) {
	const (
		code    = 0xd4000001_d2801168
		context = 128 + 176 // behind siginfo, in the ucontext
		first   = context + 8
		kept    = 31 + 2 // x0 to x30, sp, pc
	)
	if v, err := u.word(r.PC); err != nil || v != code {
		return nil, false
	}
	sp, err := r.value(31)
	if err != nil {
		return nil, false
	}
	next := &Registers{}
	for n := range uint64(kept) {
		v, err := u.word(sp + first + 8*n)
		switch {
		case err != nil:
			return nil, false
		case n < kept-1:
			next.set(n, v)
		default:
			next.PC = v
		}
	}
	return next, true
}
