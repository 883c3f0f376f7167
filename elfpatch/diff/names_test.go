package diff

import "testing"

// The fields of an instruction that hold no register are not taken for one.
func TestARM64MayName(t *testing.T) {
	for _, tc := range []struct {
		word  uint32
		text  string
		names []uint32
	}{
		{0x54000621, "b.ne .+196", nil},
		{0x1400022f, "b .+2236", nil},
		{0x97fffe10, "bl .-1984", nil},
		{0x52804000, "mov w0, #0x200", []uint32{0}},
		{0xd2900210, "mov x16, #0x8010", []uint32{16}},
		{0xf2a00211, "movk x17, #0x10, lsl #16", []uint32{17}},
		{0x90000211, "adrp x17, .+0x40000", []uint32{17}},
		{0x9104422f, "add x15, x17, #0x110", []uint32{15, 17}},
		{0xf2404210, "ands x16, x16, #0x1ffff", []uint32{16}},
		{0x53104220, "ubfx w0, w17, #16, #1", []uint32{0, 17}},
		{0x93d04201, "extr x1, x16, x16, #16", []uint32{1, 16}},
		{0xb4000211, "cbz x17, .+64", []uint32{17}},
		{0x37800210, "tbnz w16, #16, .+64", []uint32{16}},
		{0xb9001315, "str w21, [x24, #16]", []uint32{21, 24}},
		{0xf9404211, "ldr x17, [x16, #128]", []uint32{16, 17}},
		{0xa9044630, "stp x16, x17, [x17, #64]", []uint32{16, 17}},
		{0xa9bc7bfd, "stp x29, x30, [sp, #-64]!", []uint32{29, 30, 31}},
		{0xaa1003f1, "mov x17, x16", []uint32{0, 16, 17, 31}},
		{0xd61f0200, "br x16", []uint32{0, 16, 31}},
		{0xf8716a10, "ldr x16, [x16, x17]", []uint32{16, 17, 26}},
	} {
		want := map[uint32]bool{}
		for _, n := range tc.names {
			want[n] = true
		}
		for reg := range uint32(32) {
			if got := arm64MayName(tc.word, reg); got != want[reg] {
				t.Errorf("%#08x, %s: may name register %d: %t", tc.word, tc.text, reg, got)
			}
		}
	}
}
