package live

import (
	"bytes"
	"debug/elf"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func record() *Record {
	return &Record{
		Control: Control{State: Applied, Sequence: 7, Owner: Owner{PID: 4182, Start: 99, Namespace: 5}},
		Name:    "fix", Digest: [32]byte{1, 2, 3}, Requires: [][32]byte{{4}, {5}}, Target: "server", BuildID: []byte{0xab, 0xcd},
		Bias: 0x555555554000, Base: 0x555555000000, Sizes: [3]uint64{0x1000, 0x2000, 0x1000},
		Functions: []Function{
			{Name: "answer", Old: 0x555555555100, OldSize: 0x20, New: 0x555555001000, NewSize: 0x30},
			{Name: "other", Old: 0x555555555200, OldSize: 0x40, New: 0x555555001040, NewSize: 0x10, Outlined: []Extent{{0x555555555900, 8}}},
		},
		Writes: []Write{
			{Function: 0, Addr: 0x555555555104, Old: []byte{1, 2, 3, 4, 5}, New: []byte{0xe9, 1, 2, 3, 4}},
			{Function: 1, Addr: 0x555555555200, Old: []byte{9, 9}, New: []byte{0xeb, 0xf9}},
		},
		Symbols:   []Symbol{{"added", 0x555555001060, 0x10}},
		Frames:    Extent{0x555555000400, 0x80},
		Unwinders: []Unwinder{{Tell: 0x555555001100, Forget: 0x555555001180, Object: 0x555555003000, Flag: 0x555555003070}},
	}
}

// memory is bytes at an address.
type memory struct {
	base uint64
	b    []byte
}

func (m memory) ReadAt(p []byte, off int64) (int, error) {
	if uint64(off) < m.base || uint64(off)-m.base >= uint64(len(m.b)) {
		return 0, bytes.ErrTooLarge
	}
	return copy(p, m.b[uint64(off)-m.base:]), nil
}

func TestRecordRoundTrip(t *testing.T) {
	for _, r := range []*Record{record(), {Control: Control{State: Preparing}}} {
		got, err := Decode(append(r.Encode(), 0, 0, 0))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(r, got, cmpopts.EquateEmpty()); diff != "" {
			t.Error(diff)
		}
		if !bytes.Equal(got.Encode(), r.Encode()) {
			t.Error("encoding again gives other bytes")
		}
	}
}

// What unwinders know is read where the record says; what says nothing may be
// anything.
func TestRegistrations(t *testing.T) {
	for flag, want := range map[byte]string{0: "unregistered", 1: "unregistered", 2: "registered", 3: "unregistered", 4: "unregistered", 200: "registered"} {
		r := record()
		b := make([]byte, 0x4000)
		copy(b, r.Encode())
		b[0x3070] = flag
		list := Find(memory{r.Base, b}, [][2]uint64{{r.Base, r.Base + 0x1000}})
		if len(list) != 1 {
			t.Fatal("not found")
		}
		if got := list[0].report().Unwinding; got != want {
			t.Errorf("%d: %s, want %s", flag, got, want)
		}
		if known := flag != 0 && flag != 4; list[0].Known() != known {
			t.Errorf("%d: known is not %v", flag, known)
		}
	}
}

func TestRecordLengthIgnoresAddresses(t *testing.T) {
	r := record()
	n := len(r.Encode())
	r.Base, r.Functions[0].New, r.Sizes[1] = 1<<46, 1<<46, 1<<20
	r.Writes[0].New = make([]byte, 5)
	if got := len(r.Encode()); got != n {
		t.Errorf("%d bytes, then %d", n, got)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(b []byte) []byte
		want   string
	}{
		{"nothing", func(b []byte) []byte { return nil }, "no magic"},
		{"magic", func(b []byte) []byte { b[1] ^= 1; return b }, "no magic"},
		{"version", func(b []byte) []byte { b[16] = 9; return b }, "version 9"},
		{"state", func(b []byte) []byte { b[StateOffset] = 77; return b }, "state 77 is unknown"},
		{"next state", func(b []byte) []byte { b[StateOffset+1] = 78; return b }, "state 78 is unknown"},
		{"phase", func(b []byte) []byte { b[PhaseOffset] = 3; b[StateOffset+1], b[StateOffset+3] = 2, 1; return b }, "phase 3"},
		{"phase to nothing", func(b []byte) []byte { b[PhaseOffset], b[StateOffset+3] = 1, 1; return b }, "leads nowhere"},
		{"phase from nothing", func(b []byte) []byte { b[PhaseOffset], b[StateOffset+1] = 1, 1; return b }, "leads nowhere"},
		{"prior state", func(b []byte) []byte { b[StateOffset+3] = 79; return b }, "state 79 is unknown"},
		{"long body", func(b []byte) []byte { le.PutUint32(b[20:], 1<<31); return b }, "body of 2147483648 bytes"},
		{"cut", func(b []byte) []byte { return b[:len(b)-1] }, "are there"},
		{"body", func(b []byte) []byte { b[len(b)-1] ^= 1; return b }, "checksum"},
		{"sum", func(b []byte) []byte { b[24] ^= 1; return b }, "checksum"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Decode(tc.change(record().Encode()))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
		})
	}
	for name, r := range map[string]*Record{
		"sizes":    {Control: Control{State: Applied}, Base: ^uint64(0) - 10, Sizes: [3]uint64{20, 0, 0}},
		"function": {Control: Control{State: Applied}, Writes: []Write{{Function: 0}}},
		"lengths":  {Control: Control{State: Applied}, Functions: []Function{{}}, Writes: []Write{{Old: []byte{1}}}},
		"outlined": {Control: Control{State: Applied}, Functions: []Function{{Outlined: []Extent{{^uint64(0), 2}}}}},
		"wraps":    {Control: Control{State: Applied}, Functions: []Function{{Old: ^uint64(0), OldSize: 2}}},
	} {
		if _, err := Decode(r.Encode()); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestFind(t *testing.T) {
	const page = 4096
	m := memory{0x10000, make([]byte, 5*page)}
	here := record()
	here.Base = 0x11000
	copy(m.b[page:], here.Encode())
	elsewhere := record() // says that it is at another place: a copy
	copy(m.b[2*page:], elsewhere.Encode())
	damaged := record()
	damaged.Base = 0x13000
	b := damaged.Encode()
	b[len(b)-1] ^= 1
	copy(m.b[3*page:], b)
	got := Find(m, [][2]uint64{{0x9000, 0xa000}, {0x10000, 0x15000}})
	if len(got) != 1 || got[0].Base != 0x11000 || got[0].Name != "fix" {
		t.Errorf("found %+v", got)
	}
}

func TestShares(t *testing.T) {
	r := record()
	r.Writes[0].Addr = 0x5555555550f0 // before the function
	for _, tc := range []struct {
		addr, n uint64
		want    string
	}{
		{0x5555555550ff, 1, ""}, {0x5555555550ff, 2, "answer"}, {0x55555555511f, 1, "answer"}, {0x555555555120, 1, ""},
		{0x555555555240, 8, ""}, {0x55555555523f, 8, "other"},
		{0x5555555550e0, 16, ""}, {0x5555555550e0, 17, "answer"}, {0x5555555550f4, 1, "answer"}, {0x5555555550f5, 1, ""},
	} {
		got := ""
		if f := r.shares(tc.addr, tc.n); f != nil {
			got = f.Name
		}
		if got != tc.want {
			t.Errorf("%#x, %d bytes: shared with %q, want %q", tc.addr, tc.n, got, tc.want)
		}
	}
}

func TestRanges(t *testing.T) {
	r := NewRanges([]Range{
		{Start: 0x2000, End: 0x2010, Name: "b"}, {Start: 0x1000, End: 0x1010, Name: "a", Open: true}, {Start: 0x3000, End: 0x3000, Name: "empty", Open: true},
	})
	for _, tc := range []struct {
		v        uint64
		pc, word string
	}{
		{0, "", ""}, {0xfff, "", ""},
		{0x1000, "a+0x0", ""}, // no return address: nothing was called before it
		{0x1001, "a+0x1", "a+0x1"},
		{0x100f, "a+0xf", "a+0xf"},
		{0x1010, "", "a+0x10"}, // behind a call that never returns
		{0x1011, "", ""}, {0x1fff, "", ""},
		{0x2001, "b+0x1", "b+0x1"}, {0x2010, "", ""}, // where the next function starts
		{0x2011, "", ""},
		{0x3000, "", ""}, {^uint64(0), "", ""},
	} {
		text := func(h Hit, ok bool) string {
			if !ok {
				return ""
			}
			return h.String()
		}
		if got := text(r.PC(tc.v)); got != tc.pc {
			t.Errorf("PC %#x: %q, want %q", tc.v, got, tc.pc)
		}
		if got := text(r.Word(tc.v)); got != tc.word {
			t.Errorf("word %#x: %q, want %q", tc.v, got, tc.word)
		}
		b := make([]byte, 27) // the word is second; three bytes are left over
		le.PutUint64(b[8:], tc.v)
		h, off, ok := r.Words(b)
		if got := text(h, ok); got != tc.word || ok && off != 8 {
			t.Errorf("words with %#x: %q at %d, want %q", tc.v, got, off, tc.word)
		}
	}
	if _, _, ok := NewRanges(nil).Words(make([]byte, 64)); ok {
		t.Error("a hit in no range")
	}
}

func TestMayEndWithCall(t *testing.T) {
	for code, want := range map[string]bool{
		"":                             false,
		"\x90\xc3":                     false, // nop; ret
		"\xe8\x01\x02\x03\x04":         true,  // call
		"\x55\xe8\x01\x02\x03\x04":     true,
		"\xe9\x01\x02\x03\x04":         false, // jmp
		"\xff\xd0":                     true,  // call *%rax
		"\xff\xe0":                     false, // jmp *%rax
		"\x41\xff\xd4":                 true,  // call *%r12
		"\xff\x15\x01\x02\x03\x04":     true,  // call *0x4030201(%rip)
		"\xff\x94\xc8\x01\x02\x03\x04": true,  // call *0x4030201(%rax,%rcx,8)
		"\xff\x54\x24\x08":             true,  // call *8(%rsp)
		"\xff\x5d\x08":                 true,  // lcall *8(%rbp)
	} {
		if got := MayEndWithCall(elf.EM_X86_64, []byte(code)); got != want {
			t.Errorf("% x: %v, want %v", code, got, want)
		}
	}
}

func BenchmarkWords(b *testing.B) {
	r := NewRanges([]Range{{Start: 0x555555555100, End: 0x555555555200, Name: "answer", Open: true}})
	mem := make([]byte, 64<<10)
	for i := 0; i+8 <= len(mem); i += 8 {
		le.PutUint64(mem[i:], 0x555555556000+uint64(i))
	}
	b.SetBytes(int64(len(mem)))
	for b.Loop() {
		r.Words(mem)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(record().Encode())
	f.Add((&Record{Control: Control{State: Preparing}}).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Decode(b)
		if err != nil {
			return
		}
		again, err := Decode(r.Encode())
		if err != nil {
			t.Fatalf("what was decoded cannot be: %v", err)
		}
		if !bytes.Equal(again.Encode(), r.Encode()) {
			t.Fatal("encoding again gives other bytes")
		}
		p := Look(memory{}, []*Record{r})
		p.Reports(func(Owner) bool { return false })
		Plan(Set{}, applied(r))
	})
}
