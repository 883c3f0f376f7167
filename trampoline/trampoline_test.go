package trampoline

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"livepatch/disasm"
)

const (
	x86   = elf.EM_X86_64
	arm64 = elf.EM_AARCH64
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// site has room bytes of 0x11 and a filler of front bytes of NOPs before it.
func site(addr uint64, room, front, gap int) Site {
	return Site{
		Addr: addr, Room: room, Expected: bytes.Repeat([]byte{0x11}, room),
		Front: front, FrontBytes: bytes.Repeat([]byte{0x90}, front), Gap: gap,
	}
}

func lead(s Site) Site {
	s.Lead = Arm64BTI()
	return s
}

func TestMakeAndFill(t *testing.T) {
	tests := []struct {
		name     string
		machine  elf.Machine
		strategy Strategy
		site     Site
		bias     uint64
		target   uint64
		want     []string // address, bytes before, bytes after
	}{
		{"x86 near", x86, Near, site(0x1000, 5, 0, 0), 0, 0x2000,
			[]string{"0x1000 1111111111 e9 fb0f0000"}}, // jmp 0x2000
		{"x86 near, backwards", x86, Near, site(0x1000, 9, 0, 0), 0x400000, 0x400000,
			[]string{"0x1000 1111111111 e9 fbefffff"}}, // jmp 0x400000
		{"x86 veneer is near", x86, Veneer, site(0x1000, 5, 0, 0), 0, 0x2000,
			[]string{"0x1000 1111111111 e9 fb0f0000"}},
		{"x86 far", x86, Far, site(0x1000, 14, 0, 0), 0x1000, 0x1122334455667788,
			[]string{"0x1000 1111111111111111111111111111 ff2500000000 8877665544332211"}},
		{"x86 filler", x86, Filler, site(0x1000, 2, 7, 0), 0, 0x2000,
			[]string{"0xffb 9090909090 e9 00100000", "0x1000 1111 eb f9"}},
		{"x86 filler over endbr64", x86, Filler, site(0x1004, 2, 5, 4), 0, 0x2000,
			[]string{"0xffb 9090909090 e9 00100000", "0x1004 1111 eb f5"}},
		{"arm64 near", arm64, Near, site(0x1000, 4, 0, 0), 0, 0x2000,
			[]string{"0x1000 11111111 00040014"}}, // b 0x2000
		{"arm64 near, backwards", arm64, Near, site(0x1000, 4, 0, 0), 0x10000, 0x10ffc,
			[]string{"0x1000 11111111 ffffff17"}}, // b 0x10ffc
		{"arm64 veneer is near", arm64, Veneer, site(0x1000, 8, 0, 0), 0, 0x1000,
			[]string{"0x1000 11111111 00000014"}},
		{"arm64 near with a landing pad", arm64, Near, lead(site(0x1000, 8, 0, 0)), 0, 0x2000,
			[]string{"0x1000 1111111111111111 5f2403d5 ff030014"}}, // bti c; b 0x2000
		{"arm64 far", arm64, Far, site(0x1004, 16, 0, 0), 0, 0x1122334455667788,
			[]string{"0x1004 11111111111111111111111111111111 50000058 00021fd6 8877665544332211"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			plan, err := Make(tt.machine, tt.site, tt.strategy)
			if err != nil {
				t.Fatal(err)
			}
			if len(plan.Writes) != len(tt.want) {
				t.Fatalf("%d writes, want %d", len(plan.Writes), len(tt.want))
			}
			for i, w := range plan.Writes {
				got, err := w.Fill(tt.target, tt.bias)
				if err != nil {
					t.Fatal(err)
				}
				if len(w.Expected) != len(w.Bytes) {
					t.Errorf("write %d: %d bytes expected before, %d written", i, len(w.Expected), len(w.Bytes))
				}
				addr, rest, _ := strings.Cut(tt.want[i], " ")
				before, after, _ := strings.Cut(rest, " ")
				if text := "0x" + strings.TrimLeft(hex.EncodeToString(be(w.Addr)), "0"); text != addr {
					t.Errorf("write %d is at %s, want %s", i, text, addr)
				}
				if !bytes.Equal(w.Expected, unhex(t, before)) || !bytes.Equal(got, unhex(t, after)) {
					t.Errorf("write %d: % x over % x, want %s over %s", i, got, w.Expected, after, before)
				}
			}
		})
	}
}

func be(v uint64) []byte {
	b := make([]byte, 8)
	for i := range b {
		b[i] = byte(v >> (56 - 8*i))
	}
	return bytes.TrimLeft(b, "\x00")
}

func TestMakeRefuses(t *testing.T) {
	unknown := site(0x1000, 16, 16, 0)
	unknown.Expected = unknown.Expected[:3]
	noFront := site(0x1000, 16, 16, 0)
	noFront.FrontBytes = noFront.FrontBytes[:4]
	tests := []struct {
		name     string
		machine  elf.Machine
		strategy Strategy
		site     Site
		want     string
	}{
		{"x86 near", x86, Near, site(0x1000, 4, 0, 0), "near jump at 0x1000 needs 5 bytes, the site has 4"},
		{"x86 veneer", x86, Veneer, site(0x1000, 4, 0, 0), "veneer jump at 0x1000 needs 5 bytes, the site has 4"},
		{"x86 far", x86, Far, site(0x1000, 13, 0, 0), "far jump at 0x1000 needs 14 bytes, the site has 13"},
		{"x86 filler, site", x86, Filler, site(0x1000, 1, 9, 0), "filler jump at 0x1000 needs 2 bytes, the site has 1"},
		{"x86 filler, front", x86, Filler, site(0x1004, 9, 4, 4), "filler jump at 0x1000 needs 5 bytes, the filler before the entry has 4"},
		{"x86 filler, gap", x86, Filler, site(0x1100, 9, 9, X86MaxGap+1), "filler jump at 0x1100 needs 122 bytes, the reach of the short jump has 121"},
		{"x86 bytes", x86, Near, unknown, "5 bytes at 0x1000 are to be overwritten, only 3 are known"},
		{"x86 filler bytes", x86, Filler, noFront, "5 bytes at 0xffb are to be overwritten, only 4 are known"},
		{"arm64 near", arm64, Near, site(0x1000, 3, 0, 0), "near jump at 0x1000 needs 4 bytes, the site has 3"},
		{"arm64 far", arm64, Far, site(0x1000, 15, 0, 0), "far jump at 0x1000 needs 16 bytes, the site has 15"},
		{"arm64 near with a landing pad", arm64, Near, lead(site(0x1000, 7, 0, 0)), "near jump at 0x1000 needs 8 bytes, the site has 7"},
		{"arm64 far with a landing pad", arm64, Far, lead(site(0x1000, 19, 0, 0)), "far jump at 0x1000 needs 20 bytes, the site has 19"},
		{"arm64 bytes", arm64, Near, Site{Addr: 0x1000, Room: 4}, "4 bytes at 0x1000 are to be overwritten, only 0 are known"},
		{"arm64 alignment", arm64, Near, site(0x1002, 16, 0, 0), "address 0x1002 is not a multiple of 4"},
		{"arm64 filler", arm64, Filler, site(0x1000, 16, 16, 0), "no filler jump on EM_AARCH64"},
		{"machine", elf.EM_RISCV, Near, site(0x1000, 16, 16, 0), "no near jump on EM_RISCV"},
		{"strategy", x86, "over-there", site(0x1000, 16, 16, 0), "no over-there jump on EM_X86_64"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Make(tt.machine, tt.site, tt.strategy)
			if err == nil || err.Error() != tt.want {
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}
}

func TestRoomIsEnoughExactlyAtTheLimit(t *testing.T) {
	for _, m := range []elf.Machine{x86, arm64} {
		for _, st := range []Strategy{Near, Veneer, Far, Filler} {
			need := Len(m, st)
			if need == 0 {
				continue
			}
			if _, err := Make(m, site(0x1000, need, X86FillerLen, 0), st); err != nil {
				t.Errorf("%v %s with room for %d: %v", m, st, need, err)
			}
			_, err := Make(m, site(0x1000, need-1, X86FillerLen, 0), st)
			if room := (*RoomError)(nil); !errors.As(err, &room) {
				t.Errorf("%v %s with room for %d: %v, want a room error", m, st, need-1, err)
			}
		}
	}
	if _, err := Make(x86, site(0x1100, 2, X86FillerLen, X86MaxGap), Filler); err != nil {
		t.Errorf("largest gap: %v", err)
	}
}

// reachLimits are the distances from the site at which reach ends.
var reachLimits = []struct {
	machine  elf.Machine
	min, max int64
	step     int64
}{
	{x86, math.MinInt32 + X86NearLen, math.MaxInt32 + X86NearLen, 1},
	{arm64, -128 << 20, 128<<20 - 4, 4},
}

func TestReach(t *testing.T) {
	const addr, bias = 0x40_0000_0000, 0x7f00_0000_0000
	for _, tt := range reachLimits {
		plan, err := Make(tt.machine, site(addr, 16, 16, 0), Near)
		if err != nil {
			t.Fatal(err)
		}
		w := plan.Writes[0]
		entry := uint64(addr + bias)
		for _, d := range []int64{tt.min, tt.max, 0, tt.step} {
			code, err := w.Fill(entry+uint64(d), bias)
			if err != nil {
				t.Errorf("%v: distance %#x: %v", tt.machine, d, err)
				continue
			}
			if got, ok := Target(tt.machine, code, entry); !ok || got != entry+uint64(d) {
				t.Errorf("%v: distance %#x decodes to %#x, %v", tt.machine, d, got-entry, ok)
			}
		}
		for _, d := range []int64{tt.min - tt.step, tt.max + tt.step, math.MinInt64, math.MaxInt64 &^ 3} {
			_, err := w.Fill(entry+uint64(d), bias)
			if reach := (*ReachError)(nil); !errors.As(err, &reach) {
				t.Errorf("%v: distance %#x: %v, want a reach error", tt.machine, d, err)
			}
		}
		lo, hi := plan.Window(bias)
		if lo != entry+uint64(tt.min) || hi != entry+uint64(tt.max) {
			t.Errorf("%v: window is %#x to %#x", tt.machine, lo, hi)
		}
	}
}

func TestFillerReach(t *testing.T) {
	plan, err := Make(x86, site(1<<40, 2, 5, 0), Filler)
	if err != nil {
		t.Fatal(err)
	}
	lo, hi := plan.Window(0)
	if lo != 1<<40-1<<31 || hi != 1<<40+math.MaxInt32 {
		t.Errorf("window is %#x to %#x", lo, hi)
	}
	for _, target := range []uint64{lo - 1, hi + 1} {
		if _, err := plan.Writes[0].Fill(target, 0); err == nil {
			t.Errorf("target %#x is accepted", target)
		}
	}
}

func TestWindowStopsAtTheEndsOfTheAddressSpace(t *testing.T) {
	plan, err := Make(x86, site(0x1000, 5, 0, 0), Near)
	if err != nil {
		t.Fatal(err)
	}
	if lo, hi := plan.Window(0); lo != 0 || hi != 0x1005+math.MaxInt32 {
		t.Errorf("low: %#x to %#x", lo, hi)
	}
	if lo, hi := plan.Window(math.MaxUint64 - 0x1fff); lo != math.MaxUint64-0xffa-1<<31 || hi != math.MaxUint64 {
		t.Errorf("high: %#x to %#x", lo, hi)
	}
	far, err := Make(x86, site(0x1000, 14, 0, 0), Far)
	if err != nil {
		t.Fatal(err)
	}
	if lo, hi := far.Window(0); lo != 0 || hi != math.MaxUint64 {
		t.Errorf("far: %#x to %#x", lo, hi)
	}
}

func TestFillRefusesForeignHoles(t *testing.T) {
	for _, h := range []Hole{{2, Rel32}, {-1, Rel32}, {0, Abs64}, {0, "rel8"}, {math.MaxInt, Rel32}} {
		_, err := Template{Bytes: make([]byte, 5), Holes: []Hole{h}}.Fill(0, 0)
		if hole := (*HoleError)(nil); !errors.As(err, &hole) {
			t.Errorf("hole %v: %v, want a hole error", h, err)
		}
	}
	plan, err := Make(arm64, site(0x1000, 4, 0, 0), Near)
	if err != nil {
		t.Fatal(err)
	}
	_, err = plan.Writes[0].Fill(0x2002, 0)
	if align := (*AlignError)(nil); !errors.As(err, &align) {
		t.Errorf("odd target: %v, want an align error", err)
	}
}

func TestFillLeavesTheTemplateAlone(t *testing.T) {
	plan, err := Make(x86, site(0x1000, 14, 0, 0), Far)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plan.Writes[0].Fill(math.MaxUint64, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(plan.Writes[0].Bytes, x86FarJump) || x86FarJump[13] != 0 {
		t.Error("the template or the table changed")
	}
	code, _ := VeneerCode(x86)
	code[0] = 0
	if x86FarJump[0] != 0xff {
		t.Error("the veneer is the table itself")
	}
}

func TestChoose(t *testing.T) {
	tests := []struct {
		machine elf.Machine
		site    Site
		want    Strategy
	}{
		{x86, site(0x1000, 5, 16, 0), Near},
		{x86, site(0x1000, 4, 16, 0), Filler},
		{x86, site(0x1000, 4, 4, 0), ""},
		{x86, site(0x1000, 1, 16, 0), ""},
		{arm64, site(0x1000, 4, 0, 0), Near},
		{arm64, site(0x1000, 0, 16, 0), ""},
	}
	for _, tt := range tests {
		got, err := Choose(tt.machine, tt.site)
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%v, room %d, front %d: %q, %v, want %q", tt.machine, tt.site.Room, tt.site.Front, got, err, tt.want)
		}
	}
}

func TestTargetRefusesOtherCode(t *testing.T) {
	tests := []struct {
		machine elf.Machine
		code    string
	}{
		{x86, ""}, {x86, "e9 000000"}, {x86, "eb"}, {x86, "ff25 00000000 00000000000000"},
		{x86, "ff25 01000000 0000000000000000"}, {x86, "e8 00000000"}, {x86, "90909090909090909090909090909090"},
		{arm64, ""}, {arm64, "000000"}, {arm64, "00000094"}, {arm64, "1f2003d5"},
		{arm64, "50000058 00021fd6 00000000000000"}, {arm64, "51000058 00021fd6 0000000000000000"},
		{elf.EM_RISCV, "e900000000"},
	}
	for _, tt := range tests {
		if got, ok := Target(tt.machine, unhex(t, tt.code), 0x1000); ok {
			t.Errorf("%v %s leads to %#x", tt.machine, tt.code, got)
		}
	}
}

// memory holds written bytes by address; it stands for a process.
type memory map[uint64]byte

func (m memory) write(addr uint64, b []byte) {
	for i, c := range b {
		m[addr+uint64(i)] = c
	}
}

func (m memory) read(addr uint64, n int) []byte {
	var out []byte
	for i := range n {
		c, ok := m[addr+uint64(i)]
		if !ok {
			break
		}
		out = append(out, c)
	}
	return out
}

func TestFollowFindsTheReplacement(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		m := []elf.Machine{x86, arm64}[rng.IntN(2)]
		st := []Strategy{Near, Far, Filler, Veneer}[rng.IntN(4)]
		if m == arm64 && st == Filler {
			continue
		}
		bias := rng.Uint64N(1<<46) &^ 0xfff
		addr := 1<<32 + rng.Uint64N(1<<30)&^3
		where := site(addr, 20, 8, 4*rng.IntN(2))
		if m == arm64 && rng.IntN(2) == 0 {
			where.Lead = Arm64BTI()
		}
		plan, err := Make(m, where, st)
		if err != nil {
			t.Fatal(err)
		}
		lo, hi := plan.Window(bias)
		target := lo + rng.Uint64N(hi-lo)
		target &^= 3
		if target < lo {
			target += 4
		}
		mem := memory{}
		jump := target
		if st == Veneer {
			code, holes := VeneerCode(m)
			far, err := Template{Addr: jump, Bytes: code, Holes: holes}.Fill(^target&^3, 0)
			if err != nil {
				t.Fatal(err)
			}
			mem.write(jump, far)
			target = ^target &^ 3
		}
		for _, w := range plan.Writes {
			b, err := w.Fill(jump, bias)
			if err != nil {
				t.Fatal(err)
			}
			mem.write(w.Addr+bias, b)
		}
		if got, ok := Follow(m, addr+bias, mem.read); !ok || got != target {
			t.Fatalf("%v %s at %#x leads to %#x, %v, want %#x", m, st, addr+bias, got, ok, target)
		}
	}
	if got, ok := Follow(x86, 0x1000, memory{}.read); ok {
		t.Errorf("no code leads to %#x", got)
	}
	mem := memory{}
	mem.write(0x1000, unhex(t, "e9fb0f0000")) // jmp 0x2000
	mem.write(0x2000, unhex(t, "e9fb0f0000")) // jmp 0x3000, of the replacement
	if got, ok := Follow(x86, 0x1000, mem.read); !ok || got != 0x2000 {
		t.Errorf("a replacement that jumps on: %#x, %v", got, ok)
	}
	mem.write(0x1000, unhex(t, "ebfe"))
	if got, ok := Follow(x86, 0x1000, mem.read); !ok || got != 0x1000 {
		t.Errorf("a jump to itself: %#x, %v", got, ok)
	}
}

// decode returns where the instructions of a write lead, according to the
// decoder, which shares nothing with Target.
func decode(t *testing.T, m elf.Machine, code []byte, pc uint64) uint64 {
	t.Helper()
	in, err := disasm.Decode(m, code)
	if err != nil {
		t.Fatalf("% x: %v", code, err)
	}
	target, ok := in.Target(pc)
	switch {
	case ok && in.Flow == disasm.Jump:
		return target
	case ok && m == arm64 && in.Mem && in.Flow == disasm.Next:
		if br, err := disasm.Decode(m, code[in.Len:]); err != nil || br.Flow != disasm.IndirectJump {
			t.Fatalf("% x: the load is not followed by br: %+v, %v", code, br, err)
		}
	case ok && m == x86 && in.Mem && in.Flow == disasm.IndirectJump:
	default:
		t.Fatalf("% x is no jump: %+v", code, in)
	}
	return binary.LittleEndian.Uint64(code[target-pc:])
}

func TestDecoderAgreesWithEveryEmittedJump(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 5000 {
		m := []elf.Machine{x86, arm64}[rng.IntN(2)]
		st := []Strategy{Near, Far, Filler}[rng.IntN(3)]
		if m == arm64 && st == Filler {
			st = Veneer
		}
		addr, gap := 1<<33+rng.Uint64N(1<<30)&^3, 4*rng.IntN(30)
		where := site(addr, 20, 8, gap)
		if m == arm64 && rng.IntN(2) == 0 {
			where.Lead = Arm64BTI()
		}
		plan, err := Make(m, where, st)
		if err != nil {
			t.Fatal(err)
		}
		lo, hi := plan.Window(0)
		target := min(lo+rng.Uint64N(hi-lo)|3, hi-3) &^ 3
		want := target
		for _, w := range plan.Writes {
			b, err := w.Fill(target, 0)
			if err != nil {
				t.Fatal(err)
			}
			lead := uint64(len(where.Lead))
			got := decode(t, m, b[lead:], w.Addr+lead)
			if own, ok := Target(m, b, w.Addr); !ok || own != got {
				t.Fatalf("% x at %#x: Target says %#x, %v, the decoder %#x", b, w.Addr, own, ok, got)
			}
			if got != want {
				t.Fatalf("%v %s, gap %d: % x at %#x leads to %#x, want %#x", m, st, gap, b, w.Addr, got, want)
			}
			want = w.Addr // the next write leads here
		}
	}
}

func FuzzTarget(f *testing.F) {
	f.Add(false, unhex(f, "e9fb0f0000"), uint64(0x1000))
	f.Add(false, unhex(f, "ff25000000008877665544332211"), uint64(0))
	f.Add(true, unhex(f, "00040014"), uint64(0x1000))
	f.Add(true, unhex(f, "5000005800021fd68877665544332211"), uint64(8))
	f.Fuzz(func(t *testing.T, isArm bool, code []byte, pc uint64) {
		m := elf.Machine(x86)
		if isArm {
			m, pc = arm64, pc&^3
			if bti := Arm64BTI(); bytes.HasPrefix(code, bti) {
				code, pc = code[len(bti):], pc+uint64(len(bti))
			}
		}
		target, ok := Target(m, code, pc)
		if !ok {
			return
		}
		// What decodes is what would be emitted for the same target, except
		// the short jump, which is never emitted alone.
		for _, st := range []Strategy{Near, Far} {
			n := Len(m, st)
			if len(code) < n {
				continue
			}
			plan, err := Make(m, Site{Addr: pc, Room: n, Expected: code[:n]}, st)
			if err != nil {
				t.Fatal(err)
			}
			if b, err := plan.Writes[0].Fill(target, 0); err == nil && bytes.Equal(b, code[:n]) {
				return
			}
		}
		if m == x86 && code[0] == 0xeb {
			return
		}
		t.Fatalf("% x at %#x decodes to %#x but is not what is emitted for it", code, pc, target)
	})
}
