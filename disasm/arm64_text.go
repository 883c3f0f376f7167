package disasm

import (
	"encoding/binary"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/arch/arm64/arm64asm"
)

// arm64asmLock is held around arm64asm.Decode, which records in a variable of
// its package which table rows were used (v0.32.0: decoderCover).
var arm64asmLock sync.Mutex

func arm64Text(b []byte, in Inst, pc uint64, sym Symbolizer) string {
	if s := ownARM64Text(binary.LittleEndian.Uint32(b)); s != "" {
		return s
	}
	arm64asmLock.Lock()
	inst, err := arm64asm.Decode(b)
	arm64asmLock.Unlock()
	if err != nil || inst.Op == 0 {
		return ""
	}
	s := strings.TrimSpace(arm64asm.GNUSyntax(inst))
	target, ok := in.Target(pc)
	if !ok {
		return s
	}
	// The printer writes the distance: "b .+0x40".
	if i := strings.LastIndex(s, "."); i > 0 && s[i-1] == ' ' {
		return s[:i] + place(target, sym)
	}
	return ""
}

// ownARM64Text has what arm64asm prints as a number or does not know.
func ownARM64Text(x uint32) string {
	switch {
	case x&0xfffff01f == 0xd503201f:
		return hintNames[x>>5&0x7f]
	case x>>16 == 0:
		return fmt.Sprintf("udf #%d", x)
	case x&0xffe0001f == 0xd4000002:
		return fmt.Sprintf("hvc #%#x", x>>5&0xffff)
	case x&0xffe0001f == 0xd4000003:
		return fmt.Sprintf("smc #%#x", x>>5&0xffff)
	case x == 0xd50330ff:
		return "sb"
	case x>>25 == 0x6b && x>>11&31 == 1:
		return authText(x)
	}
	return ""
}

// authText prints a branch that authenticates its target with key A or B.
func authText(x uint32) string {
	key := "ab"[x>>10&1]
	rn, rm := x>>5&31, x&31
	name := func(r uint32) string {
		if r == 31 {
			return "xzr"
		}
		return fmt.Sprintf("x%d", r)
	}
	modifier := "sp"
	if rm != 31 {
		modifier = name(rm)
	}
	switch x >> 21 & 15 {
	case 0:
		return fmt.Sprintf("bra%cz %s", key, name(rn))
	case 1:
		return fmt.Sprintf("blra%cz %s", key, name(rn))
	case 2:
		return fmt.Sprintf("reta%c", key)
	case 4:
		return fmt.Sprintf("ereta%c", key)
	case 8:
		return fmt.Sprintf("bra%c %s, %s", key, name(rn), modifier)
	case 9:
		return fmt.Sprintf("blra%c %s, %s", key, name(rn), modifier)
	}
	return ""
}

// hintNames is by number, CRm:op2; the others print as "hint #0x13".
var hintNames = [128]string{
	0: "nop", 1: "yield", 2: "wfe", 3: "wfi", 4: "sev", 5: "sevl", 6: "dgh",
	7: "xpaclri", 8: "pacia1716", 10: "pacib1716", 12: "autia1716", 14: "autib1716",
	16: "esb", 17: "psb csync", 18: "tsb csync", 20: "csdb",
	24: "paciaz", 25: "paciasp", 26: "pacibz", 27: "pacibsp",
	28: "autiaz", 29: "autiasp", 30: "autibz", 31: "autibsp",
	32: "bti", 34: "bti c", 36: "bti j", 38: "bti jc",
}
