package taken

import "encoding/binary"

// x86 looks for lea disp32(%rip),%reg. Instructions are not told apart
// from what lies between them.
func x86(code []byte, at, low, high uint64) (uint64, bool) {
	const lea, length = 0x8d, 6
	for i := 0; i+length <= len(code); i++ {
		if code[i] != lea || code[i+1]&0xc7 != 0x05 {
			continue
		}
		to := at + uint64(i) + length + uint64(int64(int32(binary.LittleEndian.Uint32(code[i+2:]))))
		if to >= low && to < high {
			return at + uint64(i), true
		}
	}
	return 0, false
}
