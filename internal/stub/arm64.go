package stub

import (
	"bytes"
	"encoding/binary"
)

var btiC = []byte{0x5f, 0x24, 0x03, 0xd5}

// makeAfterARM64 makes the object of the stub. It has no frame, so nothing signs
// its return address and nothing is to be said of unwinding it.
func (o *objects) makeAfterARM64(old []byte, value Value) error {
	var body []byte
	if bytes.HasPrefix(old, btiC) {
		body = append(body, btiC...)
	}
	for _, insn := range loadX0(value) {
		body = binary.LittleEndian.AppendUint32(body, insn)
	}
	body = binary.LittleEndian.AppendUint32(body, 0xd65f03c0) // ret
	o.after, _ = o.object(body, 0)
	return nil
}

// loadX0 are the instructions that put a value into x0: mov of the lowest half-word that
// is not all sign, movk of the others (C6.2, MOVZ, MOVN, MOVK, of the Arm ARM).
func loadX0(value Value) []uint32 {
	if !value.Given {
		return nil
	}
	const movz, movn, movk = 0xd2800000, 0x92800000, 0xf2800000
	v, fill, first := uint64(value.Int), uint64(0), uint32(movz)
	if value.Int < 0 {
		fill, first = 0xffff, movn
	}
	var out []uint32
	for k := range uint32(4) {
		half := v >> (16 * k) & 0xffff
		switch {
		case half == fill:
		case len(out) == 0:
			out = append(out, first|k<<21|uint32(half^fill)<<5)
		default:
			out = append(out, movk|k<<21|uint32(half)<<5)
		}
	}
	if len(out) == 0 {
		out = []uint32{first}
	}
	return out
}
