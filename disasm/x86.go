package disasm

// x86-64 instructions are 1 to 15 bytes: prefixes, opcode, ModRM, SIB,
// displacement, immediate. What is peculiar:
//
//   - Legacy prefixes come in any order and number. A REX prefix counts only
//     directly before the opcode; one followed by another prefix is ignored.
//   - C4, C5 and 62 are always VEX and EVEX in 64-bit mode; 8F is XOP when the
//     low five bits of the next byte are 8 or more, else pop.
//   - ModRM with mod 0 and rm 5 is RIP-relative, counted from the end of the
//     instruction: an immediate may follow the displacement. A SIB byte never
//     makes it RIP-relative.
//   - Moves to and from control and debug registers ignore mod.
//   - Near branches ignore prefix 66, as Intel does; AMD reads a two-byte
//     distance and cuts RIP to 16 bits. No compiler emits that.
//
// An opcode has a letter in two tables: what follows it (x86_maps.go) and
// which of its encodings are defined (x86_*_forms.go).
//
// Source: Intel SDM volume 2, chapter 2 and appendices A and B; AMD APM
// volume 3 for XOP, 3DNow! and the extrq forms. APX (REX2, EVEX map 4) is
// refused: there is nothing here to check it against.

const maxX86Len = 15

// The maps, as X86.Map numbers them.
const (
	oneByte = 0
	map0F   = 1
	map0F38 = 2
	map0F3A = 3
	mapXOP8 = 8
	mapXOP9 = 9
	mapXOPA = 10
)

const (
	rexW = 8
	rexB = 1
)

// The implied prefix, as VEX and EVEX number it.
const (
	pp66 = 1
	ppF3 = 2
	ppF2 = 3
)

// x86 is the state of decoding one instruction.
type x86 struct {
	in    *Inst
	b     []byte // at most 15 bytes
	p     int    // next byte
	pp    byte   // implied prefix; of a legacy encoding, its last F2 or F3, else 66
	vvvv  byte   // VEX, EVEX: as encoded, 15 when there is no such operand
	lw    byte   // VEX, XOP, EVEX: bit 1<<(2*L + W) is set
	evex2 byte   // EVEX: third payload byte
	lock  bool
	addr  bool // prefix 67
	w     bool // REX.W and the like
}

func decodeX86(in *Inst, b []byte) fault {
	d := x86{in: in, b: b[:min(len(b), maxX86Len)]}
	f := d.decode()
	if f == truncated && len(b) >= maxX86Len {
		return tooLong
	}
	return f
}

func (d *x86) decode() fault {
	if f := d.prefixes(); f != ok {
		return f
	}
	forms, kind, f := d.opcode()
	if f != ok {
		return f
	}
	letter := forms.rows[d.in.X86.Opcode]
	if kind == '.' || kind == 'p' || letter == '.' {
		return undefined
	}
	if f := d.operands(kind); f != ok {
		return f
	}
	// From here on every byte of the instruction is there.
	d.in.Len = d.p
	if f := d.check(letter, forms); f != ok {
		return f
	}
	d.relative(kind)
	d.effect()
	return ok
}

// prefixes reads legacy prefixes and REX and leaves p at the opcode.
func (d *x86) prefixes() fault {
	x := &d.in.X86
	for ; d.p < len(d.b); d.p++ {
		c := d.b[d.p]
		if kindsOneByte[c] != 'p' {
			d.w = x.REX&rexW != 0
			return ok
		}
		switch c {
		case 0x66:
			x.OpSize16 = true
		case 0x67:
			d.addr = true
		case 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65:
		case 0xf0:
			d.lock = true
		case 0xf2, 0xf3:
			x.Rep = c
		case 0x0f, 0x62, 0xc4, 0xc5: // escapes
			d.w = x.REX&rexW != 0
			return ok
		default:
			x.REX = c
			continue
		}
		x.REX = 0
	}
	return truncated
}

// opcode reads the opcode with its escapes. It returns what is defined in its
// map, and its letter in x86_maps.go.
func (d *x86) opcode() (*opcodeForms, byte, fault) {
	switch d.b[d.p] {
	case 0x0f:
		return d.escaped()
	case 0xc5:
		return d.vex(2)
	case 0xc4:
		return d.vex(3)
	case 0x62:
		return d.evex()
	case 0x8f:
		if d.p+1 >= len(d.b) {
			return nil, 0, truncated
		}
		if d.b[d.p+1]&0x1f >= mapXOP8 {
			return d.xop()
		}
	}
	op := d.take()
	d.legacyPrefix()
	return &formsOneByte, kindsOneByte[op], ok
}

// take makes the next byte the opcode.
func (d *x86) take() byte {
	x := &d.in.X86
	x.OpcodeOff = uint8(d.p)
	x.Opcode = d.b[d.p]
	d.p++
	return x.Opcode
}

// escaped reads the opcode after 0F, 0F 38 or 0F 3A.
func (d *x86) escaped() (*opcodeForms, byte, fault) {
	x := &d.in.X86
	d.legacyPrefix()
	d.p++
	if d.p >= len(d.b) {
		return nil, 0, truncated
	}
	second := d.b[d.p]
	if second != 0x38 && second != 0x3a {
		x.Map = map0F
		op := d.take()
		return &forms0F, kinds0F[op], ok
	}
	d.p++
	if d.p >= len(d.b) {
		return nil, 0, truncated
	}
	d.take()
	if second == 0x38 {
		x.Map = map0F38
		return &forms0F38, 'm', ok
	}
	x.Map = map0F3A
	return &forms0F3A, 'M', ok
}

func (d *x86) legacyPrefix() {
	x := &d.in.X86
	switch {
	case x.Rep == 0xf3:
		d.pp = ppF3
	case x.Rep == 0xf2:
		d.pp = ppF2
	case x.OpSize16:
		d.pp = pp66
	}
}
