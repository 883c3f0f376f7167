//go:build !arm64

package process

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
)

func xstate(size int, features uint64) []byte {
	b := make([]byte, size)
	for i := range b[:swReserved] {
		b[i] = byte(i)
	}
	binary.LittleEndian.PutUint64(b[xstateHeader:], features)
	return b
}

// avx is the layout of a processor with AVX and protection keys.
func avx() *xsaveLayout {
	l := &xsaveLayout{}
	l[2].offset, l[2].size = 576, 256
	l[featurePKRU].offset, l[featurePKRU].size = 2688, 8
	return l
}

func TestSignalFrame(t *testing.T) {
	le := binary.LittleEndian
	regs := registers{
		R8: 8, R9: 9, R10: 10, R11: 11, R12: 12, R13: 13, R14: 14, R15: 15, Rdi: 1, Rsi: 2, Rbp: 3, Rbx: 4, Rdx: 5,
		Rax: 6, Rcx: 7, Rsp: 0x7fffffffe123, Rip: 0x401000, Eflags: 0x246, Cs: cs64, Ss: 0x2b,
	}
	const mask, restorer = 0xfeed, 0x402000
	addr, b, err := signalFrame(&regs, xstate(2696, 7), mask, restorer, avx())
	if err != nil {
		t.Fatal(err)
	}
	if end := addr + uint64(len(b)); end > regs.Rsp-redZone {
		t.Errorf("it ends at %#x, the red zone starts at %#x", end, regs.Rsp-redZone)
	}
	if (addr+8)%16 != 0 {
		t.Errorf("address %#x is not that of a called function", addr)
	}
	// struct rt_sigframe: pretcode; ucontext: flags, link, stack, sigcontext, mask; siginfo.
	want := []uint64{
		restorer, 7, 0, 0, invalidStackFlags, 0,
		8, 9, 10, 11, 12, 13, 14, 15, 1, 2, 3, 4, 5, 6, 7, 0x7fffffffe123, 0x401000, 0x246,
		cs64 | 0x2b<<48, 0, 0, mask, 0,
	}
	for i, w := range want {
		if got := le.Uint64(b[8*i:]); got != w {
			t.Errorf("word %d is %#x, want %#x", i, got, w)
		}
	}
	const fpstate, sigmask = 8 * 29, 8 + 40 + 256
	if got := le.Uint64(b[sigmask:]); got != mask {
		t.Errorf("mask %#x", got)
	}
	fp := le.Uint64(b[fpstate:])
	if fp%64 != 0 || fp < addr+frameSize {
		t.Fatalf("extended state at %#x, the frame at %#x", fp, addr)
	}
	state := b[fp-addr:]
	if magic := le.Uint32(state[swReserved:]); magic != fpXstateMagic1 {
		t.Errorf("first magic %#x", magic)
	}
	size := le.Uint32(state[swReserved+16:])
	if size != 832 || le.Uint32(state[swReserved+4:]) != size+4 || int(size)+4 != len(state) || le.Uint32(state[size:]) != fpXstateMagic2 {
		t.Errorf("size %d, %d bytes", size, len(state))
	}
	if got := le.Uint64(state[swReserved+8:]); got != 7 {
		t.Errorf("features %#x", got)
	}
	if !bytes.Equal(state[:swReserved], xstate(2696, 7)[:swReserved]) {
		t.Error("legacy area differs")
	}
}

func TestSigframeState(t *testing.T) {
	le := binary.LittleEndian
	keys := xstate(2696, 3) // the kernel does not tell of the protection keys
	le.PutUint32(keys[2688:], 0x55555554)
	got, err := sigframeState(keys, avx())
	if err != nil || len(got) != 2696+4 || le.Uint64(got[xstateHeader:]) != 3|1<<featurePKRU || le.Uint32(got[2688:]) != 0x55555554 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if got, err := sigframeState(xstate(2696, 3), avx()); err != nil || len(got) != minXstate+4 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	for name, tc := range map[string]struct {
		b    []byte
		want string
	}{
		"no xsave":        {make([]byte, 512), "no XSAVE"},
		"unknown feature": {xstate(2696, 1<<17|3), "unknown feature 17"},
		"too short":       {xstate(600, 7), "unknown feature 2"},
	} {
		if _, err := sigframeState(tc.b, avx()); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSameState(t *testing.T) {
	a := xstate(832, 7)
	for off, same := range map[int]bool{0: false, swReserved - 1: false, swReserved: true, xstateHeader: true, minXstate: false, 831: false} {
		b := bytes.Clone(a)
		b[off] ^= 1
		if sameState(a, b) != same {
			t.Errorf("byte %d differs: %v", off, !same)
		}
	}
	if sameState(a, a[:700]) || sameState(nil, nil) {
		t.Error("different lengths")
	}
}

func TestRestarted(t *testing.T) {
	const none = ^uint64(0)
	neg := func(v int64) uint64 { return uint64(v) }
	for _, tc := range []struct {
		name          string
		in            registers
		rax, rip      uint64
		block, intact bool
	}{
		{name: "user mode", in: registers{OrigRax: none, Rax: neg(errRestartSys), Rip: 100}, rax: neg(errRestartSys), rip: 100},
		{name: "read", in: registers{OrigRax: 0, Rax: neg(errRestartSys), Rip: 100}, rax: 0, rip: 98},
		{name: "no intr", in: registers{OrigRax: 5, Rax: neg(errRestartNoIntr), Rip: 100}, rax: 5, rip: 98},
		{name: "no hand", in: registers{OrigRax: 34, Rax: neg(errRestartNoHand), Rip: 100}, rax: 34, rip: 98},
		{name: "eintr", in: registers{OrigRax: 232, Rax: neg(-4), Rip: 100}, rax: neg(-4), rip: 100},
		{name: "result", in: registers{OrigRax: 0, Rax: 512, Rip: 100}, rax: 512, rip: 100},
		{name: "nanosleep", in: registers{OrigRax: 35, Rax: neg(errRestartBlock), Rip: 100}, rax: neg(errRestartBlock), rip: 100, block: true},
		{name: "poll with limit", in: registers{OrigRax: 7, Rdx: 10, Rax: neg(errRestartBlock), Rip: 100}, rax: neg(errRestartBlock), rip: 100, block: true},
		{name: "poll without", in: registers{OrigRax: 7, Rdx: 0xffffffff, Rax: neg(errRestartBlock), Rip: 100}, rax: 7, rip: 98},
	} {
		if got := tc.in.inRestartBlock(); got != tc.block {
			t.Errorf("%s: restart block %v", tc.name, got)
		}
		r := tc.in.restarted()
		if r.Rax != tc.rax || r.Rip != tc.rip || r.OrigRax != none {
			t.Errorf("%s: %+v", tc.name, r)
		}
	}
}
