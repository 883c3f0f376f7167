package disasm

// The data-processing groups, as far as whole rows of their tables are
// unallocated. Loads, stores, SVE, SME and SIMD are not looked into: nothing
// there depends on the program counter but the literal loads.

// dataImmediate is 100x of DDI 0487 C4.1: data processing with an immediate.
func dataImmediate(in *Inst, x uint32) fault {
	sf, opc, n, immr, imms := x>>31, x>>29&3, x>>22&1, x>>16&63, x>>10&63
	good := true
	switch x >> 23 & 7 {
	case 0, 1: // adr, adrp
		address(in, x)
	case 3: // addg, subg; smax and so on
		good = n == 0 && sf == 1 && opc&1 == 0 || n == 1 && opc == 0 && x>>20&3 == 0
	case 4: // and, orr, eor, ands
		good = bitmask(sf, n, imms)
	case 5: // movn, movz, movk
		good = opc != 1 && (sf == 1 || n == 0)
	case 6: // sbfm, bfm, ubfm
		good = opc != 3 && sf == n && (sf == 1 || immr < 32 && imms < 32)
	case 7: // extr
		good = opc == 0 && sf == n && x>>21&1 == 0 && (sf == 1 || imms < 32)
	}
	if !good {
		return unallocated
	}
	return ok
}

// bitmask reports whether n:imms encodes a repeated run of ones, which is
// neither empty nor full.
func bitmask(sf, n, imms uint32) bool {
	if n == 1 {
		return sf == 1 && imms != 63
	}
	for size := uint32(32); size >= 2; size /= 2 {
		if imms&size == 0 { // the highest zero bit tells the size of the element
			return imms&(size-1) != size-1
		}
	}
	return false
}

// dataRegister is x101: data processing with registers.
func dataRegister(x uint32) fault {
	sf, opc, imm6 := x>>31, x>>29&3, x>>10&63
	good := true
	switch op := x >> 21 & 15; {
	case x>>28&1 == 0 && op < 8: // and, bic, orr, …: shifted register
		good = sf == 1 || imm6 < 32
	case x>>28&1 == 0 && op&1 == 0: // add, sub: shifted register
		good = x>>22&3 != 3 && (sf == 1 || imm6 < 32)
	case x>>28&1 == 0: // add, sub: extended register
		good = x>>22&3 == 0 && x>>10&7 <= 4
	case op == 0: // adc, sbc, rmif, setf8, setf16
		good = x>>10&31 == 0 || opc == 1
	case op == 2: // ccmn, ccmp
		good = opc&1 == 1 && x&0x410 == 0
	case op == 4: // csel
		good = opc&1 == 0 && x>>11&1 == 0
	case op == 6: // one and two sources
		good = sourcesAllocated(sf, opc, imm6, x)
	case op >= 8: // madd and so on
		good = opc == 0 && (sf == 1 || op == 8)
	default:
		good = false
	}
	if !good {
		return unallocated
	}
	return ok
}

func sourcesAllocated(sf, opc, opcode, x uint32) bool {
	one := opc&2 != 0
	switch {
	case one && opc&1 == 0:
		return x>>16&31 < 2 // rbit, rev, clz; pacia and so on
	case opc&1 == 1:
		return !one && sf == 1 && opcode == 0 // subps
	}
	return opcode < 32 // udiv, lslv, crc32, …
}
