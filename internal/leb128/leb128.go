// Package leb128 decodes numbers of variable length (DWARF 5, 7.6): seven bits a
// byte, the lowest first, and a bit that says that more follow.
package leb128

// Uint decodes an unsigned number of at most 64 bits at the front of b and tells how
// many bytes it takes; 0 if it does not end in b or is longer.
func Uint(b []byte) (v uint64, n int) {
	v, _, n = decode(b)
	return v, n
}

// Int decodes a signed number, like Uint.
func Int(b []byte) (v int64, n int) {
	u, bits, n := decode(b)
	if n > 0 && bits < 64 && b[n-1]&0x40 != 0 {
		u |= ^uint64(0) << bits
	}
	return int64(u), n
}

// decode also tells how many bits the bytes have. Those above 64 are dropped.
func decode(b []byte) (v uint64, bits uint, n int) {
	for i, c := range b {
		if bits >= 64 {
			break
		}
		v |= uint64(c&0x7f) << bits
		bits += 7
		if c&0x80 == 0 {
			return v, bits, i + 1
		}
	}
	return 0, 0, 0
}
