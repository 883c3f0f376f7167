package diff

import (
	"debug/elf"

	"livepatch/disasm"
)

// Peculiar to x86-64:
//
//   - A jump has a short and a long form, and the assembler takes the short one
//     when the distance allows. Moving code changes the form, and with it the
//     filler in front of aligned labels; neither is a change of the function.
//   - PC-relative operands count from the end of the instruction.
//   - Calls and jumps may carry PLT32 or PC32; the linker treats them alike.

const (
	x86PC32  = uint32(elf.R_X86_64_PC32)
	x86PLT32 = uint32(elf.R_X86_64_PLT32)
	x86PC8   = uint32(elf.R_X86_64_PC8)
)

// x86Implicit is the relocation that a PC-relative field would have.
func x86Implicit(in disasm.Inst) uint32 {
	switch {
	case in.PCRel.Size == 1:
		return x86PC8
	case in.Mem:
		return x86PC32
	}
	return x86PLT32
}

// x86Long puts the opcode of a direct jump in its long form into key, up to its
// field, and reports whether the instruction is such a jump.
func x86Long(key *[maxInsn]byte, b []byte, in disasm.Inst) (int, bool) {
	if in.Mem || in.PCRel.Size == 0 {
		return 0, false
	}
	n := copy(key[:], b[:in.PCRel.Off])
	if in.PCRel.Size > 1 {
		return n, true
	}
	switch op := key[n-1]; {
	case op == 0xeb:
		key[n-1] = 0xe9
	case op >= 0x70 && op <= 0x7f:
		key[n-1] = 0x0f
		key[n] = 0x80 | op&15
		n++
	}
	return n, true
}

// x86IsBranch reports whether the field of a reference is that of a direct call
// or jump. Old assemblers give those the same type as data.
func x86IsBranch(code []byte, r *ref) bool {
	switch r.typ {
	case x86PLT32:
		return true
	case x86PC32:
	default:
		return false
	}
	if r.bias != -4 || r.off < 1 {
		return false
	}
	// call, jmp, and the two-byte jcc; a ModRM byte of a PC-relative operand is
	// 00xxx101, so it is none of these.
	op := code[r.off-1]
	return op == 0xe8 || op == 0xe9 || op&0xf0 == 0x80 && r.off > 1 && code[r.off-2] == 0x0f
}

// x86Registers fills in what an instruction does with registers.
func x86Registers(e *registerUse, code []byte) {
	d, err := disasm.Decode(elf.EM_X86_64, code)
	if err != nil {
		return
	}
	x := d.X86
	reg := int(x.ModRM>>3&7 | x.REX&4<<1)
	rm := int(x.ModRM&7 | x.REX&1<<3)
	memory := x.HasModRM && x.ModRM>>6 != 3
	wide := x.REX&8 != 0
	embedded := int(x.Opcode&7 | x.REX&1<<3)
	if d.Flow == disasm.Call || d.Flow == disasm.IndirectCall {
		e.writes = 0x0fc7 // those that a call may change: rax, rcx, rdx, rsi, rdi, r8 to r11
		return
	}
	if d.Flow == disasm.IndirectJump {
		if e.jump = rm; memory {
			e.jump = anyMemory
		}
		return
	}
	if x.Encoding != disasm.Legacy || x.Map > 1 || d.Flow != disasm.Next {
		return
	}
	if x.Map == 0 {
		switch op := x.Opcode; {
		case op == 0x8b && memory && wide:
			e.load = reg
		case op == 0x89 && memory:
			if wide {
				e.store = reg
				e.stack = rm&7 == 4 && len(code) > int(x.ModRMOff)+1 && code[x.ModRMOff+1]&7 == 4 && x.REX&1 == 0 || rm == 5 && x.ModRM>>6 != 0
			}
			return
		case op == 0xc7 && memory:
			e.immediate = wide
			return
		case op == 0x8d:
			e.address = reg
		case op >= 0xb8 && op <= 0xbf:
			e.address = embedded
			e.writes = 1 << embedded
			return
		case op == 0xc7:
			e.address = rm
		case op == 0x84 || op == 0x85 || op >= 0x38 && op <= 0x3d || op == 0xa8 || op == 0xa9, // test, cmp
			op >= 0x80 && op <= 0x83 && x.ModRM>>3&7 == 7,
			(op == 0xf6 || op == 0xf7) && x.ModRM>>3&7 < 2,
			op >= 0x50 && op <= 0x57, op == 0x68, op == 0x6a, op == 0x88 && memory: // push, store
			return
		case op >= 0x58 && op <= 0x5f, op >= 0x90 && op <= 0x97: // pop, xchg
			e.writes = 1<<embedded | 1
			return
		}
	}
	if x.HasModRM {
		e.writes |= 1 << reg
		if !memory {
			e.writes |= 1 << rm
		}
	}
}

// x86Accesses reports an instruction that loads or stores at exactly the place
// that its field at an offset refers to. lea does not, nor do immediates, nor
// what adds a register to it.
func x86Accesses(code []byte, field int) bool {
	d, err := disasm.Decode(elf.EM_X86_64, code)
	if err != nil || !d.X86.HasModRM || d.X86.Disp.Size != 4 || int(d.X86.Disp.Off) != field {
		return false
	}
	lea := d.X86.Encoding == disasm.Legacy && d.X86.Map == 0 && d.X86.Opcode == 0x8d
	const absolute = 0x25 // SIB: neither base nor index
	modRM, sib := d.X86.ModRM, code[d.X86.ModRMOff+1]
	return !lea && (d.Mem || modRM&0xc7 == 4 && sib == absolute)
}
