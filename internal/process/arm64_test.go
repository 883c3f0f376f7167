//go:build linux && arm64

package process

import (
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

// patchable leaves the NOPs that dispatch slot needs: before the entry a word that is
// aligned, wherever that stands.
const patchable = "-fpatchable-function-entry=5,3"

// slotSwitches are the ways to write an entry that leads to a record: two instructions
// take the place of NOPs.
var slotSwitches = []Switch{SwitchStop}

// throwers is how many threads throw exceptions: in an emulator nothing else is done.
const throwers = "1"

// vdsoCalls says that every process has the code for an injected system call.
const vdsoCalls = true

// tlsOffset is the place of a variable of the executable's block from the thread
// pointer: the block follows two words there.
func tlsOffset(block *elf.ProgHeader, value uint64) int64 {
	const words = 16
	return int64(value + alignUp(words, block.Align))
}

// guarded builds guardedmain.c with guarded.c, and a version of the latter.
func guarded(t *testing.T, version int) (target, before, after string) {
	object := func(more ...string) string {
		return compile(t, "guarded.o", append(append([]string{"-c", "-fPIE", "-mbranch-protection=standard"}, more...), "guarded.c")...)
	}
	before, after = object(), object(fmt.Sprintf("-DVERSION=%d", version))
	target = compile(t, "guarded", "-pie", "-mbranch-protection=standard", "-nostartfiles", "-Wl,-z,force-bti", "guardedmain.c", before)
	return target, before, after
}

// Calls through pointers land on a pad before and after, and return addresses are
// signed by replacements as by originals.
func TestBranchProtection(t *testing.T) {
	target, before, after := guarded(t, 1)
	pkg := created(t, "fix", target, before, after)
	s := start(t, target)
	if maps := string(readFile(t, fmt.Sprintf("/proc/%d/smaps", s.pid))); !strings.Contains(maps, " bt") {
		t.Fatal("no mapping of the target is guarded")
	}
	pages := text(t, s.pid)
	const old, fixed = 2 + 2 + 3, 1002 + 1000 + 1002 + 1003
	for range 3 {
		if a, _, wrong := s.ask(); a != old || wrong != 0 {
			t.Fatalf("answer %d, %d wrong before", a, wrong)
		}
		res, err := Apply([]int{s.pid}, pkg, Options{})
		must(t, err)
		journalMatches(t, pkg, res.Processes[0].Images[0])
		if a, _, wrong := s.ask(); a != fixed || wrong != 0 {
			t.Fatalf("answer %d, %d wrong after", a, wrong)
		}
		_, err = Revert(s.pid, "fix", Options{})
		must(t, err)
		if text(t, s.pid) != pages {
			t.Fatal("executable pages differ after revert")
		}
	}
}

// A return address on a stack is found although it is signed.
func TestSignedReturnAddress(t *testing.T) {
	target, before, after := guarded(t, 1)
	pkg := created(t, "fix", target, before, after)
	s := start(t, target)
	_, err := io.WriteString(s.in, "w\n")
	must(t, err)
	if line := s.line(); line != "waiting" {
		t.Fatalf("it says %q", line)
	}
	_, err = Apply([]int{s.pid}, pkg, Options{Timeout: time.Second})
	var busy *BusyError
	if !errors.As(err, &busy) || len(busy.Holders) != 1 || busy.Holders[0].Function != "framed" || StateOf(err) != Unchanged {
		t.Fatalf("error %v", err)
	}
	_, err = io.WriteString(s.in, "\n")
	must(t, err)
	s.line()
	_, err = Apply([]int{s.pid}, pkg, Options{})
	must(t, err)
}

// Vector and predicate registers of every length survive system calls that are
// made for the thread.
func TestVectors(t *testing.T) {
	target := compile(t, "vectors", "-march=armv8-a+sve", "vectors.c")
	pkg := handMade(t, "fix", target, compile(t, "fix.o", "-c", "-fPIE", "server_fix.c"), replaced{old: "answer", new: "answer_new"})
	for _, length := range []int{16, 64, 256} {
		t.Run(fmt.Sprint(length), func(t *testing.T) {
			s := start(t, target, fmt.Sprint(length))
			for i := range 3 {
				pkg.Manifest.Name = fmt.Sprintf("fix%d", i)
				_, err := Apply([]int{s.pid}, pkg, Options{})
				must(t, err)
				if a, _, wrong := s.tell(); a != 1001 || wrong != 0 {
					t.Fatalf("answer %d, wrong %d", a, wrong)
				}
				_, err = Revert(s.pid, pkg.Manifest.Name, Options{})
				must(t, err)
			}
		})
	}
}

// words reads 64-bit words of a frame.
func words(b []byte, at, n int) (list []uint64) {
	for i := range n {
		list = append(list, binary.LittleEndian.Uint64(b[at+8*i:]))
	}
	return list
}

// withVectors is the state of a thread with SVE registers of a length.
func withVectors(vl int) vectorState {
	s := vectorState{simd: make([]byte, simdSize), sve: make([]byte, sveHeader+sveRegsSize(vl)+32)}
	for i := range s.simd[:simdFPSR+8] {
		s.simd[i] = byte(i)
	}
	binary.LittleEndian.PutUint16(s.sve[sveVL:], uint16(vl))
	s.sve[sveFlags] = svePTRegs
	for i := range s.sve[sveHeader:] {
		s.sve[sveHeader+i] = byte(3 * i)
	}
	return s
}

func TestSignalFrame(t *testing.T) {
	regs := registers{SP: 0x7ffffff123, PC: 0x400100, PState: 0x60001000}
	for i := range regs.X {
		regs.X[i] = uint64(i) + 100
	}
	const mask = 0xfeed
	le := binary.LittleEndian
	for _, vl := range []int{0, 16, 64, 256} {
		state := withVectors(max(vl, 16))
		if vl == 0 {
			state.sve[sveFlags] = 0
		}
		addr, b, err := signalFrame(&regs, state, mask)
		must(t, err)
		if addr%16 != 0 || addr+uint64(len(b)) > regs.SP || len(b) > maxFrame-stackAlign || len(b) < frameFixed {
			t.Fatalf("%d bytes at %#x", len(b), addr)
		}
		if got := words(b, 304, 35); got[0] != 0 || got[1] != 100 || got[31] != 130 || got[32] != regs.SP || got[33] != regs.PC || got[34] != regs.PState {
			t.Errorf("sigcontext %#x", got)
		}
		if le.Uint64(b[168:]) != mask || le.Uint32(b[152:]) != invalidStackFlags {
			t.Errorf("ucontext % x", b[128:176])
		}
		// The records, as the kernel walks through them.
		var seen []uint32
		for at := 592; ; {
			magic, size := le.Uint32(b[at:]), int(le.Uint32(b[at+4:]))
			if magic == 0 {
				break
			}
			seen = append(seen, magic)
			switch magic {
			case magicFPSIMD:
				if size != 528 || b[at+16] != 0 || b[at+17] != 1 || le.Uint64(b[at+8:]) != le.Uint64(state.simd[512:]) {
					t.Errorf("FPSIMD: %d bytes: % x", size, b[at:at+32])
				}
			case magicSVE:
				if size < 16+sveRegsSize(vl) || int(le.Uint16(b[at+8:])) != vl || b[at+16+sveRegsSize(vl)-1] != state.sve[16+sveRegsSize(vl)-1] {
					t.Errorf("SVE: %d bytes: % x", size, b[at:at+32])
				}
			case magicExtra:
				if le.Uint64(b[at+8:]) != addr+uint64(at+48) || le.Uint64(b[at+32:]) != 0 || at+48+int(le.Uint32(b[at+16:])) > len(b) {
					t.Errorf("extra space: % x", b[at:at+48])
				}
				size = 48
			}
			at += size
		}
		want := map[int]string{0: "[46508001]", 16: "[46508001 53564501]", 64: "[46508001 53564501]", 256: "[46508001 45585401 53564501]"}[vl]
		if got := fmt.Sprintf("%x", seen); got != want {
			t.Errorf("vectors of %d: records %s, want %s", vl, got, want)
		}
	}
	for _, bad := range []vectorState{{}, {simd: make([]byte, simdSize), sve: withVectors(16).sve[:100]}} {
		if _, _, err := signalFrame(&regs, bad, mask); err == nil {
			t.Error("a state that is cut short makes a frame")
		}
	}
}

func TestInRestartBlock(t *testing.T) {
	for _, tc := range []struct {
		name         string
		nr, op, time uint64
		want         bool
	}{
		{"nanosleep", 101, 0, 0, true},
		{"clock_nanosleep", 115, 0, 0, true},
		{"clock_nanosleep until", 115, 1, 0, false},
		{"restart_syscall", 128, 0, 0, true},
		{"futex", 98, 0 | 128, 0x1000, true},
		{"futex without limit", 98, 0 | 128, 0, false},
		{"futex until", 98, 9 | 128, 0x1000, false},
		{"read", 63, 0, 0, false},
	} {
		var r registers
		r.X[8], r.X[1], r.X[3] = tc.nr, tc.op, tc.time
		if got := r.inRestartBlock(true); got != tc.want || r.inRestartBlock(false) {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}

func TestEmulateEncodings(t *testing.T) {
	memory := map[uint64]uint64{0x1000: 0x4444, 0x1008: 0x5555, 0x2010: 0x6666, 0x2018: 0x7777}
	load := func(addr uint64) (uint64, bool) { v, ok := memory[addr]; return v, ok }
	for _, tc := range []struct {
		code   uint32
		text   string
		change func(r *registers)
	}{
		{0xd65f03c0, "ret", func(r *registers) { r.PC = 0x777 }},
		{0xd65f0020, "ret x1", func(r *registers) { r.PC = 0x2000 }},
		{0xd503201f, "nop", func(*registers) {}},
		{0xd503245f, "bti c", func(*registers) {}},
		{0x14000002, "b .+8", func(r *registers) { r.PC = 0x408 }},
		{0x17ffffff, "b .-4", func(r *registers) { r.PC = 0x3fc }},
		{0xb4000040, "cbz x0, .+8", func(*registers) {}},
		{0x34000040, "cbz w0, .+8", func(r *registers) { r.PC = 0x408 }},
		{0xb5ffffe0, "cbnz x0, .-4", func(r *registers) { r.PC = 0x3fc }},
		{0xaa0103e2, "mov x2, x1", func(r *registers) { r.X[2] = 0x2000 }},
		{0x2a0003e2, "mov w2, w0", func(r *registers) { r.X[2] = 0 }},
		{0xaa1f03e1, "mov x1, xzr", func(r *registers) { r.X[1] = 0 }},
		{0x52807d00, "mov w0, #1000", func(r *registers) { r.X[0] = 1000 }},
		{0xd2a00020, "mov x0, #65536", func(r *registers) { r.X[0] = 65536 }},
		{0x12800000, "mov w0, #-1", func(r *registers) { r.X[0] = 0xffffffff }},
		{0x92800000, "mov x0, #-1", func(r *registers) { r.X[0] = ^uint64(0) }},
		{0x910083ff, "add sp, sp, #32", func(r *registers) { r.SP += 32 }},
		{0xd10043e3, "sub x3, sp, #16", func(r *registers) { r.X[3] = 0xff0 }},
		{0x91400421, "add x1, x1, #1, lsl #12", func(r *registers) { r.X[1] = 0x3000 }},
		{0x10000040, "adr x0, .+8", func(r *registers) { r.X[0] = 0x408 }},
		{0xb0000000, "adrp x0, 0x1000", func(r *registers) { r.X[0] = 0x1000 }},
		{0xf94003e0, "ldr x0, [sp]", func(r *registers) { r.X[0] = 0x4444 }},
		{0xf84107e0, "ldr x0, [sp], #16", func(r *registers) { r.X[0], r.SP = 0x4444, 0x1010 }},
		{0xa8c27bfd, "ldp x29, x30, [sp], #32", func(r *registers) { r.X[29], r.X[30], r.SP = 0x4444, 0x5555, 0x1020 }},
		{0xa9410c22, "ldp x2, x3, [x1, #16]", func(r *registers) { r.X[2], r.X[3] = 0x6666, 0x7777 }},
		{0xa9c10c22, "ldp x2, x3, [x1, #16]!", func(r *registers) { r.X[1], r.X[2], r.X[3] = 0x2010, 0x6666, 0x7777 }},
		{0xd50323bf, "autiasp", nil}, {0xd65f0bff, "retaa", nil}, {0xf9000000, "str x0, [x0]", nil}, {0xb9400000, "ldr w0, [x0]", nil},
		{0xd4000001, "svc #0", nil}, {0x94000000, "bl .", nil}, {0xd61f0000, "br x0", nil}, {0xf9400420, "ldr x0, [x1, #8]: no memory", nil},
		{0xb1000400, "adds x0, x0, #1", nil}, {0xa8c10021, "ldp x1, x0, [x1], #16", nil}, {0xa8400c22, "ldnp x2, x3, [x1]", nil},
	} {
		r := registers{PC: 0x400, SP: 0x1000, PState: 2 << 10}
		r.X[0], r.X[1], r.X[30] = 1<<32, 0x2000, 0x777
		want := r
		if tc.change != nil {
			want.PC, want.PState = 0x404, 0
			tc.change(&want)
		}
		code := binary.LittleEndian.AppendUint32(nil, tc.code)
		if ok := r.emulate(code, load); ok != (tc.change != nil) || r != want {
			t.Errorf("%s: %v\nhave %+v\nwant %+v", tc.text, ok, r, want)
		}
	}
}

// isJump reports whether code in hexadecimal digits begins with b.
func isJump(code string) bool {
	b, err := hex.DecodeString(code)
	return err == nil && len(b) >= 4 && binary.LittleEndian.Uint32(b)>>26 == 5
}
