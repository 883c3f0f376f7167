package disasm

// effect says where control goes, for the legacy encodings: no VEX, EVEX or
// XOP instruction is a branch, a NOP or a landing pad.
func (d *x86) effect() {
	in := d.in
	x := &in.X86
	if x.Encoding != Legacy {
		return
	}
	switch x.Map {
	case oneByte:
		in.Flow = flowsOneByte[x.Opcode]
		switch x.Opcode {
		case 0xff:
			in.Flow = groupFive[x.ModRM>>3&7]
		case 0xc7:
			if x.isXbegin() {
				in.Flow = CondJump
			}
		case 0x90: // 41 90 is xchg %eax,%r8d; F3 90 is pause
			in.Nop = x.REX&rexB == 0 && x.Rep != 0xf3
		}
	case map0F:
		in.Flow = flows0F[x.Opcode]
		switch x.Opcode {
		case 0x01:
			in.Flow = systemFlow(x)
		case 0x1f:
			in.Nop = x.ModRM>>3&7 == 0
		case 0x1e:
			in.Pad = x.ModRM == 0xfa && x.Rep == 0xf3
		}
	}
}

// flowsOneByte has the one-byte opcodes that do not depend on ModRM.
var flowsOneByte = [256]Flow{
	0x70: CondJump, 0x71: CondJump, 0x72: CondJump, 0x73: CondJump, // jcc
	0x74: CondJump, 0x75: CondJump, 0x76: CondJump, 0x77: CondJump,
	0x78: CondJump, 0x79: CondJump, 0x7a: CondJump, 0x7b: CondJump,
	0x7c: CondJump, 0x7d: CondJump, 0x7e: CondJump, 0x7f: CondJump,
	0xc2: Return, 0xc3: Return, // ret
	0xca: Return, 0xcb: Return, // lret
	0xcc: Trap,     // int3
	0xcd: Syscall,  // int
	0xcf: Return,   // iret
	0xe0: CondJump, // loopne
	0xe1: CondJump, // loope
	0xe2: CondJump, // loop
	0xe3: CondJump, // jrcxz
	0xe8: Call,
	0xe9: Jump,
	0xeb: Jump,
	0xf1: Trap, // int1
	0xf4: Trap, // hlt
}

// groupFive is FF by ModRM.reg: call, far call, jmp, far jmp.
var groupFive = [8]Flow{2: IndirectCall, 3: IndirectCall, 4: IndirectJump, 5: IndirectJump}

// flows0F has the opcodes after 0F that do not depend on ModRM.
var flows0F = [256]Flow{
	0x05: Syscall,                                                  // syscall
	0x07: Return,                                                   // sysret
	0x0b: Trap,                                                     // ud2
	0x34: Syscall,                                                  // sysenter
	0x35: Return,                                                   // sysexit
	0x80: CondJump, 0x81: CondJump, 0x82: CondJump, 0x83: CondJump, // jcc
	0x84: CondJump, 0x85: CondJump, 0x86: CondJump, 0x87: CondJump,
	0x88: CondJump, 0x89: CondJump, 0x8a: CondJump, 0x8b: CondJump,
	0x8c: CondJump, 0x8d: CondJump, 0x8e: CondJump, 0x8f: CondJump,
	0xaa: Return, // rsm
	0xb9: Trap,   // ud1
	0xff: Trap,   // ud0
}

// systemFlow is 0F 01.
func systemFlow(x *X86) Flow {
	switch {
	case x.ModRM == 0xc1, x.ModRM == 0xd9: // vmcall, vmmcall
		return Syscall
	case x.ModRM == 0xca && x.Rep != 0: // erets, eretu
		return Return
	case x.ModRM == 0xec && x.Rep == 0xf3: // uiret
		return Return
	}
	return Next
}
