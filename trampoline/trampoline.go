// Package trampoline makes the bytes that redirect a function to its
// replacement, for x86-64 and arm64. It opens neither files nor processes:
// it takes sites and addresses and returns bytes.
//
// A Plan holds the writes of one redirect in the order in which they must be
// made; each is complete but for its holes, which Fill fills once it is known
// where the image and the replacement are loaded. Limits are those of the
// encodings, named in x86.go and arm64.go.
package trampoline

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"math"
	"slices"
)

// SiteKind says what stands at a patch site before it is used.
type SiteKind string

// Strategy is a way to redirect a function.
type Strategy string

const (
	Near   Strategy = "near"   // x86 jmp rel32 (5 bytes), arm64 b (4 bytes), at the site
	Far    Strategy = "far"    // x86 jmp *[rip+0]; .quad (14), arm64 ldr x16, #8; br x16; .quad (16)
	Filler Strategy = "filler" // x86: jmp rel32 in the 5 bytes before the entry, jmp rel8 (2 bytes) at the site
	Veneer Strategy = "veneer" // near jump to a veneer of the patch, which jumps anywhere
	ByWord Strategy = "slot"   // of dispatch Slot: the word before the function, then a call at the site
)

// Site is where a redirect can be written. Addresses are link-time addresses
// of the image.
type Site struct {
	Addr       uint64 // first byte that may be overwritten (after endbr64, bti)
	Expected   []byte // bytes there before, at least as many as the strategy writes
	Room       int    // bytes at Addr that may be overwritten
	Front      int    // bytes of filler that end at Addr-Gap
	FrontBytes []byte // the filler itself, at least its last FillerLen bytes; nil if not known
	Gap        int    // bytes between the filler and Addr that stay: the landing pad
	Lead       []byte // arm64: landing pad to write before the jump, in place of one that the jump overwrites
}

// HoleKind is what a hole of a template is filled with.
type HoleKind string

const (
	Rel32    HoleKind = "rel32"    // 4 bytes: target - (address of the hole + 4)
	Abs64    HoleKind = "abs64"    // 8 bytes: target
	Branch26 HoleKind = "branch26" // arm64: low 26 bits of the word: (target - address of the hole) / 4
)

// Hole is a place in a template that depends on where things are loaded.
type Hole struct {
	Off  int // byte offset in the template
	Kind HoleKind
}

// Template is one write, complete but for its holes, which all refer to one
// place: the replacement (or its veneer), unless To says another.
type Template struct {
	To       Place
	Addr     uint64 // where it is written, link-time
	Expected []byte // what must stand there before; same length as Bytes
	Bytes    []byte // zeros in the holes (opcode bits kept for branch26)
	Holes    []Hole
}

// Plan is the ordered writes that redirect one function. Until the last one is
// made, calls reach the old function.
type Plan struct {
	Machine  elf.Machine
	Strategy Strategy
	Writes   []Template
}

// Make plans the redirect of the function at s. It fails with a *RoomError
// when the site is too small for the strategy, an *AlignError when a site of
// arm64 is not a multiple of four, a *BytesError when the bytes of the site
// are not known, and an *UnsupportedError when the machine has no such strategy.
func Make(m elf.Machine, s Site, st Strategy) (Plan, error) {
	var writes []Template
	var err error
	switch m {
	case elf.EM_X86_64:
		writes, err = x86Writes(s, st)
	case elf.EM_AARCH64:
		writes, err = arm64Writes(s, st)
	default:
		err = &UnsupportedError{Machine: m, Strategy: st}
	}
	if err != nil {
		return Plan{}, err
	}
	return Plan{Machine: m, Strategy: st, Writes: writes}, nil
}

// Choose returns the first strategy that fits the site: near, then filler.
// Far never comes first: where it fits, so does near. The error is the one of
// the near strategy.
func Choose(m elf.Machine, s Site) (Strategy, error) {
	_, err := Make(m, s, Near)
	if err == nil {
		return Near, nil
	}
	if _, err := Make(m, s, Filler); err == nil {
		return Filler, nil
	}
	return "", err
}

// VeneerCode returns a jump that reaches any address, to be placed by the
// loader within reach of a near jump. Put it at a multiple of eight, so that
// the address in it is aligned.
func VeneerCode(m elf.Machine) (code []byte, holes []Hole) {
	switch m {
	case elf.EM_X86_64:
		return slices.Clone(x86FarJump), []Hole{{x86FarHole, Abs64}}
	case elf.EM_AARCH64:
		return slices.Clone(arm64FarJump), []Hole{{arm64FarHole, Abs64}}
	}
	return nil, nil
}

// Target decodes a redirect that starts at pc and returns where it leads. A
// short jump leads to the long one in the filler: Follow goes all the way.
func Target(m elf.Machine, code []byte, pc uint64) (uint64, bool) {
	switch m {
	case elf.EM_X86_64:
		return x86Target(code, pc)
	case elf.EM_AARCH64:
		return arm64Target(code, pc)
	}
	return 0, false
}

// maxLen is the longest redirect at one place: of arm64, with a lead.
const maxLen = Arm64BranchLen + Arm64FarLen

// Follow decodes the redirect at pc, as read tells what stands in memory, and
// returns where it leads in the end: a short jump goes on through the long one
// in the filler, any jump through a veneer. Other jumps at the target belong to
// the replacement. ok is false when pc holds no redirect. read returns up to
// n bytes at an address.
func Follow(m elf.Machine, pc uint64, read func(addr uint64, n int) []byte) (target uint64, ok bool) {
	code := read(pc, maxLen)
	target, ok = Target(m, code, pc)
	if ok && m == elf.EM_X86_64 && code[0] == x86Short {
		target, ok = Target(m, read(target, X86NearLen), target)
	}
	if !ok || isFar(m, code) {
		return target, ok
	}
	if veneer := read(target, maxLen); isFar(m, veneer) {
		return Target(m, veneer, target)
	}
	return target, true
}

// isFar says whether code begins with the jump that VeneerCode returns.
func isFar(m elf.Machine, code []byte) bool {
	jump, holes := VeneerCode(m)
	return len(code) >= len(jump) && bytes.HasPrefix(code, jump[:holes[0].Off])
}

// Len returns how many bytes a strategy writes at the site itself, 0 if the
// machine has no such strategy.
func Len(m elf.Machine, st Strategy) int {
	switch {
	case m == elf.EM_X86_64 && (st == Near || st == Veneer):
		return X86NearLen
	case m == elf.EM_X86_64 && st == Filler:
		return X86ShortLen
	case m == elf.EM_AARCH64 && (st == Near || st == Veneer):
		return Arm64BranchLen
	case st == Far:
		return FarLen(m)
	}
	return 0
}

// FarLen returns the length of a jump that reaches any address.
func FarLen(m elf.Machine) int {
	switch m {
	case elf.EM_X86_64:
		return X86FarLen
	case elf.EM_AARCH64:
		return Arm64FarLen
	}
	return 0
}

// Fill returns the bytes of the write once the image is loaded at bias and the
// replacement is at target (both addresses of the running process). A target
// that the encoding cannot reach is a *ReachError, one that it cannot express
// an *AlignError.
func (t Template) Fill(target uint64, bias uint64) ([]byte, error) {
	out := slices.Clone(t.Bytes)
	for _, h := range t.Holes {
		n := holeSize(h.Kind)
		if n == 0 || h.Off < 0 || h.Off > len(out)-n {
			return nil, &HoleError{Hole: h, Len: len(out)}
		}
		if err := fillHole(out[h.Off:], h.Kind, t.Addr+bias+uint64(h.Off), target); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func holeSize(k HoleKind) int {
	switch k {
	case Rel32, Branch26:
		return 4
	case Abs64:
		return 8
	}
	return 0
}

func fillHole(b []byte, k HoleKind, at, target uint64) error {
	switch k {
	case Rel32:
		d := int64(target - (at + 4))
		if d < Rel32Min || d > Rel32Max {
			return &ReachError{Kind: k, At: at, Target: target}
		}
		binary.LittleEndian.PutUint32(b, uint32(d))
	case Abs64:
		binary.LittleEndian.PutUint64(b, target)
	case Branch26:
		d := int64(target - at)
		if d%Arm64BranchLen != 0 {
			return &AlignError{Addr: target}
		}
		if d < Branch26Min || d > Branch26Max {
			return &ReachError{Kind: k, At: at, Target: target}
		}
		word := binary.LittleEndian.Uint32(b)
		binary.LittleEndian.PutUint32(b, word&^branch26Mask|uint32(d/Arm64BranchLen)&branch26Mask)
	}
	return nil
}

// Window returns the lowest and the highest target that Fill accepts when the
// image is loaded at bias. Addresses do not wrap.
func (t Template) Window(bias uint64) (lo, hi uint64) {
	lo, hi = 0, math.MaxUint64
	for _, h := range t.Holes {
		at := t.Addr + bias + uint64(h.Off)
		switch h.Kind {
		case Rel32:
			lo, hi = max(lo, offset(at+4, Rel32Min)), min(hi, offset(at+4, Rel32Max))
		case Branch26:
			lo, hi = max(lo, offset(at, Branch26Min)), min(hi, offset(at, Branch26Max))
		}
	}
	return lo, hi
}

// Window returns the targets that every write of the plan reaches.
func (p Plan) Window(bias uint64) (lo, hi uint64) {
	lo, hi = 0, math.MaxUint64
	for _, w := range p.Writes {
		l, h := w.Window(bias)
		lo, hi = max(lo, l), min(hi, h)
	}
	return lo, hi
}

// offset adds d to an address and stops at the ends of the address space.
func offset(a uint64, d int64) uint64 {
	switch sum := a + uint64(d); {
	case d < 0 && sum > a:
		return 0
	case d > 0 && sum < a:
		return math.MaxUint64
	default:
		return sum
	}
}

// place makes the template of bytes written at addr over what stands there.
func place(addr uint64, expected, code []byte, holes ...Hole) Template {
	return Template{
		To:       Place{Kind: Replacement},
		Addr:     addr,
		Expected: slices.Clone(expected[:len(code)]),
		Bytes:    slices.Clone(code),
		Holes:    holes,
	}
}

// fits says whether a site has room for n bytes whose old content is known.
func fits(s Site, st Strategy, n int) error {
	if s.Room < n {
		return &RoomError{Addr: s.Addr, Strategy: st, Need: n, Have: s.Room}
	}
	if len(s.Expected) < n {
		return &BytesError{Addr: s.Addr, Need: n, Have: len(s.Expected)}
	}
	return nil
}
