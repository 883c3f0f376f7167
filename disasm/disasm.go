// Package disasm tells the length and the effect of single x86-64 and arm64
// instructions: where their fields lie, what they refer to relative to the
// program counter, and where control goes next. It does not ask which function
// an instruction is in. Invalid encodings are errors, never guesses.
package disasm

// Flow is the effect of an instruction on control.
type Flow uint8

const (
	Next         Flow = iota // falls through
	Jump                     // direct, unconditional
	CondJump                 // direct, conditional (also loop, jrcxz, cbz, tbz, xbegin)
	Call                     // direct call (call rel32, bl)
	IndirectJump             // through a register or memory
	IndirectCall             // through a register or memory
	Return                   // ret, iret, sysret, eret
	Trap                     // never falls through: ud2, int3, hlt, brk, udf
	Syscall                  // syscall, sysenter, int n, svc, hvc, smc: comes back
)

// Field is a part of an instruction: byte offset from its start and size in
// bytes. Size 0 means that the instruction has no such field.
type Field struct{ Off, Size uint8 }

// Inst is one decoded instruction.
type Inst struct {
	Len   int // in bytes
	Flow  Flow
	Nop   bool  // does nothing, by design (nop forms, not endbr64 or bti)
	Pad   bool  // landing pad: endbr64, bti, paciasp, pacibsp
	PCRel Field // x86-64: displacement or relative immediate; arm64: {0, 4} when any PC-relative form

	// PCOff is what the PC-relative field yields: the target is the address of
	// the instruction plus PCOff; for arm64 adrp both are first rounded down to
	// 4096. Valid when PCRel.Size > 0.
	PCOff int64
	Page  bool // arm64 adrp: target counts in pages
	Mem   bool // the PC-relative target is used as an address of data or by lea/adr, not as a branch

	X86 X86 // x86-64 only
}

// X86 are the fields of an x86-64 instruction.
type X86 struct {
	Encoding  Encoding
	Map       uint8 // 0 one-byte, 1 0F, 2 0F38, 3 0F3A, 5 and 6 EVEX, 8..10 XOP
	Opcode    byte
	OpcodeOff uint8
	HasModRM  bool
	ModRM     byte
	ModRMOff  uint8
	Disp      Field
	Imm       Field // all immediates together
	OpSize16  bool  // prefix 66
	Rep       byte  // last of F2, F3; 0 without
	REX       byte  // 0 without
}

// Encoding is the way an x86-64 opcode is encoded.
type Encoding uint8

const (
	Legacy Encoding = iota
	VEX
	EVEX
	XOP
)

// Target returns the address that the PC-relative field of the instruction
// refers to when the instruction stands at pc.
func (in Inst) Target(pc uint64) (uint64, bool) {
	if in.PCRel.Size == 0 {
		return 0, false
	}
	if in.Page {
		return pc&^0xfff + uint64(in.PCOff), true
	}
	return pc + uint64(in.PCOff), true
}
