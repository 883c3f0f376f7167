package diff

import (
	"debug/elf"
	"encoding/binary"

	"livepatch/elfpatch"
)

// Peculiar to arm64: an address takes two instructions, and gcc reaches the
// static variables of a section from one of them, the section anchor.

// arm64Implicit is the relocation that a PC-relative word would have.
func arm64Implicit(b []byte) uint32 {
	x := binary.LittleEndian.Uint32(b)
	switch {
	case x>>26 == 0b000101:
		return uint32(elf.R_AARCH64_JUMP26)
	case x>>26 == 0b100101:
		return uint32(elf.R_AARCH64_CALL26)
	case x>>24 == 0x54, x&0x7e000000 == 0x34000000:
		return uint32(elf.R_AARCH64_CONDBR19)
	case x&0x7e000000 == 0x36000000:
		return uint32(elf.R_AARCH64_TSTBR14)
	case x&0x9f000000 == 0x10000000:
		return uint32(elf.R_AARCH64_ADR_PREL_LO21)
	case x&0x9f000000 == 0x90000000:
		return uint32(elf.R_AARCH64_ADR_PREL_PG_HI21)
	}
	return uint32(elf.R_AARCH64_LD_PREL_LO19)
}

func arm64IsBranch(typ uint32) bool {
	switch elf.R_AARCH64(typ) {
	case elf.R_AARCH64_CALL26, elf.R_AARCH64_JUMP26, elf.R_AARCH64_CONDBR19, elf.R_AARCH64_TSTBR14:
		return true
	}
	return false
}

// arm64Registers fills in what an instruction does with registers.
func arm64Registers(e *registerUse, code []byte) {
	x := binary.LittleEndian.Uint32(code)
	rd, rn := int(x&31), int(x>>5&31)
	switch {
	case x&0xfc000000 == 0x94000000, x&0xfffffc1f == 0xd63f0000: // bl, blr
		e.writes = 0x4007ffff // x0 to x18, x30
	case x&0xfffffc1f == 0xd61f0000: // br
		e.jump = rn
	case x>>26&7 == 5: // other branches, exceptions, system
	case x&0xffc00000 == 0xf9400000: // ldr x
		e.load, e.writes = rd, 1<<rd
	case x&0xffc00000 == 0xf9000000: // str x
		e.store, e.stack = rd, rn == 31 || rn == 29
	case x>>25&5 == 4: // loads and stores
		if x>>22&1 != 0 {
			e.writes = 1<<rd | 1<<(x>>10&31)
		}
	default:
		e.writes = 1 << rd
		if x&0x9f000000 == 0x10000000 || x&0xffc00000 == 0x91000000 { // adr, add x
			e.address = rd
		}
	}
}

// isPage reports the first half of an address: the page alone says nothing.
func isPage(m elf.Machine, typ uint32) bool {
	return m == elf.EM_AARCH64 && (elf.R_AARCH64(typ) == elf.R_AARCH64_ADR_PREL_PG_HI21 || elf.R_AARCH64(typ) == elf.R_AARCH64_ADR_PREL_PG_HI21_NC)
}

// arm64SetImmediate puts another immediate into an access or an addition; false
// if it has no room for it.
func arm64SetImmediate(code []byte, typ uint32, imm int64) bool {
	x := binary.LittleEndian.Uint32(code)
	put := func(at, width uint, scale uint, min, max int64) bool {
		v := imm >> scale
		if imm != v<<scale || v < min || v > max {
			return false
		}
		mask := uint32(1)<<width - 1
		x = x&^(mask<<at) | uint32(v)&mask<<at
		binary.LittleEndian.PutUint32(code, x)
		return true
	}
	switch typ {
	case arm64Imm9:
		return put(12, 9, 0, -256, 255)
	case arm64Imm7:
		scale := 2 + uint(x>>31)
		if x>>26&1 == 1 {
			scale = 2 + uint(x>>30)
		}
		return put(15, 7, scale, -64, 63)
	}
	switch elf.R_AARCH64(typ) {
	case elf.R_AARCH64_ADD_ABS_LO12_NC, elf.R_AARCH64_LDST8_ABS_LO12_NC:
		return put(10, 12, 0, 0, 4095)
	case elf.R_AARCH64_LDST16_ABS_LO12_NC:
		return put(10, 12, 1, 0, 4095)
	case elf.R_AARCH64_LDST32_ABS_LO12_NC:
		return put(10, 12, 2, 0, 4095)
	case elf.R_AARCH64_LDST64_ABS_LO12_NC:
		return put(10, 12, 3, 0, 4095)
	case elf.R_AARCH64_LDST128_ABS_LO12_NC:
		return put(10, 12, 4, 0, 4095)
	}
	return false
}

// arm64Branch is b to a distance.
func arm64Branch(distance int64) uint32 { return 0x14000000 | uint32(distance>>2)&0x3ffffff }

// arm64Island returns code that does what the instruction of a derived reference
// does, by the address of its target, and then goes back behind it; distance is
// that from the instruction to the code. The fields of the address are at the
// offsets of the relocations. It is nil when no register is free.
func arm64Island(function []byte, r *ref, distance uint64) ([]byte, []elfpatch.Rela) {
	x := binary.LittleEndian.Uint32(function[r.off:])
	s, ok := arm64Scratch(function, x, r.typ)
	if !ok {
		return nil, nil
	}
	words := []uint32{
		0x90000000 | s,        // adrp s, target
		0x91000000 | s<<5 | s, // add s, s, :lo12:target
	}
	if elf.R_AARCH64(r.typ) != elf.R_AARCH64_ADD_ABS_LO12_NC {
		at := [4]byte{}
		binary.LittleEndian.PutUint32(at[:], x&^(31<<5)|s<<5)
		if !arm64SetImmediate(at[:], r.typ, 0) {
			return nil, nil
		}
		words = append(words, binary.LittleEndian.Uint32(at[:])) // the access, through s
	}
	words = append(words, arm64Branch(4-int64(distance)-4*int64(len(words)))) // b back
	var code []byte
	for _, w := range words {
		code = binary.LittleEndian.AppendUint32(code, w)
	}
	return code, []elfpatch.Rela{
		{Offset: 0, Type: uint32(elf.R_AARCH64_ADR_PREL_PG_HI21)},
		{Offset: 4, Type: uint32(elf.R_AARCH64_ADD_ABS_LO12_NC)},
	}
}

// arm64Scratch finds a register for an address: the one that the instruction
// overwrites anyway, else x16 or x17 if the function does not use it. Those two
// hold nothing across calls.
func arm64Scratch(function []byte, x uint32, typ uint32) (uint32, bool) {
	rt := x & 31
	add := elf.R_AARCH64(typ) == elf.R_AARCH64_ADD_ABS_LO12_NC
	load := x>>26&1 == 0 && (x>>22&1 == 1 || x>>27&7 == 7 && x>>23&1 == 1 && x>>30 != 3)
	if (add || load) && rt != 31 {
		return rt, true
	}
	for s := uint32(16); s <= 17; s++ {
		free := true
		for off := 0; off+4 <= len(function) && free; off += 4 {
			free = !arm64MayName(binary.LittleEndian.Uint32(function[off:]), s)
		}
		if free {
			return s, true
		}
	}
	return 0, false
}

// arm64MayName reports whether an instruction may name a register: a field where its kind
// has a register says so. What is not known by kind has one in every field that any kind
// has (Arm ARM, C4.1 "A64 instruction set encoding").
func arm64MayName(w, reg uint32) bool {
	const rd, rn, rt2, rm = 0, 5, 10, 16
	fields := []uint32{rd, rn, rt2, rm}
	switch {
	case w>>26&7 == 4: // data processing with an immediate, by bits 25 to 23
		switch w >> 23 & 7 {
		case 0, 1, 5: // adr and adrp, movn, movz and movk
			fields = []uint32{rd}
		case 2, 3, 4, 6: // add and sub, logical, bit fields
			fields = []uint32{rd, rn}
		}
	case w>>26&31 == 5, w>>25 == 0x2a: // b and bl, b.cond
		fields = nil
	case w>>26&31 == 13: // cbz, cbnz, tbz, tbnz
		fields = []uint32{rd}
	case w>>24&0x3b == 0x39: // loads and stores with an unsigned offset
		fields = []uint32{rd, rn}
	case w>>25&0x1d == 0x14: // pairs
		fields = []uint32{rd, rn, rt2}
	}
	for _, f := range fields {
		if w>>f&31 == reg {
			return true
		}
	}
	return false
}
