package process

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/resolve"
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

func TestCandidates(t *testing.T) {
	maps, err := resolve.ParseMaps([]byte(`555555554000-555555560000 r-xp 00000000 fe:00 1   /bin/x
555555560000-555555561000 rw-p 0000b000 fe:00 1   /bin/x
555555600000-555555621000 rw-p 00000000 00:00 0   [heap]
7ffff7c00000-7ffff7d00000 r-xp 00000000 fe:00 2   /lib/a
7ffff7d05000-7ffff7e00000 r-xp 00000000 fe:00 3   /lib/b
7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0   [stack]
`))
	if err != nil {
		t.Fatal(err)
	}
	const size = 0x3000
	around := func(points ...uint64) window {
		w := window{lowest, userTop - size}
		for _, p := range points {
			w.around(p, size)
		}
		return w
	}
	for _, tc := range []struct {
		name  string
		w     window
		near  uint64
		first uint64
	}{
		{"program: below it", around(0x555555555000), 0x555555555000, 0x555555554000 - pageSize - size},
		{"library: the gap has exactly room", around(0x7ffff7cff000), 0x7ffff7cff000, 0x7ffff7d01000},
		{"library: not above, where the stack grows", around(0x7ffff7dff000), 0x7ffff7dff000, 0x7ffff7d01000},
	} {
		got := candidates(maps, tc.w, size, tc.near)
		if len(got) == 0 || got[0] != tc.first {
			t.Errorf("%s: %#x, want %#x first", tc.name, got, tc.first)
		}
		for _, a := range got {
			if a%pageSize != 0 || a < tc.w.low || a > tc.w.high {
				t.Errorf("%s: %#x is outside %#x to %#x", tc.name, a, tc.w.low, tc.w.high)
			}
			for i := range maps {
				if a < maps[i].End+pageSize && maps[i].Start < a+size+pageSize {
					t.Errorf("%s: %#x touches %+v", tc.name, a, maps[i])
				}
			}
			if a >= 0x555555600000 && a < 0x555555621000+heapReserve || a > 0x7ffff7e00000 && a < 0x7ffffffff000 {
				t.Errorf("%s: %#x is where heap or stack grow", tc.name, a)
			}
		}
	}
	if got := candidates(maps, around(0x555555555000, 0x7ffff7cff000), size, 0x555555555000); len(got) != 0 {
		t.Errorf("%#x is near both", got)
	}
	low := window{lowest, abs32Top - size}
	if got := candidates(maps, low, size, 0x401000); len(got) != 1 || got[0] != 0x401000 {
		t.Errorf("below 2 GiB: %#x", got)
	}
}

func object(t *testing.T) *elfpatch.File {
	t.Helper()
	f := elfpatch.New(elf.ET_REL, elf.EM_X86_64)
	add := func(name string, typ elf.SectionType, flags elf.SectionFlag, align uint64, data []byte) *elfpatch.Section {
		return f.AddSection(elfpatch.Section{Name: name, Type: typ, Flags: elf.SHF_ALLOC | flags, Align: align, Data: data, Size: uint64(len(data))})
	}
	code := add(".text", elf.SHT_PROGBITS, elf.SHF_EXECINSTR, 16, []byte{0xe8, 0, 0, 0, 0, 0x48, 0x8d, 0x05, 0, 0, 0, 0, 0xc3})
	add(".rodata", elf.SHT_PROGBITS, 0, 32, []byte("constant"))
	data := add(".data", elf.SHT_PROGBITS, elf.SHF_WRITE, 8, make([]byte, 8))
	bss := f.AddSection(elfpatch.Section{Name: ".bss", Type: elf.SHT_NOBITS, Flags: elf.SHF_ALLOC | elf.SHF_WRITE, Align: 64, Size: 100})
	f.AddSymbol(elfpatch.Symbol{Name: "new", Bind: elf.STB_GLOBAL, Section: code.Index, Size: 13})
	f.AddSymbol(elfpatch.Symbol{Name: "outside", Bind: elf.STB_GLOBAL})
	f.AddSymbol(elfpatch.Symbol{Name: "room", Bind: elf.STB_GLOBAL, Section: bss.Index, Value: 4})
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	check(f.SetRelocations(code, []elfpatch.Rela{
		{Offset: 1, Type: uint32(elf.R_X86_64_PLT32), Symbol: 2, Addend: -4},
		{Offset: 8, Type: uint32(elf.R_X86_64_PC32), Symbol: 3, Addend: -4},
	}))
	check(f.SetRelocations(data, []elfpatch.Rela{{Offset: 0, Type: uint32(elf.R_X86_64_64), Symbol: 2, Addend: 1}}))
	return f
}

func TestLayout(t *testing.T) {
	l, err := layOut(object(t), 50)
	if err != nil {
		t.Fatal(err)
	}
	if l.sizes != [parts]uint64{pageSize, pageSize, pageSize} {
		t.Errorf("sizes %#x", l.sizes)
	}
	const base, outside = 0x10000000, 0x10400000
	if addr, size, ok := l.symbol("new", base); addr != base+pageSize || size != 13 || !ok {
		t.Errorf("new at %#x", addr)
	}
	if _, _, ok := l.symbol("outside", base); ok {
		t.Error("an import is defined")
	}
	memory, err := l.link(base, map[string]uint64{"outside": outside})
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	if got := memory[partRead][64:72]; string(got) != "constant" { // behind 50 bytes, aligned to 32
		t.Errorf("constants %q", got)
	}
	if rel := int32(le.Uint32(memory[partExec][1:])); base+pageSize+5+int64(rel) != outside {
		t.Errorf("call %#x", rel)
	}
	if rel := int32(le.Uint32(memory[partExec][8:])); base+pageSize+12+int64(rel) != base+2*pageSize+64+4 {
		t.Errorf("lea %#x", rel)
	}
	if got := le.Uint64(memory[partWrite]); got != outside+1 {
		t.Errorf("pointer %#x", got)
	}
	if _, err := l.link(base, nil); err == nil || !strings.Contains(err.Error(), ".text+0x1: symbol outside: it is not imported") {
		t.Errorf("no import: %v", err)
	}
	if _, err := l.link(base, map[string]uint64{"outside": base + 1<<32}); err == nil {
		t.Error("a call out of reach is linked")
	}
	w := l.needs([]uint64{0x400000000}, map[string]uint64{"outside": 0x400000000 + 1<<30})
	if w.low != 0x400000000+1<<30-reach || w.high != 0x400000000+reach-l.size() {
		t.Errorf("window %#x", w)
	}
}

func TestLayoutRefuses(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(f *elfpatch.File)
		want   string
	}{
		{"tls", func(f *elfpatch.File) { f.Section(".data").Flags |= elf.SHF_TLS }, "thread-local"},
		{"w and x", func(f *elfpatch.File) { f.Section(".text").Flags |= elf.SHF_WRITE }, "writable and executable"},
		{"alignment", func(f *elfpatch.File) { f.Section(".data").Align = 3 }, "alignment 3"},
		{"huge alignment", func(f *elfpatch.File) { f.Section(".data").Align = 1 << 20 }, "alignment"},
		{"huge", func(f *elfpatch.File) { f.Section(".bss").Size = 1 << 60 }, "too many"},
		{"type", func(f *elfpatch.File) {
			_ = f.SetRelocations(f.Section(".data"), []elfpatch.Rela{{Type: uint32(elf.R_X86_64_GOTPCRELX)}})
		}, "GOTPCRELX is not supported"},
		{"unknown type", func(f *elfpatch.File) {
			_ = f.SetRelocations(f.Section(".data"), []elfpatch.Rela{{Type: 999}})
		}, "999 is not supported"},
		{"place", func(f *elfpatch.File) {
			_ = f.SetRelocations(f.Section(".data"), []elfpatch.Rela{{Offset: 1, Type: uint32(elf.R_X86_64_64)}})
		}, "outside the section"},
	} {
		f := object(t)
		tc.change(f)
		if _, err := layOut(f, 50); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
}
