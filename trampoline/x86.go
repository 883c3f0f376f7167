package trampoline

// Redirects of x86-64.
//
// A near jump is e9 and a signed 32-bit distance counted from its end: it
// reaches 2 GiB each way and changes no register and no flag. A far jump goes
// through eight bytes that follow it, ff /4 with a RIP-relative operand, so it
// needs no register either. Both may land on an instruction that is not
// endbr64: the first is direct; the second is indirect, so with indirect-branch
// tracking its target starts with endbr64 (compilers emit it for every
// function with -fcf-protection).
//
// Where an entry holds fewer than five bytes, two suffice if five bytes of
// filler stand before it: the long jump goes into the filler, a jump with an
// 8-bit distance at the entry leads back to it. The filler is never executed
// before, so it is written first; the two bytes at the entry switch.
//
// See the Intel SDM, volume 2, JMP.

import (
	"debug/elf"
	"encoding/binary"
	"math"
)

const (
	X86NearLen   = 5  // e9 rel32
	X86ShortLen  = 2  // eb rel8
	X86FarLen    = 14 // ff 25 00000000, quad
	X86FillerLen = X86NearLen

	// Distances of a rel32 field, from its end.
	Rel32Min = math.MinInt32
	Rel32Max = math.MaxInt32

	// X86MaxGap is the largest landing pad between filler and site that the
	// short jump can skip: it goes back over itself, the pad and the long jump.
	X86MaxGap = -math.MinInt8 - X86ShortLen - X86FillerLen

	x86Short = 0xeb // opcode of jmp rel8

	x86NearHole = 1
	x86FarHole  = 6
)

var (
	x86NearJump = []byte{
		0xe9, 0, 0, 0, 0, // jmp target
	}
	x86FarJump = []byte{
		0xff, 0x25, 0, 0, 0, 0, // jmp *0(%rip)
		0, 0, 0, 0, 0, 0, 0, 0, // .quad target
	}
)

func x86Writes(s Site, st Strategy) ([]Template, error) {
	switch st {
	case Near, Veneer:
		if err := fits(s, st, X86NearLen); err != nil {
			return nil, err
		}
		return []Template{place(s.Addr, s.Expected, x86NearJump, Hole{x86NearHole, Rel32})}, nil
	case Far:
		if err := fits(s, st, X86FarLen); err != nil {
			return nil, err
		}
		return []Template{place(s.Addr, s.Expected, x86FarJump, Hole{x86FarHole, Abs64})}, nil
	case Filler:
		return x86FillerWrites(s)
	}
	return nil, &UnsupportedError{Machine: elf.EM_X86_64, Strategy: st}
}

func x86FillerWrites(s Site) ([]Template, error) {
	if err := fits(s, Filler, X86ShortLen); err != nil {
		return nil, err
	}
	end := s.Addr - uint64(s.Gap)
	switch {
	case s.Front < X86FillerLen:
		return nil, &RoomError{end, Filler, X86FillerLen, s.Front, "filler before the entry"}
	case s.Gap < 0 || s.Gap > X86MaxGap:
		return nil, &RoomError{s.Addr, Filler, s.Gap, X86MaxGap, "reach of the short jump"}
	case len(s.FrontBytes) < X86FillerLen:
		return nil, &BytesError{end - X86FillerLen, X86FillerLen, len(s.FrontBytes)}
	}
	front := s.FrontBytes[len(s.FrontBytes)-X86FillerLen:]
	short := []byte{
		x86Short, byte(-(X86ShortLen + s.Gap + X86FillerLen)), // jmp filler
	}
	return []Template{
		place(end-X86FillerLen, front, x86NearJump, Hole{x86NearHole, Rel32}),
		place(s.Addr, s.Expected, short),
	}, nil
}

func x86Target(code []byte, pc uint64) (uint64, bool) {
	switch {
	case len(code) >= X86NearLen && code[0] == 0xe9:
		d := int32(binary.LittleEndian.Uint32(code[x86NearHole:]))
		return pc + X86NearLen + uint64(d), true
	case len(code) >= X86ShortLen && code[0] == x86Short:
		return pc + X86ShortLen + uint64(int8(code[1])), true
	case len(code) >= X86FarLen && [6]byte(code) == [6]byte(x86FarJump):
		return binary.LittleEndian.Uint64(code[x86FarHole:]), true
	}
	return 0, false
}
