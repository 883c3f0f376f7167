package unwind

// x86-64: System V ABI, table 3.36: 0 rax, 1 rdx, 2 rcx, 3 rbx, 4 rsi, 5 rdi, 6
// rbp, 7 rsp, 8 to 15 r8 to r15, 16 the return address.
var x86 = traits{
	sp:     7,
	ra:     16,
	unit:   1,
	before: 7, // call *disp32(base,index)
	call: func(b []byte) bool {
		if b[2] == 0xe8 { // call rel32
			return true
		}
		for n := 2; n <= len(b); n++ { // ff /2, ff /3
			at := len(b) - n
			if reg := b[at+1] >> 3 & 7; b[at] == 0xff && (reg == 2 || reg == 3) {
				return true
			}
		}
		return false
	},
	trap: func(b []byte) bool { return b[5] == 0x0f && b[6] == 0x05 },
}
