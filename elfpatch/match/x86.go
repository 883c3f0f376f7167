package match

import (
	"debug/elf"
	"encoding/binary"

	"livepatch/elfpatch"
)

// What is peculiar about x86-64: the linker rewrites instructions. An access
// through the GOT to a symbol that turns out to be near becomes a direct one of
// the same length, and the four models of thread-local access collapse into
// cheaper ones. The rewrites, their bytes and the fields in them are those of
// "System V ABI, AMD64 supplement", sections B.2 (GOTPCRELX) and 11.1.2 with
// "ELF handling for thread-local storage", sections 4.4.6 and 5.5. Anything else
// in place of the object's bytes is another program.

const (
	rPC32         = uint32(elf.R_X86_64_PC32)
	rGOTPCREL     = uint32(elf.R_X86_64_GOTPCREL)
	rTLSGD        = uint32(elf.R_X86_64_TLSGD)
	rTLSLD        = uint32(elf.R_X86_64_TLSLD)
	rGOTTPOFF     = uint32(elf.R_X86_64_GOTTPOFF)
	rTLSDescGOT   = uint32(elf.R_X86_64_GOTPC32_TLSDESC)
	rTLSDescCall  = uint32(elf.R_X86_64_TLSDESC_CALL)
	rGOTPCRELX    = uint32(elf.R_X86_64_GOTPCRELX)
	rREXGOTPCRELX = uint32(elf.R_X86_64_REX_GOTPCRELX)
)

const (
	opLea, opMov    = 0x8d, 0x8b
	opTest          = 0x85
	opMovImm        = 0xc7
	opGroup1        = 0x81 // add, or, adc, sbb, and, sub, xor, cmp with imm32
	opGroup3        = 0xf7 // test with imm32
	opGroup5        = 0xff // call, jmp, push through memory
	opCall, opJmp   = 0xe8, 0xe9
	opNop           = 0x90
	opAddr32        = 0x67
	modRIP, modRegs = 0x05, 0xc0
	rexW, rexR      = 0x08, 0x04
)

func (w *window) useX86(r elfpatch.Rela, info elfpatch.Reloc) (Use, uint64, bool) {
	switch {
	case r.Type == rPC32 && IsBranchField(w.old, int(r.Offset)):
		return Branch, whole, true
	case r.Type == rTLSLD:
		return TLSModule, whole, true
	case info.Kind == elfpatch.KindDTPRel && w.localDynamic:
		return TPOffset, whole, true
	}
	use, ok := useOfKind(info.Kind)
	return use, whole, ok
}

// IsBranchField reports whether the field at off belongs to call, jmp or jcc
// rel32. Old assemblers write such branches with PC32 instead of PLT32. lea and
// other operands have a ModRM byte with mod 0 and r/m 5 before the field, which
// none of these opcodes is.
func IsBranchField(code []byte, off int) bool {
	if off >= 1 && (code[off-1] == opCall || code[off-1] == opJmp) {
		return true
	}
	return off >= 2 && code[off-2] == 0x0f && code[off-1]&0xf0 == 0x80
}

func (w *window) rewrittenX86(i int) (*span, *miss) {
	switch w.rels[i].Type {
	case rGOTPCREL, rGOTPCRELX, rREXGOTPCRELX:
		return w.relaxedGOT(i), nil
	case rGOTTPOFF:
		return w.relaxedTPOff(i), nil
	case rTLSGD:
		return w.relaxedTLSGD(i), nil
	case rTLSLD:
		return w.relaxedTLSLD(i), nil
	case rTLSDescGOT:
		return w.relaxedTLSDesc(i), nil
	case rTLSDescCall:
		off := int(w.rels[i].Offset)
		// call *(%rax)  ->  xchg %ax,%ax
		if w.holds(w.old, off, 0xff, 0x10) && w.holds(w.new, off, 0x66, 0x90) {
			return &span{lo: off, hi: off + 2, n: 1, kind: TLSRelaxation}, nil
		}
	}
	return nil, nil
}

func (w *window) holds(code []byte, off int, want ...byte) bool {
	if off < 0 || off+len(want) > len(code) {
		return false
	}
	for k, b := range want {
		if code[off+k] != b {
			return false
		}
	}
	return true
}

// word is the sign-extended 32-bit field at off of the target.
func (w *window) word(off int) uint64 {
	return uint64(int64(int32(binary.LittleEndian.Uint32(w.new[off:]))))
}

// relaxedGOT recognises what replaces an access through the GOT.
func (w *window) relaxedGOT(i int) *span {
	r := w.rels[i]
	off := int(r.Offset)
	if off < 2 || off+4 > len(w.old) || r.Addend != -4 {
		return nil
	}
	op, mod := w.old[off-2], w.old[off-1]
	nop, nmod := w.new[off-2], w.new[off-1]
	if op == nop && mod == nmod {
		return nil
	}
	place := w.addr + r.Offset
	sp := func(lo int, use Use, value uint64) *span {
		return &span{lo: lo, hi: off + 4, n: 1, kind: GOTRelaxation, refs: []ref{{off: off, sym: int(r.Symbol), addend: r.Addend, use: use, value: value, mask: whole, fromEnd: true}}}
	}
	switch {
	// call *foo@GOTPCREL(%rip)  ->  addr32 call foo, nop; call foo, call foo; nop
	case op == opGroup5 && mod == 0x15 && (nop == opAddr32 || nop == opNop) && nmod == opCall:
		return sp(off-2, Branch, place+w.word(off))
	case op == opGroup5 && mod == 0x15 && nop == opCall && w.new[off+3] == opNop:
		return sp(off-2, Branch, place-1+w.word(off-1))
	// jmp *foo@GOTPCREL(%rip)  ->  jmp foo; nop
	case op == opGroup5 && mod == 0x25 && nop == opJmp && w.new[off+3] == opNop:
		return sp(off-2, Branch, place-1+w.word(off-1))
	case mod&0xc7 != modRIP:
		return nil
	// mov foo@GOTPCREL(%rip),%r  ->  lea foo(%rip),%r
	case op == opMov && nop == opLea && nmod == mod:
		return sp(off-2, Address, place+w.word(off))
	}
	reg := mod >> 3 & 7
	switch {
	// mov foo@GOTPCREL(%rip),%r  ->  mov $foo,%r
	case op == opMov && nop == opMovImm && nmod == modRegs|reg,
		// test %r,foo@GOTPCREL(%rip)  ->  test $foo,%r
		op == opTest && nop == opGroup3 && nmod == modRegs|reg,
		// add foo@GOTPCREL(%rip),%r  ->  add $foo,%r, and the seven like it
		op&^0x38 == 0x03 && nop == opGroup1 && nmod == modRegs|op&0x38|reg:
		lo, wide := w.movedREX(off)
		if lo < 0 {
			return nil
		}
		value := w.word(off)
		if !wide {
			value &= 0xffffffff // a 32-bit operation zero-extends
		}
		return sp(lo, Address, value+uint64(r.Addend))
	}
	return nil
}

// movedREX checks the REX prefix of an instruction whose register moved from
// the reg field of ModRM to r/m: bit R moves to B, and W may be dropped. It
// returns where the rewrite starts, -1 when the prefix is another, and whether
// W is set.
func (w *window) movedREX(off int) (int, bool) {
	if off < 3 || w.old[off-3]&0xf0 != 0x40 || w.rels == nil {
		return off - 2, false
	}
	old, cur := w.old[off-3], w.new[off-3]
	moved := old&^rexR | old&rexR>>2
	if cur != moved && cur != moved&^rexW {
		return -1, false
	}
	return off - 3, cur&rexW != 0
}

// relaxedTPOff recognises initial-exec accesses that became local-exec.
func (w *window) relaxedTPOff(i int) *span {
	r := w.rels[i]
	off := int(r.Offset)
	if off < 3 || off+4 > len(w.old) || r.Addend != -4 || w.old[off-1]&0xc7 != modRIP {
		return nil
	}
	rex, op, reg := w.old[off-3], w.old[off-2], w.old[off-1]>>3&7
	cur := w.new[off-3 : off]
	if w.firstDiff(off-3, off) < 0 || rex&0xf0 != 0x40 {
		return nil
	}
	moved := rex&^rexR | rex&rexR>>2
	var ok bool
	switch op {
	case opMov: // mov x@gottpoff(%rip),%r  ->  mov $x@tpoff,%r
		ok = cur[0] == moved && cur[1] == opMovImm && cur[2] == modRegs|reg
	case 0x03: // add x@gottpoff(%rip),%r  ->  lea x@tpoff(%r),%r, or add $x@tpoff,%r for rsp and r12
		ok = cur[0] == rex|rex&rexR>>2 && cur[1] == opLea && cur[2] == 0x80|reg<<3|reg && reg != 4 ||
			cur[0] == moved && cur[1] == opGroup1 && cur[2] == modRegs|reg
	}
	if !ok {
		return nil
	}
	return &span{lo: off - 3, hi: off + 4, n: 1, kind: TLSRelaxation,
		refs: []ref{{off: off, sym: int(r.Symbol), addend: r.Addend, use: TPOffset, value: w.word(off) + uint64(r.Addend), mask: whole, fromEnd: true}}}
}

// mov %fs:0,%rax
var loadThreadPointer = []byte{0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0}

// relaxedTLSGD recognises general-dynamic sequences that became initial-exec or
// local-exec. The call to __tls_get_addr belongs to the sequence.
func (w *window) relaxedTLSGD(i int) *span {
	r := w.rels[i]
	lo := int(r.Offset) - 4
	// data16 lea x@tlsgd(%rip),%rdi; data16 data16 rex.W call __tls_get_addr
	if lo < 0 || lo+16 > len(w.old) || !w.holds(w.new, lo, loadThreadPointer...) ||
		!w.holds(w.old, lo, 0x66, 0x48, 0x8d, 0x3d) || i+1 >= len(w.rels) || int(w.rels[i+1].Offset) != lo+12 {
		return nil
	}
	sp := &span{lo: lo, hi: lo + 16, n: 2, kind: TLSRelaxation}
	switch {
	case w.holds(w.new, lo+9, 0x48, opLea, 0x80): // lea x@tpoff(%rax),%rax
		sp.refs = []ref{{off: lo + 12, sym: int(r.Symbol), addend: 0, use: TPOffset, value: w.word(lo + 12), mask: whole, fromEnd: true}}
	case w.holds(w.new, lo+9, 0x48, 0x03, 0x05): // add x@gottpoff(%rip),%rax
		sp.refs = []ref{{off: lo + 12, sym: int(r.Symbol), addend: 0, use: TPSlot, value: w.addr + uint64(lo) + 16 + w.word(lo+12), mask: whole, fromEnd: true}}
	default:
		return nil
	}
	return sp
}

// relaxedTLSLD recognises local-dynamic sequences that became local-exec.
func (w *window) relaxedTLSLD(i int) *span {
	lo := int(w.rels[i].Offset) - 3
	// lea x@tlsld(%rip),%rdi; call __tls_get_addr
	if !w.holds(w.old, lo, 0x48, 0x8d, 0x3d) || i+1 >= len(w.rels) {
		return nil
	}
	for pad := 3; pad <= 4; pad++ { // call rel32, or call through the GOT
		n := pad + len(loadThreadPointer)
		prefix := []byte{0x66, 0x66, 0x66, 0x66}[:pad]
		if int(w.rels[i+1].Offset) == lo+n-4 && lo+n <= len(w.old) &&
			w.holds(w.new, lo, prefix...) && w.holds(w.new, lo+pad, loadThreadPointer...) {
			w.localDynamic = true
			return &span{lo: lo, hi: lo + n, n: 2, kind: TLSRelaxation}
		}
	}
	return nil
}

// relaxedTLSDesc recognises descriptor loads that became initial-exec or
// local-exec.
func (w *window) relaxedTLSDesc(i int) *span {
	r := w.rels[i]
	off := int(r.Offset)
	if off < 3 || off+4 > len(w.old) || w.old[off-2] != opLea || w.old[off-1]&0xc7 != modRIP {
		return nil
	}
	rex, mod := w.old[off-3], w.old[off-1]
	sp := &span{lo: off - 3, hi: off + 4, n: 1, kind: TLSRelaxation}
	switch {
	case w.holds(w.new, off-3, rex, opMov, mod): // mov x@gottpoff(%rip),%r
		sp.refs = []ref{{off: off, sym: int(r.Symbol), addend: r.Addend, use: TPSlot, value: w.addr + r.Offset + w.word(off), mask: whole, fromEnd: true}}
	case w.holds(w.new, off-3, rex&^rexR|rex&rexR>>2, opMovImm, modRegs|mod>>3&7): // mov $x@tpoff,%r
		sp.refs = []ref{{off: off, sym: int(r.Symbol), addend: r.Addend, use: TPOffset, value: w.word(off) + uint64(r.Addend), mask: whole, fromEnd: true}}
	default:
		return nil
	}
	return sp
}

// variableX86 is the number of bytes before and after the field that a rewrite
// may change.
func variableX86(typ uint32) (before, after int) {
	switch typ {
	case rGOTPCREL, rGOTPCRELX, rREXGOTPCRELX, rGOTTPOFF, rTLSDescGOT:
		return 3, 0
	case rTLSGD:
		return 4, 8
	case rTLSLD:
		return 3, 6
	case rTLSDescCall:
		return 0, 2
	}
	return 0, 0
}

// stubX86 reads a PLT entry: the GOT entry through which it jumps.
func stubX86(code []byte, addr uint64) (uint64, bool) {
	off := 0
	if len(code) >= 4 && code[0] == 0xf3 && code[1] == 0x0f && code[2] == 0x1e && code[3] == 0xfa {
		off = 4 // endbr64
	}
	if off < len(code) && code[off] == 0xf2 {
		off++ // bnd
	}
	if len(code) < off+6 || code[off] != opGroup5 || code[off+1] != 0x25 { // jmp *slot(%rip)
		return 0, false
	}
	rel := int64(int32(binary.LittleEndian.Uint32(code[off+2:])))
	return addr + uint64(off) + 6 + uint64(rel), true
}
