package disasm

import "encoding/binary"

// operands reads what follows an opcode of that letter in x86_maps.go.
func (d *x86) operands(kind byte) fault {
	n := 0 // bytes of immediates
	switch kind {
	case '-':
		return ok
	case 'b', 'j':
		n = 1
	case 'w':
		n = 2
	case 'e':
		n = 3
	case 'J':
		n = 4
	case 'z', 'v':
		n = d.immSize()
		if kind == 'v' && d.w {
			n = 8
		}
	case 'o':
		n = 8
		if d.addr {
			n = 4
		}
	default:
		if f := d.modrm(); f != ok {
			return f
		}
		n = d.immAfterModRM(kind)
	}
	if n > 0 {
		d.in.X86.Imm = Field{uint8(d.p), uint8(n)}
		d.p += n
	}
	if d.p > len(d.b) {
		return truncated
	}
	return ok
}

// immSize is the size of an immediate that is never 8 bytes.
func (d *x86) immSize() int {
	if d.in.X86.OpSize16 && !d.w {
		return 2
	}
	return 4
}

func (d *x86) immAfterModRM(kind byte) int {
	x := &d.in.X86
	test := x.ModRM>>3&7 < 2
	switch {
	case kind == 'M', kind == 'g' && test:
		return 1
	case kind == 'Z', kind == 'G' && test:
		return d.immSize()
	case kind == 'D':
		return 4
	case kind == 'x' && (d.pp == pp66 || d.pp == ppF2):
		return 2
	}
	return 0
}

// modrm reads ModRM, SIB and the displacement.
func (d *x86) modrm() fault {
	x := &d.in.X86
	if d.p >= len(d.b) {
		return truncated
	}
	c := d.b[d.p]
	x.HasModRM, x.ModRM, x.ModRMOff = true, c, uint8(d.p)
	d.p++
	mod, rm := c>>6, c&7
	if mod == 3 || d.ignoresMod() {
		return ok
	}
	if rm == 4 {
		if d.p >= len(d.b) {
			return truncated
		}
		rm = 0 // a SIB byte is never RIP-relative
		if mod == 0 && d.b[d.p]&7 == 5 {
			mod = 2 // no base, but disp32
		}
		d.p++
	}
	n := 0
	switch {
	case mod == 1:
		n = 1
	case mod == 2:
		n = 4
	case rm == 5:
		n = 4
		d.in.Mem = true
	}
	if n > 0 {
		x.Disp = Field{uint8(d.p), uint8(n)}
		d.p += n
	}
	return ok
}

// ignoresMod is true of moves to and from control and debug registers.
func (d *x86) ignoresMod() bool {
	x := &d.in.X86
	return x.Opcode&^3 == 0x20 && x.Map == map0F && x.Encoding == Legacy
}

// relative fills in the PC-relative field once the length is known.
func (d *x86) relative(kind byte) {
	in := d.in
	switch {
	case in.Mem:
		in.PCRel = in.X86.Disp
	case kind == 'j', kind == 'J', in.X86.isXbegin():
		in.PCRel = in.X86.Imm
	default:
		return
	}
	in.PCOff = int64(in.Len) + signed(d.b, in.PCRel)
}

func (x *X86) isXbegin() bool {
	return x.Opcode == 0xc7 && x.ModRM == 0xf8 && x.Map == oneByte && x.Encoding == Legacy
}

func signed(b []byte, f Field) int64 {
	v := b[f.Off:]
	switch f.Size {
	case 1:
		return int64(int8(v[0]))
	case 2:
		return int64(int16(binary.LittleEndian.Uint16(v)))
	}
	return int64(int32(binary.LittleEndian.Uint32(v)))
}
