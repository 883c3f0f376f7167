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
	trap: func(b []byte) bool { return le.Uint32(b) == 0xd4000001 }, // svc #0
}
