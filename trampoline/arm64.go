package trampoline

// Redirects of arm64.
//
// b holds a signed 26-bit distance in words: it reaches 128 MiB each way,
// changes no register, and is one aligned word, which is why it is the only
// redirect that every function has room for. What lies further is reached
// through a veneer: a load of the address that follows it into x16 and br x16.
// x16 and x17 are the registers that the procedure call standard (AAPCS64,
// 6.1.1) lets a veneer change between a call and its target; br through one of
// them may also land on "bti c". The same sixteen bytes are the far jump at a
// site that has the room. The load reads text, so the image must be readable.
//
// Where branch target identification guards the text, an indirect call must
// land on bti, paciasp or pacibsp. A redirect stands after bti, which does
// nothing else. It cannot stand after paciasp, which has signed the return
// address: the replacement signs it again. There the site is paciasp itself and
// Lead is "bti c", so that the redirect is a landing pad too.
//
// adrp/add/br would save four bytes for targets within 4 GiB, but has a third
// kind of hole and no site needs it: where eight or twelve bytes fit, four do,
// and a veneer does the rest.
//
// See the Arm ARM, C6.2: B, BR, LDR (literal).

import (
	"debug/elf"
	"encoding/binary"
	"slices"
)

// Arm64BTI returns the landing pad of calls, for Site.Lead.
func Arm64BTI() []byte { return slices.Clone(arm64BTI) }

const (
	Arm64BranchLen = 4
	Arm64FarLen    = 16

	// Distances of a branch26 field, from its instruction: imm26 is signed and
	// counts words.
	Branch26Min = -1 << 27
	Branch26Max = 1<<27 - Arm64BranchLen

	arm64FarHole = 8
	branch26Mask = 1<<26 - 1
)

var (
	arm64Branch = []byte{
		0x00, 0x00, 0x00, 0x14, // b target
	}
	arm64BTI = []byte{
		0x5f, 0x24, 0x03, 0xd5, // bti c
	}
	arm64FarJump = []byte{
		0x50, 0x00, 0x00, 0x58, // ldr x16, .+8
		0x00, 0x02, 0x1f, 0xd6, // br x16
		0, 0, 0, 0, 0, 0, 0, 0, // .quad target
	}
)

func arm64Writes(s Site, st Strategy) ([]Template, error) {
	if s.Addr%Arm64BranchLen != 0 {
		return nil, &AlignError{Addr: s.Addr}
	}
	switch st {
	case Near, Veneer:
		return arm64Write(s, st, arm64Branch, Hole{0, Branch26})
	case Far:
		return arm64Write(s, st, arm64FarJump, Hole{arm64FarHole, Abs64})
	}
	return nil, &UnsupportedError{Machine: elf.EM_AARCH64, Strategy: st}
}

func arm64Write(s Site, st Strategy, jump []byte, h Hole) ([]Template, error) {
	code := slices.Concat(s.Lead, jump)
	if err := fits(s, st, len(code)); err != nil {
		return nil, err
	}
	h.Off += len(s.Lead)
	return []Template{place(s.Addr, s.Expected, code, h)}, nil
}

func arm64Target(code []byte, pc uint64) (uint64, bool) {
	if len(code) >= len(arm64BTI) && [4]byte(code) == [4]byte(arm64BTI) {
		code, pc = code[len(arm64BTI):], pc+uint64(len(arm64BTI))
	}
	if len(code) < Arm64BranchLen {
		return 0, false
	}
	if word := binary.LittleEndian.Uint32(code); word>>26 == 0b000101 {
		d := int64(int32(word<<6)) >> 6 * Arm64BranchLen
		return pc + uint64(d), true
	}
	if len(code) >= Arm64FarLen && [8]byte(code) == [8]byte(arm64FarJump) {
		return binary.LittleEndian.Uint64(code[arm64FarHole:]), true
	}
	return 0, false
}
