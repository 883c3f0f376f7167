package disasm

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/arch/x86/x86asm"
)

// x86Text prints with x86asm, which is given exactly the bytes of the
// instruction: with more bytes it takes too many for vzeroupper. It must agree
// on the length, and an Op of 0 without an error means that it knows only a
// prefix (golang/go issue 35865).
func x86Text(b []byte, in Inst, pc uint64, sym Symbolizer) string {
	if s := ownX86Text(in); s != "" {
		return s
	}
	lost := in.Mem && in.X86.Encoding != Legacy
	if lost {
		b = basedOnRBP(b, in)
	}
	inst, err := x86asm.Decode(b, 64)
	if err != nil || inst.Op == 0 || inst.Len != in.Len {
		return ""
	}
	s := x86asm.GNUSyntax(inst, pc, nil)
	if lost {
		s = strings.NewReplacer("(%rbp)", "(%rip)", "(%r13)", "(%rip)").Replace(s)
	}
	s = tidyX86(s)
	if rest, ok := strings.CutPrefix(s, "ds "); ok && (in.Flow == IndirectCall || in.Flow == IndirectJump) {
		s = "notrack " + rest
	}
	target, ok := in.Target(pc)
	if !ok {
		return s
	}
	if in.Mem {
		return s + "  # " + place(target, sym)
	}
	if i := strings.LastIndexByte(s, ' '); i >= 0 {
		return s[:i+1] + place(target, sym)
	}
	return s
}

// tidyX86 writes as the GNU tools do since binutils 2.37: no q on branches,
// no index that is not there, negative displacements as such.
func tidyX86(s string) string {
	s = strings.NewReplacer(",%riz)", ")", "callq", "call", "jmpq", "jmp", "retq", "ret",
		"leaveq", "leave", "xbeginq", "xbegin").Replace(s)
	const highHalf = "0xffff" // of an eight-digit displacement before a base
	open := strings.IndexByte(s, '(')
	at := open - len("0xffffffff")
	if at < 0 || !strings.HasPrefix(s[at:], highHalf) {
		return s
	}
	v, err := strconv.ParseUint(s[at+2:open], 16, 32)
	if err != nil {
		return s
	}
	return fmt.Sprintf("%s-%#x%s", s[:at], -int64(int32(v)), s[open:])
}

// basedOnRBP returns the instruction with its RIP-relative operand based on
// RBP or R13 instead: of a VEX or EVEX operand x86asm prints the displacement
// only (v0.32.0).
func basedOnRBP(b []byte, in Inst) []byte {
	const mod2 = 0x80 // a base and disp32
	c := append([]byte(nil), b...)
	c[in.X86.ModRMOff] |= mod2
	return c
}

// ownX86Text has instructions without operands that x86asm does not know, or
// prints as a prefix only.
func ownX86Text(in Inst) string {
	x := in.X86
	switch {
	case in.Pad:
		return "endbr64"
	case x.Encoding != Legacy || x.Map != map0F || x.OpSize16:
		return ""
	case x.Opcode == 0x1e && x.Rep == 0xf3 && x.ModRM == 0xfb:
		return "endbr32"
	case x.Opcode == 0x01 && x.Rep == 0:
		return systemNames[x.ModRM]
	}
	return ""
}

// systemNames is 0F 01 by ModRM.
var systemNames = [256]string{
	0xc1: "vmcall", 0xc2: "vmlaunch", 0xc3: "vmresume", 0xc4: "vmxoff",
	0xca: "clac", 0xcb: "stac", 0xcf: "encls",
	0xd0: "xgetbv", 0xd1: "xsetbv", 0xd4: "vmfunc", 0xd5: "xend", 0xd6: "xtest", 0xd7: "enclu",
	0xd9: "vmmcall", 0xdc: "stgi", 0xdd: "clgi",
	0xe8: "serialize", 0xee: "rdpkru", 0xef: "wrpkru",
	0xf8: "swapgs", 0xf9: "rdtscp",
}
