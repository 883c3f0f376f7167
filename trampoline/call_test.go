package trampoline

import (
	"debug/elf"
	"encoding/hex"
	"testing"
)

func TestCall(t *testing.T) {
	call := Call{Function: 0x7f0000001000, First: 0x7f0000002000, Second: 0x7f0000003000, Flag: 0x7f0000003070, Value: 2}
	const (
		begin = "53" + "4154" + "4883ec08" // push %rbx; push %r12; sub $8,%rsp
		errno = "48b800400000007f0000" + "ffd0" + "4889c3" + "448b20"
		args  = "48bf00200000007f0000" + "48be00300000007f0000" + "48b800100000007f0000" + "ffd0"
		back  = "448923"                            // mov %r12d,(%rbx)
		end   = "48b870300000007f0000" + "c60002" + // movb $2,(%rax)
			"4883c408" + "415c" + "5b" + "c3"
	)
	for _, tc := range []struct {
		errno uint64
		want  string
	}{
		{0, begin + args + end},
		{0x7f0000004000, begin + errno + args + back + end},
	} {
		call.Errno = tc.errno
		b, err := call.Code(elf.EM_X86_64)
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(b); got != tc.want || len(b) > CallSize {
			t.Errorf("errno %#x:\n%s\n%s", tc.errno, got, tc.want)
		}
	}
	if _, err := call.Code(elf.EM_AARCH64); err == nil {
		t.Error("a call on arm64")
	}
}
