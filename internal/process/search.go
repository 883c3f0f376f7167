package process

import (
	"bytes"
	"encoding/binary"
)

// A search looks for addresses from low to high in memory, at any offset. The
// highest two bytes of a word may hold anything.
type search struct{ low, high uint64 }

const (
	addressBytes = 6 // of which an address consists
	blockShift   = 16
	blockBytes   = 4 // of an address without its lowest two bytes
)

// in calls found for each address in b, until it returns false.
func (s search) in(b []byte, found func(offset int, v uint64) bool) {
	for block := s.low >> blockShift; block <= (s.high-1)>>blockShift; block++ {
		pattern := binary.LittleEndian.AppendUint32(nil, uint32(block))
		const before = addressBytes - blockBytes
		for at := before; ; at++ {
			i := bytes.Index(b[min(at, len(b)):], pattern)
			if i < 0 {
				break
			}
			at += i
			v := uint64(binary.LittleEndian.Uint16(b[at-before:])) | block<<blockShift
			if v >= s.low && v < s.high && !found(at-before, v) {
				return
			}
		}
	}
}

// short does the same for addresses of four bytes, which code uses of memory below
// 4 GiB.
func (s search) short(b []byte, found func(offset int, v uint64) bool) {
	for i := 0; i+4 <= len(b) && s.low>>32 == 0; i++ {
		if v := uint64(binary.LittleEndian.Uint32(b[i:])); v >= s.low && v < s.high && !found(i, v) {
			return
		}
	}
}
