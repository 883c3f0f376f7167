package disasm

import (
	"bytes"
	"debug/elf"
	"flag"
	"math/rand"
	"os/exec"
	"testing"
)

// The oracle is built by scripts/sweep-disasm from scripts/zydis-oracle.c.
var (
	zydisPath  = flag.String("zydis", "", "path of the Zydis oracle; the tests that need it are skipped without")
	zydisCount = flag.Int("zydis-count", 2_000_000, "random encodings to compare with it")
	zydisShow  = flag.Int("zydis-show", 20, "differences of each kind to print")
)

const recordLen = 16

// zydisAnswer is what the oracle says about one record.
type zydisAnswer struct {
	Len  int
	Kind byte // 1 RIP-relative, 2 branch
	Field
}

func askZydis(t testing.TB, records []byte) []zydisAnswer {
	t.Helper()
	cmd := exec.Command(*zydisPath)
	cmd.Stdin = bytes.NewReader(records)
	out, err := cmd.Output()
	if err != nil || len(out)*4 != len(records) {
		t.Fatalf("run %s: %v, %d bytes of answers to %d of questions", *zydisPath, err, len(out), len(records))
	}
	answers := make([]zydisAnswer, len(out)/4)
	for i := range answers {
		o := out[i*4:]
		answers[i] = zydisAnswer{int(o[0]), o[1], Field{o[2], o[3]}}
	}
	return answers
}

// randomX86 fills b with bytes that look like an instruction: prefixes, an
// opcode of a random encoding, then anything.
func randomX86(r *rand.Rand, b []byte) {
	r.Read(b)
	prefixes := [...]byte{0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x2e, 0x3e, 0x64, 0x48, 0x41, 0x4f, 0x40}
	p := 0
	for p < 3 && r.Intn(3) == 0 {
		b[p] = prefixes[r.Intn(len(prefixes))]
		p++
	}
	switch r.Intn(10) {
	case 0, 1:
		b[p] = 0x0f
	case 2:
		b[p], b[p+1] = 0x0f, 0x38
	case 3:
		b[p], b[p+1] = 0x0f, 0x3a
	case 4:
		b[0] = 0xc5
	case 5, 6:
		b[0], b[1] = 0xc4, b[1]&0xe0|byte(1+r.Intn(3))
		if r.Intn(2) == 0 {
			b[2] |= 0x78
		}
	case 7, 8:
		b[0], b[1], b[2] = 0x62, b[1]&0xf0|byte(1+r.Intn(6)), b[2]|4
		if r.Intn(2) == 0 {
			b[2], b[3] = b[2]|0x78, b[3]|8
		}
	case 9:
		b[0], b[1] = 0x8f, b[1]&0xe0|byte(8+r.Intn(3))
	}
}

// TestZydisRandom compares random encodings with the oracle. A length or a
// field that differs is an error; so is an instruction that we refuse, but for
// those in zydisKnown. What only we accept is counted: where Zydis and objdump
// disagree the tables hold the union.
func TestZydisRandom(t *testing.T) {
	if *zydisPath == "" {
		t.Skip("needs -zydis; run scripts/sweep-disasm --zydis")
	}
	r := rand.New(rand.NewSource(1))
	records := make([]byte, *zydisCount*recordLen)
	for i := 0; i < len(records); i += recordLen {
		randomX86(r, records[i:i+recordLen])
	}
	var valid, agree, known, refused, accepted, differ int
	for i, want := range askZydis(t, records) {
		b := records[i*recordLen:][:maxX86Len]
		in, err := Decode(elf.EM_X86_64, b)
		if want.Len > 0 {
			valid++
		}
		switch {
		case err != nil && want.Len == 0:
			agree++
		case err != nil:
			if zydisKnown(b) {
				known++
			} else if refused++; refused <= max(5, *zydisShow) {
				t.Errorf("refused (%v): % x", err, b[:want.Len])
			}
		case want.Len == 0:
			if accepted++; accepted <= *zydisShow {
				t.Logf("only we accept: % x", b[:in.Len])
			}
		case in.Len != want.Len || in.PCRel != want.Field:
			if differ++; differ <= *zydisShow {
				t.Errorf("% x: length %d field %v, Zydis says %d %v", b, in.Len, in.PCRel, want.Len, want.Field)
			}
		default:
			agree++
		}
	}
	t.Logf("%d encodings, %d valid: %d agree, %d lengths or fields differ, we refuse %d and %d of Knights Corner, only we accept %d",
		*zydisCount, valid, agree, differ, refused, known, accepted)
}

// zydisKnown has what Zydis accepts and no x86-64 processor does: the jumps,
// mask operations and prefetches of Knights Corner, all in VEX map 1.
func zydisKnown(b []byte) bool {
	op, vex := b[2], b[0] == 0xc5
	if b[0] == 0xc4 && b[1]&0x1f != map0F38 {
		op, vex = b[3], true
	}
	switch op {
	case 0x18, 0x3e, 0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x84, 0x85,
		0x90, 0x92, 0x93, 0x95, 0x97, 0x98, 0xae, 0xb8, 0xbc, 0xbd:
		return vex
	}
	return false
}
