package disasm

// opcodeForms says which encodings of the 256 opcodes of a map are defined: a
// letter for every opcode, 16 a line, and what each letter stands for. Nothing is
// defined where '.' stands, everything where '*' does; '!' is everything that
// checkLegacy does not refuse.
type opcodeForms struct {
	rows  string
	forms [128]form
}

// form is a set of encodings. The figures are read from the left: without an
// implied prefix, with 66, with F3, with F2; of legacy opcodes that do not
// depend on such a prefix they are all the same.
//
// Where two oracles disagree the set is the union: what either decodes is
// decoded. The tables were filled from the manuals and compared with binutils
// 2.40 and Zydis 4.0 encoding by encoding; docs/sweeps-disasm.md has the result.
type form struct {
	mem uint32 // memory operand: bit n of a byte is set when ModRM.reg n is defined
	reg uint32 // the same with a register operand (mod 3)
	lw  uint16 // VEX, XOP, EVEX: bit 2*L+W of a digit is set when defined; EVEX: L is free
	v   uint8  // VEX, XOP, EVEX: bit pp is set when vvvv is an operand, so that it need not be 15
}

func (f *form) allows(pp, modrm byte) bool {
	set := f.mem
	if modrm >= 0xc0 {
		set = f.reg
	}
	return set>>(24-8*pp)>>(modrm>>3&7)&1 != 0
}

// check refuses what the tables do not define.
func (d *x86) check(letter byte, forms *opcodeForms) fault {
	x := &d.in.X86
	if d.lock && !lockable(x) {
		return badPrefix
	}
	if letter == '*' && x.Encoding == Legacy {
		return ok
	}
	f := &forms.forms[letter&127]
	if !f.allows(d.pp, x.ModRM) {
		return badOperand
	}
	switch x.Encoding {
	case Legacy:
		return d.checkLegacy()
	case EVEX:
		if !d.evexBits() {
			return badPrefix
		}
	}
	if byte(f.lw>>(12-4*d.pp))&d.lw == 0 {
		return badPrefix
	}
	if d.vvvv != 15 && f.v>>d.pp&1 == 0 {
		return badPrefix
	}
	if x.needsSIB() && x.ModRM&7 != 4 {
		return badOperand
	}
	return ok
}

// evexBits checks what holds for the third payload byte of every EVEX opcode.
func (d *x86) evexBits() bool {
	const zeroing, mask, broadcast = 0x80, 7, 0x10
	c := d.evex2
	if c&zeroing != 0 && c&mask == 0 {
		return false
	}
	// A length of 3 is only the rounding mode of a register form.
	return c>>5&3 != 3 || c&broadcast != 0 && d.in.X86.ModRM >= 0xc0
}

// needsSIB is true of gathers, scatters and tile loads.
func (x *X86) needsSIB() bool {
	if x.Map != map0F38 || x.Encoding == XOP {
		return false
	}
	switch op := x.Opcode; {
	case op&^3 == 0x90:
		return true
	case op == 0x4b:
		return x.Encoding == VEX
	case op&^3 == 0xa0, op == 0xc6, op == 0xc7:
		return x.Encoding == EVEX
	}
	return false
}

// checkLegacy has the opcodes of which single ModRM bytes are defined.
func (d *x86) checkLegacy() fault {
	x := &d.in.X86
	op, reg := x.Opcode, x.ModRM >= 0xc0
	bit := uint64(1) << (x.ModRM & 63)
	good := true
	switch {
	case x.Map == oneByte && op&^7 == 0xd8:
		good = !reg || x87Registers[op&7]&bit != 0
	case x.Map == oneByte && op&^1 == 0xc6: // mov, xabort, xbegin
		good = !reg || x.ModRM < 0xf8 || x.ModRM == 0xf8
	case x.Map == map0F && op == 0x01:
		good = reg && systemRegisters[d.pp]&bit != 0 || !reg && x.ModRM>>3 != 5 || !reg && d.pp == ppF3
	case x.Map == map0F && op == 0x0f:
		good = is3DNow(d.b[x.Imm.Off])
	case x.Map == map0F && op&^1 == 0xa6, x.Map == map0F3A && op == 0xf0: // PadLock, hreset
		good = x.ModRM&7 == 0
	}
	if !good {
		return badOperand
	}
	return ok
}

// x87Registers has for D8 to DF the defined ModRM bytes from C0 on; bit 0 is C0.
var x87Registers = [8]uint64{
	0xffffffffffffffff,
	0xffff7f33ff01ffff,
	0x00000200ffffffff,
	0x00ffff3fffffffff,
	0xffffffffffffffff,
	0x0000ffffffffffff,
	0xffffffff02ffffff,
	0x00ffff01ffffffff,
}

// systemRegisters has the same for 0F 01, by implied prefix: vmcall, monitor,
// clac, encls, xgetbv, swapgs, rdpkru and so on.
var systemRegisters = [4]uint64{
	0xffffc1fffff38f7f,
	0x33ff00fffff3ff3f,
	0xf7fff5fffff30f7f,
	0xf3ff03fffff30f7f,
}

// is3DNow reports whether 3DNow! defines the opcode, which stands last.
func is3DNow(c byte) bool {
	switch c {
	case 0x0c, 0x0d, 0x1c, 0x1d, 0x8a, 0x8e, 0x90, 0x94, 0x96, 0x97, 0x9a, 0x9e,
		0xa0, 0xa4, 0xa6, 0xa7, 0xaa, 0xae, 0xb0, 0xb4, 0xb6, 0xb7, 0xbb, 0xbf:
		return true
	}
	return false
}

// lockable reports whether the instruction may have a LOCK prefix: it reads,
// changes and writes a memory operand.
func lockable(x *X86) bool {
	if !x.HasModRM || x.ModRM >= 0xc0 {
		return false
	}
	op, reg := x.Opcode, x.ModRM>>3&7
	switch x.Map {
	case oneByte:
		switch {
		case op < 0x38 && op&6 == 0, op&^1 == 0x86: // add to xor; xchg
			return true
		case op&^3 == 0x80:
			return reg != 7 // cmp
		case op&^1 == 0xf6:
			return reg&^1 == 2 // not, neg
		case op&^1 == 0xfe:
			return reg < 2 // inc, dec
		}
	case map0F:
		switch op {
		case 0xab, 0xb3, 0xbb, 0xb0, 0xb1, 0xc0, 0xc1: // bts, btr, btc, cmpxchg, xadd
			return true
		case 0xba:
			return reg > 4
		case 0xc7: // cmpxchg8b, cmpxchg16b
			return reg == 1
		}
	}
	return false
}
