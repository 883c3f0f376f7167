package unwind

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"io"
	"slices"
	"strings"
	"testing"
)

// memory is that of a small process: code, tables and a stack, one after another.
type memory []byte

const (
	codeAt  = 0x1000
	frameAt = 0x2000
	stackAt = 0x3000
	stackTo = 0x4000
)

func (m memory) ReadAt(b []byte, at int64) (int, error) {
	if at < codeAt || at-codeAt >= int64(len(m)) {
		return 0, io.EOF
	}
	n := copy(b, m[at-codeAt:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func newMemory() memory { return make(memory, stackTo-codeAt) }

func (m memory) put(at uint64, b ...byte) { copy(m[at-codeAt:], b) }

func (m memory) word(at, v uint64) { m.put(at, binary.LittleEndian.AppendUint64(nil, v)...) }

// described is a function and the instructions about its frame.
type described struct {
	start, size uint64
	program     []byte
}

// tables writes .eh_frame of functions into the memory and reads it.
func (m memory) tables(t testing.TB, ra byte, letters string, first []byte, list ...described) *Table {
	t.Helper()
	var b []byte
	entry := func(body []byte) {
		for len(body)%8 != 4 {
			body = append(body, cfaNop)
		}
		b = append(binary.LittleEndian.AppendUint32(b, uint32(len(body))), body...)
	}
	common := append([]byte{0, 0, 0, 0, 1}, letters...)
	common = append(common, 0, 1, 0x78, ra, 1, peU8) // factors 1 and -8; one byte of augmentation
	entry(append(common, first...))
	for _, d := range list {
		body := binary.LittleEndian.AppendUint32(nil, uint32(len(b)+4))
		body = binary.LittleEndian.AppendUint64(body, d.start)
		body = binary.LittleEndian.AppendUint64(body, d.size)
		entry(append(append(body, 0), d.program...))
	}
	m.put(frameAt, b...)
	table, err := FromSection(m, frameAt, uint64(len(b)), codeAt, frameAt)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// x86First says that a function begins with its return address on the stack.
var x86First = []byte{cfaDef, 7, 8, cfaOffset | 16, 1}

// callers is a stack of x86-64: inner, of 16 bytes, was called by outer, which
// keeps rbp, and that by start, which nobody called.
func callers(t testing.TB) (memory, *Unwinder, *Registers) {
	m := newMemory()
	call := func(end uint64) { m.put(end-5, 0xe8) }
	call(0x1105)
	call(0x1205)
	table := m.tables(t, 16, "zR", x86First,
		described{0x1000, 0x100, []byte{cfaAdvance | 4, cfaDefOffset, 24}},
		described{0x1100, 0x100, []byte{cfaAdvance | 1, cfaDefOffset, 16, cfaOffset | 6, 2, cfaAdvance | 3, cfaDefRegister, 6}},
		described{0x1200, 0x100, []byte{cfaUndefined, 16}})
	m.word(0x3810, 0x1105) // of inner
	m.word(0x3900, 0x6666) // rbp of start
	m.word(0x3908, 0x1205) // of outer
	regs := make([]uint64, 16)
	regs[6], regs[7] = 0x3900, 0x3800
	return m, &Unwinder{Machine: elf.EM_X86_64, Mem: m, Tables: []*Table{table}}, NewRegisters(0x1010, regs...)
}

func pcs(list []Frame) (out []uint64) {
	for _, f := range list {
		out = append(out, f.PC)
	}
	return out
}

func TestWalk(t *testing.T) {
	m, u, r := callers(t)
	list, err := u.Walk(r, stackAt, stackTo)
	if err != nil || !slices.Equal(pcs(list), []uint64{0x1010, 0x1105, 0x1205}) {
		t.Fatalf("%+v, %v", list, err)
	}
	if f := list[1]; f.SP != 0x3818 || f.Top != 0x3910 || f.Interrupted || f.Signal {
		t.Errorf("outer: %+v", f)
	}
	if f := list[0]; !f.Interrupted || f.Resting {
		t.Errorf("inner: %+v", f)
	}
	m.put(0x100e, 0x0f, 0x05) // syscall
	if list, err := u.Walk(r, stackAt, stackTo); err != nil || !list[0].Resting {
		t.Errorf("behind a system call: %+v, %v", list[0], err)
	}
}

// Each of these is a reason not to believe what comes after.
func TestDoubts(t *testing.T) {
	for _, tc := range []struct {
		name   string
		damage func(m memory, u *Unwinder, r *Registers)
		want   string
	}{
		{"no call", func(m memory, u *Unwinder, r *Registers) { m.put(0x1100, 0x90) }, "frame 1 at 0x1105: no call stands before it"},
		{"no table", func(m memory, u *Unwinder, r *Registers) { u.Tables = nil }, "no table is about it"},
		{"no function", func(m memory, u *Unwinder, r *Registers) { m.word(0x3810, 0x1405) }, "no function is described there"},
		{"downwards", func(m memory, u *Unwinder, r *Registers) { r.set(6, 0x3700) }, "its caller's stack pointer 0x3710 is not above its own"},
		{"elsewhere", func(m memory, u *Unwinder, r *Registers) { r.set(6, 0x5000) }, "return address: read the stack at 0x5008"},
		{"other stack", func(m memory, u *Unwinder, r *Registers) { r.set(7, 0x2f00) }, "stack pointer 0x2f00 is not on the stack"},
		{"lost register", func(m memory, u *Unwinder, r *Registers) { r.known &^= 1 << 6 }, "register 6 is not known"},
		{"machine", func(m memory, u *Unwinder, r *Registers) { u.Machine = elf.EM_PPC64 }, "EM_PPC64 is not known"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m, u, r := callers(t)
			tc.damage(m, u, r)
			if _, err := u.Walk(r, stackAt, stackTo); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %s", err, tc.want)
			}
		})
	}
}

// A stack on which a function calls itself for ever ends nevertheless.
func TestEndless(t *testing.T) {
	m := make(memory, 1<<20)
	m.put(0x1010, 0xe8)
	table := m.tables(t, 16, "zR", x86First, described{0x1000, 0x100, nil})
	for at := uint64(stackAt); at < codeAt+1<<20; at += 8 {
		m.word(at, 0x1015)
	}
	u := &Unwinder{Machine: elf.EM_X86_64, Mem: m, Tables: []*Table{table}}
	list, err := u.Walk(NewRegisters(0x1015, 0, 0, 0, 0, 0, 0, 0, stackAt), stackAt, codeAt+1<<20)
	if err == nil || len(list) != maxFrames {
		t.Errorf("%d frames, %v", len(list), err)
	}
}

// A function that has called another and returns to 0 was called by nobody. One
// that was interrupted may be described wrongly, and what a signal has interrupted
// may have called 0.
func TestReturnsToZero(t *testing.T) {
	m, u, r := callers(t)
	m.word(0x3908, 0)
	list, err := u.Walk(r, stackAt, stackTo)
	if err != nil || !slices.Equal(pcs(list), []uint64{0x1010, 0x1105}) || list[1].Top != 0 {
		t.Errorf("%+v, %v", list, err)
	}
	m.word(0x3810, 0)
	if list, err := u.Walk(r, stackAt, stackTo); err == nil {
		t.Errorf("interrupted: %+v", list)
	}
}

// A handler of a signal: what it returns to need not follow a call, and the
// registers are in the kernel's frame.
func TestSignalFrame(t *testing.T) {
	m := newMemory()
	m.put(0x10fe, 0x0f, 0x05) // the interrupted function waits in a system call
	handler := m.tables(t, 16, "zR", x86First, described{0x1200, 0x100, nil})
	handler.end = 0x1300
	handler.start = 0x1200
	u := &Unwinder{Machine: elf.EM_X86_64, Mem: m, Tables: []*Table{handler}}
	saved := func(n, off byte) []byte { return []byte{cfaExpr, n, 2, opBreg0 + 7, off} }
	restorer := described{0x12ff, 0x10, slices.Concat([]byte{cfaDefExpr, 3, opBreg0 + 7, 0x20, opDeref}, saved(7, 0x20), saved(16, 0x28), saved(6, 0x30))}
	m2 := slices.Clone(m)
	t2 := m2.tables(t, 16, "zRS", nil, restorer)
	t2.mem, t2.start, t2.end = m2, 0x12ff, 0x1310
	m3 := slices.Clone(m)
	t3 := m3.tables(t, 16, "zR", x86First, described{0x1000, 0x180, []byte{cfaUndefined, 16}})
	t3.mem, t3.start, t3.end = m3, 0x1000, 0x1180
	u.Tables = append([]*Table{t2, t3}, u.Tables...)
	m.word(0x3100, 0x1300) // the handler returns to the restorer
	m.word(0x3128, 0x3800) // rsp
	m.word(0x3130, 0x1100) // rip
	m.word(0x3138, 0x6666) // rbp
	list, err := u.Walk(NewRegisters(0x1200, 0, 0, 0, 0, 0, 0, 0, 0x3100), stackAt, stackTo)
	if err != nil || !slices.Equal(pcs(list), []uint64{0x1200, 0x1300, 0x1100}) {
		t.Fatalf("%+v, %v", list, err)
	}
	if !list[1].Signal || !list[2].Interrupted || !list[2].Resting || list[2].SP != 0x3800 {
		t.Errorf("%+v", list)
	}
	m.word(0x3130, 0) // it had called 0
	list, err = u.Walk(NewRegisters(0x1200, 0, 0, 0, 0, 0, 0, 0, 0x3100), stackAt, stackTo)
	if err == nil || !slices.Equal(pcs(list), []uint64{0x1200, 0x1300, 0}) {
		t.Errorf("%+v, %v", list, err)
	}
}

// arm64: a leaf has its return address in x30, signed; others save it.
func TestWalkArm64(t *testing.T) {
	m := newMemory()
	bl := func(at uint64) { m.put(at, 0, 0, 0, 0x94) }
	bl(0x1104)
	bl(0x1208)
	m.put(0x1000, 0x01, 0x00, 0x00, 0xd4) // svc #0
	const signature = uint64(0x2a) << 48
	table := m.tables(t, 30, "zR", []byte{cfaDef, 31, 0},
		described{0x1000, 0x100, nil},
		described{0x1100, 0x100, []byte{cfaNegateState, cfaAdvance | 4, cfaDefOffset, 32, cfaOffset | 29, 4, cfaOffset | 30, 3}},
		described{0x1200, 0x100, []byte{cfaUndefined, 30}})
	m.word(0x3808, 0x1208+4|signature)
	m.word(0x3800, 0x9999)
	regs := make([]uint64, 32)
	regs[30], regs[31] = 0x1108, 0x3800
	u := &Unwinder{Machine: elf.EM_AARCH64, Mem: m, Tables: []*Table{table}, Signed: 0x7f << 48}
	list, err := u.Walk(NewRegisters(0x1004, regs...), stackAt, stackTo)
	if err != nil || !slices.Equal(pcs(list), []uint64{0x1004, 0x1108, 0x120c}) || !list[0].Resting || list[1].Top != 0x3820 {
		t.Fatalf("%+v, %v", list, err)
	}
	// The caller of another function cannot have its return address in a register.
	m.word(0x3808, 0x1008)
	bl(0x1004)
	if _, err := u.Walk(NewRegisters(0x1004, regs...), stackAt, stackTo); err == nil || !strings.Contains(err.Error(), "its return address is not described") {
		t.Errorf("error %v", err)
	}
}

// arm64: the vDSO does not describe what handlers return to.
func TestSignalFrameArm64(t *testing.T) {
	m := newMemory()
	m.put(0x1000, 0x01, 0x00, 0x00, 0xd4) // svc #0
	m.put(0x1300, 0x68, 0x11, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4)
	table := m.tables(t, 30, "zR", []byte{cfaDef, 31, 0},
		described{0x1000, 0x100, []byte{cfaUndefined, 30}}, described{0x1200, 0x100, nil})
	table.end = 0x1300
	const sp, pc = 0x3100 + 560, 0x3100 + 568 // uc_mcontext of struct rt_sigframe
	m.word(sp, 0x3800)
	m.word(pc, 0x1004)
	regs := make([]uint64, 32)
	regs[30], regs[31] = 0x1300, 0x3100
	u := &Unwinder{Machine: elf.EM_AARCH64, Mem: m, Tables: []*Table{table}}
	list, err := u.Walk(NewRegisters(0x1200, regs...), stackAt, stackTo)
	if err != nil || !slices.Equal(pcs(list), []uint64{0x1200, 0x1300, 0x1004}) {
		t.Fatalf("%+v, %v", list, err)
	}
	if !list[1].Signal || !list[2].Interrupted || !list[2].Resting || list[2].SP != 0x3800 {
		t.Errorf("%+v", list)
	}
	m.put(0x1300, 0x69) // another register
	if _, err := u.Walk(NewRegisters(0x1200, regs...), stackAt, stackTo); err == nil || !strings.Contains(err.Error(), "its return address is not described") {
		t.Errorf("error %v", err)
	}
}

func TestExpressions(t *testing.T) {
	u := &Unwinder{Mem: newMemory()}
	u.Mem.(memory).word(0x3000, 77)
	regs := NewRegisters(0, 5)
	for _, tc := range []struct {
		code []byte
		want uint64
	}{
		{[]byte{opLit0 + 3, opLit0 + 4, opPlus}, 7},
		{[]byte{opConst1u + 2, 0x00, 0x30, opDeref}, 77}, // const2u
		{[]byte{opConst1u + 1, 0xff, opNeg}, 1},          // const1s
		{[]byte{opBreg0, 0x7b, opLit0 + 1, opGe}, 0},     // 5-5 >= 1
		{[]byte{opBregx, 0, 3, opLit0 + 1, opShl}, 16},   //
		{[]byte{opConsts, 0x7e, opLit0 + 1, opShra}, 1<<64 - 1},
		{[]byte{opLit0 + 9, opDup, opMul, opLit31, opAnd, opPlusUconst, 2}, 81&31 + 2},
		{[]byte{opLit0 + 1, opLit0 + 2, opSwap, opMinus}, 1},
		{[]byte{opLit0 + 1, opLit0 + 2, opDrop, opNop, opNot}, 1<<64 - 2},
		{[]byte{opConstu, 0x80, 1, opLit0 + 3, opShr, opLit0 + 1, opOr, opLit0 + 1, opXor}, 16},
		{[]byte{opLit0 + 1, opLit0 + 1, opEq, opLit0, opNe}, 1},
		{[]byte{opLit0 + 1, opLit0 + 2, opLt, opLit0, opLe}, 0},
		{[]byte{opLit0 + 1, opLit0 + 2, opGt}, 0},
	} {
		if v, err := u.evaluate(tc.code, regs, nil); err != nil || v != tc.want {
			t.Errorf("%x is %#x, %v; want %#x", tc.code, v, err, tc.want)
		}
	}
	for _, code := range [][]byte{nil, {opPlus}, {opLit0, opPlus}, {0x28, 0, 0}, {opBreg0 + 1, 0}, {opConst8s, 1}, {opConst1u, 1, opDeref},
		bytes.Repeat([]byte{opLit0}, 65), bytes.Repeat([]byte{opNop}, 257)} {
		if v, err := u.evaluate(code, regs, nil); err == nil {
			t.Errorf("%x is %#x", code, v)
		}
	}
}

// Damaged tables are errors.
func TestDamagedTables(t *testing.T) {
	m, u, r := callers(t)
	size := uint64(0x100)
	for off := uint64(0); off < size; off++ {
		for _, v := range []byte{0, 1, 0x7f, 0x80, 0xff} {
			old := m[frameAt+off-codeAt]
			m[frameAt+off-codeAt] = v
			if table, err := FromSection(m, frameAt, size, codeAt, frameAt); err == nil {
				u.Tables = []*Table{table}
				if list, err := u.Walk(r, stackAt, stackTo); err == nil && len(list) > 3 {
					t.Errorf("byte %#x is %#x: %x", off, v, pcs(list))
				}
			}
			m[frameAt+off-codeAt] = old
		}
	}
	for _, b := range [][]byte{{2, 0x1b, 3, 0x3b, 0, 0, 0, 0, 0, 0, 0, 0}, {1, 0x1b, 3, 0x3b, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, {1, 0x1b, 3, 0x3b, 0, 0, 0, 0, 0, 2, 0, 0}, {1, 0x1b, 3, 0x3b},
		{1, 0x1b, 3, 0x3b, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}} {
		end := m[len(m)-len(b):]
		copy(end, b)
		if _, err := FromIndex(m, uint64(stackTo-len(b)), codeAt, frameAt); err == nil {
			t.Errorf("%x is an index", b)
		}
	}
}

// FuzzWalk: any tables, code and stack give frames that follow each other, or an
// error.
func FuzzWalk(f *testing.F) {
	m, _, _ := callers(f)
	f.Add([]byte(m), uint64(0x1010), uint64(0x3800), uint64(0x3900), true)
	f.Add([]byte(m[frameAt-codeAt:]), uint64(0x1010), uint64(0x3800), uint64(0x3900), false)
	f.Fuzz(func(t *testing.T, b []byte, pc, sp, fp uint64, x86 bool) {
		m := memory(b)
		machine, regs := elf.EM_AARCH64, make([]uint64, 32)
		regs[29], regs[31] = fp, sp
		if x86 {
			machine, regs[6], regs[7] = elf.EM_X86_64, fp, sp
		}
		u := &Unwinder{Machine: machine, Mem: m}
		for _, at := range []uint64{codeAt, frameAt} {
			if table, err := FromSection(m, at, min(0x1000, uint64(len(b))), 0, ^uint64(0)); err == nil {
				u.Tables = append(u.Tables, table)
			}
			if table, err := FromIndex(m, at, 0, ^uint64(0)); err == nil {
				u.Tables = append(u.Tables, table)
			}
		}
		list, err := u.Walk(NewRegisters(pc, regs...), stackAt, stackTo)
		if len(list) > maxFrames || err == nil && len(list) == 0 {
			t.Fatalf("%d frames, %v", len(list), err)
		}
		for i, frame := range list {
			if frame.SP < stackAt || frame.SP > stackTo || i > 0 && frame.SP < list[i-1].SP {
				t.Fatalf("frame %d of %+v", i, list)
			}
		}
	})
}
