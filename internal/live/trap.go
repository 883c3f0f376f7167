package live

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"io"
)

// An Action is what a process does about a signal: struct kernel_sigaction of
// x86-64 (arch/x86/include/uapi/asm/signal.h, include/linux/signal_types.h).
type Action struct{ Handler, Flags, Restorer, Mask uint64 }

// ActionSize is the number of bytes of an Action in memory.
const ActionSize = 32

// Encode returns the bytes of an action, as the kernel takes them.
func (a Action) Encode() []byte {
	var b []byte
	for _, v := range []uint64{a.Handler, a.Flags, a.Restorer, a.Mask} {
		b = le.AppendUint64(b, v)
	}
	return b
}

// DecodeAction reads an action from the first ActionSize bytes.
func DecodeAction(b []byte) Action {
	return Action{le.Uint64(b), le.Uint64(b[8:]), le.Uint64(b[16:]), le.Uint64(b[24:])}
}

// A Detour is a breakpoint and where the handler sends who meets it.
type Detour struct{ Addr, Target uint64 }

// A Trap is memory in a target that holds the handler of breakpoints, for as long
// as code is changed that threads may execute. It says so at its start, so that
// another loader can clear up when the one that made it has died.
type Trap struct {
	Base     uint64
	Size     uint64   // bytes, whole pages
	Owner    Owner    // the loader that made it
	Until    uint64   // when that will have ended its change: nanoseconds since boot
	Own      Action   // of SIGTRAP while the handler is installed
	Previous Action   // from before, to be put back
	Detours  []Detour // by address
}

// The start of the memory, little-endian:
//
//	 0  16  magic
//	16   4  format version
//	20   4  CRC-32 (IEEE) of what follows up to the owner, and of the detours
//	24  16  base, size
//	40  32  own action, which rt_sigaction reads here
//	72  32  previous action
//	104 16  offset of the detours, their number
//	120 32  owner's number, start, namespace; until
//	152  8  zero
//	160  …  code of the handler; detours: address and target of each
const (
	trapMagic   = "\x7fLIVEPATCH\x00\xd1\x9e\x5c\x0a\x02"
	trapVersion = 1
	trapHeader  = 160
	detourSize  = 16
	maxTrap     = 1 << 30

	// TrapMagicSize is the length of the magic, without which it is not found.
	TrapMagicSize = len(trapMagic)
	// TrapOwner and TrapOwnerSize are the place of owner and time, which are
	// zero when no loader is at work.
	TrapOwner, TrapOwnerSize = 120, 32
	// TrapAction is the place of the own action.
	TrapAction = 40
	// TrapCode is the place of the handler.
	TrapCode = trapHeader
)

// Encode returns the bytes of the memory. code is that of the handler with the
// detours at its end.
func (t *Trap) Encode(code []byte) []byte {
	b := append([]byte(trapMagic), make([]byte, 8)...)
	b = le.AppendUint64(le.AppendUint64(b, t.Base), t.Size)
	b = append(append(b, t.Own.Encode()...), t.Previous.Encode()...)
	table := trapHeader + len(code) - detourSize*len(t.Detours)
	for _, v := range []uint64{uint64(table), uint64(len(t.Detours)), uint64(t.Owner.PID), t.Owner.Start, t.Owner.Namespace, t.Until} {
		b = le.AppendUint64(b, v)
	}
	b = append(append(b, make([]byte, trapHeader-len(b))...), code...)
	le.PutUint32(b[16:], trapVersion)
	le.PutUint32(b[20:], trapSum(b[:trapHeader], b[table:]))
	return b
}

func trapSum(header, detours []byte) uint32 {
	return crc32.Update(crc32.ChecksumIEEE(header[24:TrapOwner]), crc32.IEEETable, detours)
}

// decodeTrap reads the header at the start of b, which holds all of the memory.
func decodeTrap(b []byte) (*Trap, error) {
	if len(b) < trapHeader || string(b[:16]) != trapMagic || le.Uint32(b[16:]) != trapVersion {
		return nil, fmt.Errorf("handler of breakpoints: no magic or another version")
	}
	t := &Trap{
		Base: le.Uint64(b[24:]), Size: le.Uint64(b[32:]), Own: DecodeAction(b[40:]), Previous: DecodeAction(b[72:]),
		Owner: Owner{PID: uint32(le.Uint64(b[120:])), Start: le.Uint64(b[128:]), Namespace: le.Uint64(b[136:])}, Until: le.Uint64(b[144:]),
	}
	table, n := le.Uint64(b[104:]), le.Uint64(b[112:])
	if table > uint64(len(b)) || n > (uint64(len(b))-table)/detourSize {
		return nil, fmt.Errorf("handler of breakpoints: %d detours at %#x do not fit in %#x bytes", n, table, len(b))
	}
	detours := b[table : table+n*detourSize]
	if trapSum(b[:trapHeader], detours) != le.Uint32(b[20:]) {
		return nil, fmt.Errorf("handler of breakpoints: checksum")
	}
	for ; len(detours) > 0; detours = detours[detourSize:] {
		t.Detours = append(t.Detours, Detour{le.Uint64(detours), le.Uint64(detours[8:])})
	}
	return t, nil
}

// FindTraps reads every handler of breakpoints that starts a page of the given
// extents of memory and says of itself that it is there.
func FindTraps(mem io.ReaderAt, extents [][2]uint64) []*Trap {
	const page = 4096
	var list []*Trap
	var head [trapHeader]byte
	for _, e := range extents {
		for at := e[0]; at < e[1] && e[1]-at >= page; at += page {
			if n, _ := mem.ReadAt(head[:], int64(at)); n != len(head) || string(head[:TrapMagicSize]) != trapMagic {
				continue
			}
			b := make([]byte, min(le.Uint64(head[32:]), e[1]-at, maxTrap))
			if n, _ := mem.ReadAt(b, int64(at)); n != len(b) {
				continue
			}
			if t, err := decodeTrap(b); err == nil && t.Base == at && t.Size == uint64(len(b)) {
				list = append(list, t)
			}
		}
	}
	return list
}

// Contains reports whether an address is in the memory.
func (t *Trap) Contains(addr uint64) bool { return addr >= t.Base && addr-t.Base < t.Size }

// Detour returns where a thread goes that has met a breakpoint: its instruction
// pointer is behind that.
func (t *Trap) Detour(pc uint64) (target uint64, ok bool) {
	for _, d := range t.Detours {
		if d.Addr+1 == pc {
			return d.Target, true
		}
	}
	return 0, false
}

// Trapped tells a process that handlers of breakpoints are in its memory: a
// breakpoint at the place of a pending write that one of them knows is no
// debugger's.
func (p *Patches) Trapped(traps []*Trap) {
	if p.Pending == nil {
		return
	}
	for i := range p.Pending.Places {
		place := &p.Pending.Places[i]
		for _, t := range traps {
			if _, ok := t.Detour(place.Addr + 1); ok && place.Holds == HoldsOther && place.behindBreakpoint() {
				place.Holds = HoldsTorn
			}
		}
	}
}

// behindBreakpoint reports whether a place holds a breakpoint, then new bytes and
// old ones.
func (p *Place) behindBreakpoint() bool {
	const breakpoint = 0xcc
	if len(p.Have) == 0 || p.Have[0] != breakpoint {
		return false
	}
	for i := 1; i <= len(p.Have); i++ {
		if bytes.Equal(p.Have[1:i], p.New[1:i]) && bytes.Equal(p.Have[i:], p.Old[i:]) {
			return true
		}
	}
	return false
}
