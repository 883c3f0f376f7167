package unwind

import (
	"debug/elf"
	"encoding/binary"
	"math"
	"slices"
	"testing"
)

// Rules that are written are those that are read, whatever instructions they were
// read from.
func TestRulesComeBack(t *testing.T) {
	const sp, at = 7, 0x1000
	programs := [][]byte{
		{cfaAdvance | 1, cfaDefOffset, 16, cfaOffset | 6, 2, cfaAdvance | 3, cfaDefRegister, 6, cfaAdvance | 40, cfaDef, sp, 8, cfaRestore | 6},
		{cfaAdvance | 4, cfaDefExpr, 2, 0x76, 0x78, cfaExpr, 3, 2, 0x76, 0x70, cfaValExpr, 12, 2, 0x77, 8}, // breg6-8, breg6-16, breg7+8
		{cfaAdvance2, 0x10, 1, cfaValOffset, 3, 2, cfaRegister, 12, 13, cfaUndefined, 14, cfaDefSF, sp, 0x7e, cfaOffsetSF, 15, 0x7d},
		{cfaAdvance | 2, cfaNegateState, cfaAdvance | 2, cfaDefOffset, 0x80, 1, cfaAdvance | 2, cfaNegateState},
	}
	for i, program := range programs {
		for _, letters := range []string{"zR", "zRB"} {
			for _, m := range []elf.Machine{elf.EM_X86_64, elf.EM_AARCH64} {
				mem := newMemory()
				table := mem.tables(t, byte(machines[m].ra), letters, x86First, described{at, 0x200, program})
				var list []Stretch
				for off := 0; off < 0x200; off += 4 {
					r, err := table.At(at + uint64(off))
					if err != nil {
						t.Fatal(err)
					}
					list = append(list, Stretch{off, r})
				}
				again := written(t, m, list)
				for _, s := range list {
					r, err := again.At(at + uint64(s.Off))
					if err != nil || !sameRules(r, s.Rules) {
						t.Fatalf("%d, %v, %s: +%#x: %+v, want %+v (%v)", i, m, letters, s.Off, r, s.Rules, err)
					}
				}
			}
		}
	}
}

// written reads what is written of code at 0x1000.
func written(t *testing.T, m elf.Machine, list []Stretch) *Table {
	t.Helper()
	mem := newMemory()
	b := list[0].Common(m)
	f, err := Describe(m, len(b), 0x200, list)
	if err != nil {
		t.Fatal(err)
	}
	binary.LittleEndian.PutUint32(f[DescribedAt:], uint32(codeAt-(frameAt+len(b)+DescribedAt)))
	b = append(b, f...)
	mem.put(frameAt, b...)
	table, err := FromSection(mem, frameAt, uint64(len(b)), codeAt, frameAt)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func sameRules(a, b Rules) bool {
	return a.cfa.equal(b.cfa) && a.signed == b.signed && a.keyB == b.keyB && slices.EqualFunc(a.rules[:], b.rules[:], rule.equal)
}

func TestPushed(t *testing.T) {
	const m = elf.EM_X86_64
	called, _ := Called(m)
	pushed, err := called.Pushed(m, 24)
	if err != nil || pushed.cfa.offset != 32 || pushed.rules[16].offset != -8 {
		t.Errorf("%+v, %v", pushed, err)
	}
	byFrame := called
	byFrame.cfa = rule{kind: ruleRegister, register: 6, offset: 16}
	if r, err := byFrame.Pushed(m, 24); err != nil || r.cfa.offset != 16 {
		t.Errorf("%+v, %v", r, err)
	}
	byFrame.cfa = rule{kind: ruleExpression, code: []byte{0x77, 8}}
	if _, err := byFrame.Pushed(m, 8); err == nil {
		t.Error("an expression takes pushes into account")
	}
	if r := called.ReturnIn(elf.EM_AARCH64, 9); r.rules[30].kind != ruleRegister || r.rules[30].register != 9 {
		t.Errorf("%+v", r)
	}
	if _, ok := Called(elf.EM_386); ok {
		t.Error("a machine that is not known")
	}
}

// What entries cannot hold is an error.
func TestDescribeRefuses(t *testing.T) {
	const m = elf.EM_X86_64
	called, _ := Called(m)
	odd, negative := called, called
	odd.rules[3] = rule{kind: ruleOffset, offset: -12}
	negative.cfa.offset = -12
	far := called
	far.cfa.offset = 16
	for _, list := range [][]Stretch{{{0, odd}}, {{0, negative}}, {{0, called}, {math.MaxUint16 + 1, far}}} {
		if b, err := Describe(m, 24, 0x20000, list); err == nil {
			t.Errorf("%+v: %x", list, b)
		}
	}
}

func TestAppendSigned(t *testing.T) {
	for _, v := range []int64{0, 1, 63, 64, -1, -64, -65, 8191, 8192, -8192, -8193, math.MaxInt64, math.MinInt64} {
		r := reader{b: appendSigned(nil, v)}
		if have := int64(r.sleb()); have != v || r.bad || len(r.b) != 0 {
			t.Errorf("%d, want %d", have, v)
		}
	}
}
