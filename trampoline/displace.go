package trampoline

import (
	"debug/elf"
	"fmt"

	"livepatch/disasm"
)

// Displaced is the beginning of a function, moved elsewhere so that it does
// there what it did in its own place: what a redirect overwrites, followed by a
// jump to the rest.
//
// Every register, flag and word of the stack is what it would have been. A call
// in it leaves the return address of the original, so that whoever unwinds the
// stack sees the function itself.
type Displaced struct {
	Code
	Len int // bytes of the function that were moved: whole instructions
}

// A DisplaceError says why an instruction cannot be moved.
type DisplaceError struct {
	Addr uint64 // of the instruction, link-time
	Text string
}

func (e *DisplaceError) Error() string {
	return fmt.Sprintf("instruction at %#x cannot be moved: %s", e.Addr, e.Text)
}

// Displace moves the instructions that share a byte with the first n bytes of
// body, which stands at the link-time address addr. NOPs are left out.
// A *DisplaceError names an instruction that would not do the same elsewhere,
// or that refers to the moved bytes themselves. Branches from the rest of the
// function into them are for the caller to look for: they would arrive in the
// redirect.
func Displace(m elf.Machine, body []byte, addr uint64, n int) (Displaced, error) {
	v := mover{addr: addr, end: addr + uint64(n)}
	var move func(*mover, disasm.Inst, []byte, uint64) (bool, error)
	var back func(*mover)
	switch m {
	case elf.EM_X86_64:
		move, back = (*mover).x86, (*mover).x86Back
	case elf.EM_AARCH64:
		move, back = (*mover).arm64, (*mover).arm64Back
	default:
		return Displaced{}, &UnsupportedError{Machine: m, Strategy: Near}
	}
	for v.Len < n {
		pc := addr + uint64(v.Len)
		in, err := disasm.Decode(m, body[v.Len:])
		if err != nil {
			return Displaced{}, &DisplaceError{pc, err.Error()}
		}
		if err := v.apart(in, pc); err != nil {
			return Displaced{}, err
		}
		raw := body[v.Len : v.Len+in.Len]
		v.Len += in.Len
		if in.Nop {
			continue
		}
		v.row(Row{As: pc})
		ends, err := move(&v, in, raw, pc)
		if err != nil {
			return Displaced{}, err
		}
		if ends {
			return v.Displaced, nil
		}
	}
	v.row(Row{As: addr + uint64(v.Len)})
	back(&v)
	return v.Displaced, nil
}

// mover moves instructions one after the other.
type mover struct {
	Displaced
	addr, end uint64 // what is overwritten
}

// apart refuses what refers to the overwritten bytes. The address of the first
// may be taken: it is the function's own.
func (v *mover) apart(in disasm.Inst, pc uint64) error {
	to, ok := in.Target(pc)
	if !ok || in.Page || to < v.addr || to >= v.end || to == v.addr && in.Mem && in.Flow == disasm.Next && takesAddress(in) {
		return nil
	}
	return &DisplaceError{pc, fmt.Sprintf("it refers to %#x, which is overwritten", to)}
}

// takesAddress tells lea from loads; of arm64, apart sees adr as well, which
// has no opcode of x86-64, and is refused.
func takesAddress(in disasm.Inst) bool {
	return in.X86.Encoding == disasm.Legacy && in.X86.Map == 0 && in.X86.Opcode == x86Lea
}

// comesBack refuses a call that would return into the overwritten bytes.
func (v *mover) comesBack(pc, next uint64) error {
	if next < v.end {
		return &DisplaceError{pc, "the call returns into what is overwritten"}
	}
	return nil
}

// ends reports whether nothing follows an instruction.
func ends(f disasm.Flow) bool {
	return f == disasm.Jump || f == disasm.IndirectJump || f == disasm.Return || f == disasm.Trap
}
