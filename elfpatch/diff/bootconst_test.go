package diff

import (
	"debug/elf"
	"slices"
	"testing"

	"livepatch/internal/refusal"
)

// The constants of the functions below are numbers that a kernel writes into
// its own image; the patch has to load the variables.
func TestBootConstants(t *testing.T) {
	for _, tc := range []asmCase{
		{name: "x86-64", machine: elf.EM_X86_64, source: bootX86, show: ".text runtime", want: []string{
			".text.f e800000000488b05000000000f1f004c8b3d000000000f1f00b801000000c3 1:PLT32:__fentry__-4 8:PC32:LIMIT-4 18:PC32:table-4",
		}},
		{name: "arm64", machine: elf.EM_AARCH64, source: bootARM64, show: ".text runtime", want: []string{
			".text.f 1f2003d51f2003d503000090630040f91f2003d51f2003d500001f52c0035fd6 8:ADR_PREL_PG_HI21:LIMIT+0 12:LDST64_ABS_LO12_NC:LIMIT+0",
		}},
		{name: "a part of a number", machine: elf.EM_X86_64, source: bootShiftX86, refuse: []refusal.Code{refusal.BootConstant}},
		{name: "no load fits", machine: elf.EM_X86_64, source: bootOtherX86, refuse: []refusal.Code{refusal.BootConstant}},
	} {
		t.Run(tc.name, tc.run)
	}
}

const bootX86 = `
FUNC f
	call __fentry__
	.byte 0x48, 0xb8
	.quad 0x0123456789abcdef
1:	.byte 0x49, 0xbf
	.quad 0x0123456789abcdef
2:	movl $AFTER, %eax
	ret
END f
TABLE runtime_ptr_LIMIT
	.long 1b - 8 - .
.popsection
TABLE runtime_ptr_table
	.long 2b - 8 - .
.popsection
	.local table
	.comm table, 8, 8
`

const bootARM64 = `
FUNC f
	nop
	nop
1:	movz x3, #0xcdef
	movk x3, #0x89ab, lsl #16
	movk x3, #0x4567, lsl #32
	movk x3, #0x0123, lsl #48
	eor w0, w0, #(1 + AFTER)
	ret
END f
TABLE runtime_ptr_LIMIT
	.long 1b - .
.popsection
TABLE __patchable_function_entries awo
	.quad f
.popsection
`

const bootShiftX86 = `
FUNC f
	call __fentry__
	shrl $12, %eax
1:	movl $AFTER, %eax
	ret
END f
TABLE runtime_shift_order
	.long 1b - 1 - .
.popsection
`

const bootOtherX86 = `
FUNC f
	call __fentry__
	pushq $0x12345678
	nopl 0(%rax)
1:	movl $AFTER, %eax
	ret
END f
TABLE runtime_ptr_LIMIT
	.long 1b - 8 - .
.popsection
`

// A load must be as long as what it takes the place of, for every register.
func TestBootLoadForms(t *testing.T) {
	for reg := range byte(16) {
		code := append([]byte{0x48 | reg>>3, 0xb8 | reg&7}, 0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01)
		var l bootLoad
		if !l.x86(code, 2) || len(l.code) != len(code) || l.code[0] != 0x48|reg>>3<<2 || l.code[2] != 5|reg&7<<3 {
			t.Errorf("register %d: %x", reg, l.code)
		}
	}
	for _, code := range [][]byte{nil, {0x48, 0xb8}, {0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7}, {0x40, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8}, {0x48, 0xc0, 1, 2, 3, 4, 5, 6, 7, 8}} {
		for field := range uint64(4) {
			if l := new(bootLoad); l.x86(slices.Clone(code), field) {
				t.Errorf("%x, field at %d: %x", code, field, l.code)
			}
		}
	}
}
