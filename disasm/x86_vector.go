package disasm

// prefixed reports whether a prefix stands where VEX, EVEX and XOP allow none.
func (d *x86) prefixed() bool {
	x := &d.in.X86
	return x.OpSize16 || x.Rep != 0 || x.REX != 0 || d.lock
}

// vex reads a VEX prefix of n bytes and the opcode.
func (d *x86) vex(n int) (*opcodeForms, byte, fault) {
	x := &d.in.X86
	if d.p+n >= len(d.b) {
		return nil, 0, truncated
	}
	if d.prefixed() {
		return nil, 0, badPrefix
	}
	x.Encoding, x.Map = VEX, map0F
	last := d.b[d.p+n-1]
	if n == 3 {
		x.Map = d.b[d.p+1] & 0x1f
		d.w = last&0x80 != 0
	}
	d.payload(last, last>>2&1)
	d.p += n
	op := d.take()
	switch x.Map {
	case map0F:
		return &formsVEX1, kindsVector[op], ok
	case map0F38:
		return &formsVEX2, 'm', ok
	case map0F3A:
		return &formsVEX3, 'M', ok
	}
	return nil, 0, undefined
}

// payload takes vvvv and pp of the payload byte that VEX, EVEX and XOP share.
func (d *x86) payload(c, l byte) {
	d.vvvv = c >> 3 & 15
	d.pp = c & 3
	d.lw = 1 << (l * 2)
	if d.w {
		d.lw <<= 1
	}
}

// evex reads the four-byte EVEX prefix and the opcode.
func (d *x86) evex() (*opcodeForms, byte, fault) {
	x := &d.in.X86
	if d.p+4 >= len(d.b) {
		return nil, 0, truncated
	}
	p0, p1, p2 := d.b[d.p+1], d.b[d.p+2], d.b[d.p+3]
	const mustBeZero, mustBeOne = 8, 4
	if d.prefixed() || p0&mustBeZero != 0 || p1&mustBeOne == 0 {
		return nil, 0, badPrefix
	}
	x.Encoding, x.Map = EVEX, p0&7
	d.w = p1&0x80 != 0
	d.payload(p1, p2>>5&1)
	d.evex2 = p2
	d.p += 4
	op := d.take()
	switch x.Map {
	case map0F:
		return &formsEVEX1, kindsVector[op], ok
	case map0F38:
		return &formsEVEX2, 'm', ok
	case map0F3A:
		return &formsEVEX3, 'M', ok
	case 5:
		return &formsEVEX5, 'm', ok
	case 6:
		return &formsEVEX6, 'm', ok
	}
	return nil, 0, undefined
}

// xop reads the three-byte XOP prefix and the opcode.
func (d *x86) xop() (*opcodeForms, byte, fault) {
	x := &d.in.X86
	if d.p+3 >= len(d.b) {
		return nil, 0, truncated
	}
	if d.prefixed() {
		return nil, 0, badPrefix
	}
	x.Encoding, x.Map = XOP, d.b[d.p+1]&0x1f
	last := d.b[d.p+2]
	d.w = last&0x80 != 0
	d.payload(last, last>>2&1)
	d.p += 3
	d.take()
	switch x.Map {
	case mapXOP8:
		return &formsXOP8, 'M', ok
	case mapXOP9:
		return &formsXOP9, 'm', ok
	case mapXOPA:
		return &formsXOPA, 'D', ok
	}
	return nil, 0, undefined
}
