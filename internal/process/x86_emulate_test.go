//go:build linux && amd64

package process

import (
	"runtime"
	"testing"
	"time"
)

// What is worked out for a thread is what the processor does: a program is
// stepped, and each instruction that is known is compared.
func TestEmulate(t *testing.T) {
	target := compile(t, "sorter", "sorter.c")
	s := start(t, target)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p, err := open(s.pid)
	must(t, err)
	defer p.close()
	limit := time.Now().Add(time.Minute)
	must(t, p.stop(limit))
	defer p.release()
	th := p.threads[0]
	must(t, th.getRegs())
	known := map[byte]int{}
	for range 3000 {
		var code [maxInstruction]byte
		must(t, p.readMem(code[:], th.regs.Rip))
		want := th.regs
		ok := want.emulate(code[:], p.word)
		before := th.regs
		must(t, th.step(limit))
		if th.signal != 0 {
			t.Fatalf("signal %d", th.signal)
		}
		have := th.regs
		have.OrigRax, want.OrigRax = 0, 0
		if ok && have != want {
			t.Fatalf("% x at %+v:\nhave %+v\nwant %+v", code, before, have, want)
		}
		if ok {
			known[code[0]]++
		}
	}
	if len(known) < 8 {
		t.Errorf("it met few instructions: %v", known)
	}
	t.Log(known)
	// It stands at a signal that must not reach it.
	th.signal = 0
}

func TestEmulateEncodings(t *testing.T) {
	memory := map[uint64]uint64{0x1000: 0x4444, 0x2000: 0x5555}
	load := func(addr uint64) (uint64, bool) { v, ok := memory[addr]; return v, ok }
	for _, tc := range []struct {
		code   string
		change func(r *registers)
	}{
		{"\xc3", func(r *registers) { r.Rip, r.Rsp = 0x4444, 0x1008 }},                          // ret
		{"\xf3\xc3", func(r *registers) { r.Rip, r.Rsp = 0x4444, 0x1008 }},                      // rep ret
		{"\xc9", func(r *registers) { r.Rip, r.Rsp, r.Rbp = 0x401, 0x2008, 0x5555 }},            // leave
		{"\x5b", func(r *registers) { r.Rip, r.Rsp, r.Rbx = 0x401, 0x1008, 0x4444 }},            // pop %rbx
		{"\x41\x5f", func(r *registers) { r.Rip, r.Rsp, r.R15 = 0x402, 0x1008, 0x4444 }},        // pop %r15
		{"\x5c", func(r *registers) { r.Rip, r.Rsp = 0x401, 0x4444 }},                           // pop %rsp
		{"\x90", func(r *registers) { r.Rip = 0x401 }},                                          // nop
		{"\xf3\x0f\x1e\xfa", func(r *registers) { r.Rip = 0x404 }},                              // endbr64
		{"\x0f\x1f\x44\x00\x00", func(r *registers) { r.Rip = 0x405 }},                          // nopl 0(%rax,%rax,1)
		{"\xeb\xfe", func(r *registers) { r.Rip = 0x400 }},                                      // jmp .
		{"\xe9\x00\x01\x00\x00", func(r *registers) { r.Rip = 0x505 }},                          // jmp .+0x105
		{"\x8d\x47\x01", func(r *registers) { r.Rip, r.Rax = 0x403, 0x23456790 }},               // lea 1(%rdi),%eax
		{"\x48\x8d\x47\xff", func(r *registers) { r.Rip, r.Rax = 0x404, 0x12345678_2345678e }},  // lea -1(%rdi),%rax
		{"\x4c\x8d\x05\x10\x00\x00\x00", func(r *registers) { r.Rip, r.R8 = 0x407, 0x417 }},     // lea 0x10(%rip),%r8
		{"\x48\x8d\x04\x9d\x08\x00\x00\x00", func(r *registers) { r.Rip, r.Rax = 0x408, 0x14 }}, // lea 8(,%rbx,4),%rax
		{"\x4a\x8d\x44\x64\x08", func(r *registers) { r.Rip, r.Rax = 0x405, 0x100e }},           // lea 8(%rsp,%r12,2),%rax: r12 is 3
		{"\x89\xf8", func(r *registers) { r.Rip, r.Rax = 0x402, 0x2345678f }},                   // mov %edi,%eax
		{"\x48\x8b\xc7", func(r *registers) { r.Rip, r.Rax = 0x403, 0x12345678_2345678f }},      // mov %rdi,%rax
		{"\xb8\xff\xff\xff\xff", func(r *registers) { r.Rip, r.Rax = 0x405, 0xffffffff }},       // mov $-1,%eax
		{"\x41\xb9\x01\x00\x00\x00", func(r *registers) { r.Rip, r.R9 = 0x406, 1 }},             // mov $1,%r9d
		{"\x48\x83\xc4\x08", nil}, {"\x8b\x07", nil}, {"\x0f\x05", nil}, {"\x66\x90", nil}, // add, a load, syscall, a prefix
		{"\x48", nil}, {"\xe9\x00", nil}, {"", nil}, {"\x41\x90", nil}, {"\xff\xe0", nil}, // cut; xchg; jmp *%rax
	} {
		r := registers{Rip: 0x400, Rsp: 0x1000, Rbp: 0x2000, Rbx: 3, R12: 3, Rdi: 0x12345678_2345678f}
		want := r
		if tc.change != nil {
			tc.change(&want)
		}
		if ok := r.emulate([]byte(tc.code), load); ok != (tc.change != nil) || r != want {
			t.Errorf("% x: %v\nhave %+v\nwant %+v", tc.code, ok, r, want)
		}
	}
	r := registers{Rsp: 0x9999}
	if r.emulate([]byte{0xc3}, load) || r != (registers{Rsp: 0x9999}) {
		t.Error("a return to nowhere")
	}
}
