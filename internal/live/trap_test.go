package live

import (
	"bytes"
	"reflect"
	"testing"
)

func exampleTrap() (*Trap, []byte) {
	t := &Trap{
		Base: 0x7000, Size: 0x1000, Owner: Owner{PID: 4182, Start: 99, Namespace: 5}, Until: 12345,
		Own:      Action{0x7080, 0x1c000004, 0x7190, ^uint64(0)},
		Previous: Action{0x401000, 4, 0x402000, 1 << 9},
		Detours:  []Detour{{0x1000, 0x8000}, {0x2000, 0x8100}},
	}
	code := bytes.Repeat([]byte{0x90}, 32)
	for _, d := range t.Detours {
		code = le.AppendUint64(le.AppendUint64(code, d.Addr), d.Target)
	}
	b := make([]byte, t.Size)
	copy(b, t.Encode(code))
	return t, b
}

// What is written is found, with other memory around it; whatever is damaged is
// passed over, but for the owner, which changes, and the code, which nobody reads
// here.
func TestFindTraps(t *testing.T) {
	want, b := exampleTrap()
	find := func(b []byte) []*Trap {
		memory := append(make([]byte, 0x7000), b...)
		return FindTraps(bytes.NewReader(memory), [][2]uint64{{0x1000, 0x2000}, {0x7000, 0x7000 + uint64(len(b))}, {0x9000, 0xa000}})
	}
	if list := find(b); len(list) != 1 || !reflect.DeepEqual(list[0], want) {
		t.Fatalf("found %+v", list)
	}
	if !bytes.Equal(b[TrapAction:TrapAction+ActionSize], want.Own.Encode()) {
		t.Error("the action is not where the kernel is to read it")
	}
	for i := range trapHeader + 64 {
		damaged := bytes.Clone(b)
		damaged[i] ^= 0x10
		if found := len(find(damaged)) > 0; found != (i >= TrapOwner && i < trapHeader+32) {
			t.Errorf("damaged at %d: found %v", i, found)
		}
	}
	if list := find(b[:len(b)/2]); len(list) != 0 {
		t.Errorf("cut off: %+v", list)
	}
	for n := range trapHeader + 32 {
		if _, err := decodeTrap(b[:n]); err == nil {
			t.Errorf("%d bytes are a handler", n)
		}
	}
}

func TestTrapPlaces(t *testing.T) {
	x, _ := exampleTrap()
	for pc, want := range map[uint64]uint64{0x1000: 0, 0x1001: 0x8000, 0x2001: 0x8100, 0x2002: 0} {
		if to, ok := x.Detour(pc); to != want || ok != (want != 0) {
			t.Errorf("from %#x to %#x, %v", pc, to, ok)
		}
	}
	for addr, want := range map[uint64]bool{0x6fff: false, 0x7000: true, 0x7fff: true, 0x8000: false} {
		if x.Contains(addr) != want {
			t.Errorf("%#x: %v", addr, !want)
		}
	}
}

func TestTrapped(t *testing.T) {
	x, _ := exampleTrap()
	step := Step{Addr: 0x1000, Old: []byte{1, 2, 3}, New: []byte{4, 5, 6}}
	elsewhere := step
	elsewhere.Addr = 0x1100
	for _, tc := range []struct {
		step Step
		have []byte
		want Holds
	}{
		{step, []byte{0xcc, 2, 3}, HoldsTorn},
		{step, []byte{0xcc, 5, 3}, HoldsTorn},
		{step, []byte{0xcc, 5, 6}, HoldsTorn},
		{step, []byte{0xcc, 2, 6}, HoldsOther},
		{step, []byte{0xcc, 7, 6}, HoldsOther},
		{step, []byte{7, 5, 6}, HoldsOther},
		{step, []byte{4, 5, 6}, HoldsNew},
		{step, nil, HoldsOther},
		{elsewhere, []byte{0xcc, 2, 3}, HoldsOther}, // a debugger's
	} {
		p := &Patches{Pending: &Change{Places: []Place{{Step: tc.step, Holds: tc.step.holds(tc.have), Have: tc.have}}}}
		p.Trapped([]*Trap{x})
		if got := p.Pending.Places[0].Holds; got != tc.want {
			t.Errorf("%#x: %x: %d, not %d", tc.step.Addr, tc.have, got, tc.want)
		}
	}
	(&Patches{}).Trapped([]*Trap{x})
}
