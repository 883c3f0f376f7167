package trampoline

// Moved instructions of x86-64.
//
// Operands relative to RIP get a new distance. Short branches become long
// ones; loop and jrcxz have no long form and jump over a jump:
//
//	    jrcxz 1f
//	    jmp 2f
//	1:  jmp target
//	2:
//
// A call is taken apart, since the address that it would push is not the
// original's: push of a word that holds the right one, then a jump. The
// processor predicts the return wrongly then, which costs time and nothing else.
//
// Refused is what cannot be widened or what looks at its own place: xbegin,
// far calls, indirect calls through the stack pointer (the push moves it),
// operands relative to EIP, branches with prefix 66.
//
// See the Intel SDM, volume 2: CALL, Jcc, JMP, LOOP; volume 1, 3.5.1 for
// RIP-relative addressing.

import (
	"debug/elf"

	"livepatch/disasm"
)

const (
	x86Lea    = 0x8d
	x86Group5 = 0xff // inc, dec, call, callf, jmp, jmpf, push by ModRM.reg

	wordLen = 8
)

var x86PC32 = uint32(elf.R_X86_64_PC32)

// x86 moves one instruction that stands at pc and reports whether control never
// goes on behind it.
func (v *mover) x86(in disasm.Inst, raw []byte, pc uint64) (bool, error) {
	refuse := func(text string) (bool, error) { return false, &DisplaceError{pc, text} }
	to, relative := in.Target(pc)
	switch {
	case relative && x86Prefixed(raw, 0x67) && in.Mem:
		return refuse("its operand is relative to EIP")
	case relative && !in.Mem && x86Prefixed(raw, 0x66):
		return refuse("processors differ on a branch with prefix 66")
	case in.Flow == disasm.Call:
		if err := v.comesBack(pc, pc+uint64(in.Len)); err != nil {
			return false, err
		}
		push := v.x86Push(pc)
		v.x86Jump(to)
		v.x86Return(push, pc+uint64(in.Len))
		return true, nil
	case in.Flow == disasm.IndirectCall:
		return true, v.x86IndirectCall(in, raw, pc)
	case in.Flow == disasm.Jump:
		v.x86Jump(to)
		return true, nil
	case in.Flow == disasm.CondJump:
		return false, v.x86CondJump(in, raw, pc, to)
	}
	off := v.emit(raw...)
	if relative {
		v.x86Operand(in, off, to)
	}
	return ends(in.Flow), nil
}

// x86Operand refers the RIP-relative operand of the instruction emitted at off
// to what it referred to.
func (v *mover) x86Operand(in disasm.Inst, off int, to uint64) {
	field := off + int(in.PCRel.Off)
	clear(v.Bytes[field : field+4])
	v.ref(field, x86PC32, target(to), int64(in.PCRel.Off)-int64(in.Len))
}

func (v *mover) x86Back() { v.x86Jump(v.addr + uint64(v.Len)) }

func (v *mover) x86Jump(to uint64) {
	off := v.emit(
		0xe9, 0, 0, 0, 0, // jmp to
	)
	v.ref(off+1, x86PC32, target(to), -4)
}

// x86Push pushes a word that x86Return adds, for the call at pc, and returns the
// offset of its distance.
func (v *mover) x86Push(pc uint64) int {
	off := v.emit(
		x86Group5, 0x35, 0, 0, 0, 0, // push word(%rip)
	)
	v.row(Row{As: pc, Pushed: wordLen})
	return off + 2
}

// x86Return adds the word that is pushed as a return address.
func (v *mover) x86Return(push int, addr uint64) {
	off := v.emit(make([]byte, wordLen)...)
	v.Bytes[push] = byte(off - (push + 4)) // it follows within a few bytes
	v.ref(off, uint32(elf.R_X86_64_64), target(addr), 0)
}

func (v *mover) x86IndirectCall(in disasm.Inst, raw []byte, pc uint64) error {
	const near = 2 // ModRM.reg of call
	const jump = 4 // and of jmp
	modrm := in.X86.ModRM
	switch {
	case in.X86.Opcode != x86Group5 || modrm>>3&7 != near:
		return &DisplaceError{pc, "it is a far call"}
	case x86OnStack(raw, int(in.X86.ModRMOff)) && in.X86.REX&1 == 0:
		return &DisplaceError{pc, "it calls through the stack pointer"}
	case x86Prefixed(raw, 0x66):
		return &DisplaceError{pc, "processors differ on a branch with prefix 66"}
	}
	if err := v.comesBack(pc, pc+uint64(in.Len)); err != nil {
		return err
	}
	push := v.x86Push(pc)
	off := v.emit(raw...)
	v.Bytes[off+int(in.X86.ModRMOff)] = modrm&^(7<<3) | jump<<3
	if to, ok := in.Target(pc); ok {
		v.x86Operand(in, off, to)
	}
	v.x86Return(push, pc+uint64(in.Len))
	return nil
}

// x86OnStack reports whether the operand named by the ModRM byte at off, with
// REX.B clear, depends on rsp: the register itself, or a SIB byte with rsp as
// base. rsp is never an index.
func x86OnStack(raw []byte, off int) bool {
	const rsp, direct = 4, 3
	mod, rm := raw[off]>>6, raw[off]&7
	return rm == rsp && (mod == direct || raw[off+1]&7 == rsp)
}

// x86CondJump moves a conditional branch.
func (v *mover) x86CondJump(in disasm.Inst, raw []byte, pc, to uint64) error {
	x := in.X86
	switch {
	case x.Map == 0 && x.Opcode>>4 == 0x7, x.Map == 1 && x.Opcode>>4 == 0x8:
		off := v.emit(
			0x0f, 0x80|x.Opcode&15, 0, 0, 0, 0, // jcc to
		)
		v.ref(off+2, x86PC32, target(to), -4)
	case x.Map == 0 && x.Opcode >= 0xe0 && x.Opcode <= 0xe3: // loopne, loope, loop, jrcxz
		v.emit(raw[:len(raw)-1]...)
		v.emit(
			X86ShortLen,          // jrcxz 1f
			x86Short, X86NearLen, // jmp 2f
		)
		v.x86Jump(to) // 1: jmp to
	default:
		return &DisplaceError{pc, "it has no form that reaches further"}
	}
	return nil
}

// x86Prefixed reports whether a legacy prefix stands before the opcode.
func x86Prefixed(raw []byte, prefix byte) bool {
	for _, b := range raw {
		switch b {
		case prefix:
			return true
		case 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3:
		default:
			return false // REX stands directly before the opcode
		}
	}
	return false
}
