package taken

import (
	"debug/elf"
	"encoding/binary"
	"testing"
)

func TestX86(t *testing.T) {
	for _, tc := range []struct {
		code []byte
		want bool
	}{
		{[]byte{0x48, 0x8d, 0x05, 0xf9, 0x0f, 0x00, 0x00}, true},        // lea 0xff9(%rip),%rax
		{[]byte{0x4c, 0x8d, 0x3d, 0xf9, 0x0f, 0x00, 0x00}, true},        // lea 0xff9(%rip),%r15
		{[]byte{0x48, 0x8d, 0x05, 0xf9, 0xff, 0xff, 0xff}, false},       // to before
		{[]byte{0x48, 0x8b, 0x05, 0xf9, 0x0f, 0x00, 0x00}, false},       // mov
		{[]byte{0x48, 0x8d, 0x84, 0x24, 0xf9, 0x0f, 0x00, 0x00}, false}, // lea 0xff9(%rsp),%rax
		{[]byte{0x48, 0x8d, 0x05, 0xf9, 0x0f}, false},
	} {
		if _, ok := Address(elf.EM_X86_64, tc.code, 0x1000, 0x2000, 0x3000); ok != tc.want {
			t.Errorf("%x: %v", tc.code, ok)
		}
	}
}

func TestARM64(t *testing.T) {
	const (
		adrp    = 0xb0000000 // adrp x0, the next page
		adrp3   = 0xb0000003 // the same into x3
		adrp19  = 0xb0000013
		ldr     = 0xf9400000 // ldr x0, [x0]
		ldr13   = 0xf9400061 // ldr x1, [x3]
		str13   = 0xf9000061 // str x1, [x3]
		strMore = 0xf8008461 // str x1, [x3], #8
		str31   = 0xf9000023 // str x3, [x1]
		add     = 0x91004063 // add x3, x3, #16
		mov     = 0xaa0303e1 // mov x1, x3
		movz    = 0xd2800003 // mov x3, #0
		ldp3    = 0xa9400c62 // ldp x2, x3, [x3]
		bl      = 0x94000100
		ret     = 0xd65f03c0
		br3     = 0xd61f0060
		nop     = 0xd503201f
		cbz4    = 0xb4000044 // cbz x4, two instructions on
		cbz4Up  = 0xb4ffffe4 // one back
		svc     = 0xd4000001
		autia   = 0xdac11023 // autia x3, x1
		ccmp3   = 0xfa411003 // ccmp x0, x1, #3, ne
		ldrSIMD = 0x3dc00063 // ldr q3, [x3]
		over    = 0x14000001 // b, to the next
	)
	for _, tc := range []struct {
		name string
		code []uint32
		want bool
	}{
		{"load into the register", []uint32{adrp, ldr, ret}, false},
		{"another register than that of the load", []uint32{adrp3, ldr, ldr13, str13, movz, add, ret}, false},
		{"add", []uint32{adrp3, ldr13, add, ret}, true},
		{"add behind a branch", []uint32{adrp3, cbz4, movz, add, ret}, true},
		{"written on both ways", []uint32{adrp3, cbz4, movz, movz, add, ret}, false},
		{"a loop", []uint32{adrp3, ldr13, cbz4Up, movz, ret}, false},
		{"jump", []uint32{adrp3, over, add}, true},
		{"a copy", []uint32{adrp3, mov, ret}, true},
		{"stored", []uint32{adrp3, str31, ret}, true},
		{"a base that moves on", []uint32{adrp3, strMore, ret}, true},
		{"a pair", []uint32{adrp3, ldp3, add, ret}, false},
		{"a vector of the same number", []uint32{adrp3, ldrSIMD, add, ret}, true},
		{"an argument", []uint32{adrp, bl, ret}, false},
		{"of a system call", []uint32{adrp, svc, ret}, false},
		{"lost in a call", []uint32{adrp | 9, bl, ret}, false},
		{"kept by the caller", []uint32{adrp19, ret}, true},
		{"kept over a call", []uint32{adrp19, bl, 0x91004273, ret}, true},
		{"a result", []uint32{adrp, ret}, false},
		{"dead at the end", []uint32{adrp3, nop, ret}, false},
		{"a jump through it", []uint32{adrp3, br3}, true},
		{"authenticated", []uint32{adrp3, autia, ret}, true},
		{"flags are no register", []uint32{adrp3, ccmp3, add, ret}, true},
		{"out of the code", []uint32{adrp, nop}, false},
		{"no instruction", []uint32{adrp3, 0x00010000}, true},
		{"another page", []uint32{adrp3 &^ 0x60000000, add, ret}, false},
		{"adr", []uint32{0x10008003, movz}, true},
		{"adr to before", []uint32{0x10fffe03, movz}, false},
	} {
		var code []byte
		for _, w := range tc.code {
			code = binary.LittleEndian.AppendUint32(code, w)
		}
		if _, ok := Address(elf.EM_AARCH64, code, 0x1000, 0x2000, 0x3000); ok != tc.want {
			t.Errorf("%s: %v", tc.name, ok)
		}
	}
}

// Any code comes to an end, and what is found lies in it.
func FuzzAddress(f *testing.F) {
	f.Add([]byte{0x03, 0x00, 0x00, 0xb0, 0x44, 0x00, 0x00, 0xb4, 0xe4, 0xff, 0xff, 0xb4}, true)
	f.Add([]byte{0x48, 0x8d, 0x05, 0xf9, 0x0f, 0x00, 0x00}, false)
	f.Fuzz(func(t *testing.T, code []byte, isARM bool) {
		m := elf.EM_X86_64
		if isARM {
			m = elf.EM_AARCH64
		}
		if at, ok := Address(m, code, 0x1000, 0x2000, 0x3000); ok && (at < 0x1000 || at >= 0x1000+uint64(len(code))) {
			t.Errorf("%#x", at)
		}
	})
}
