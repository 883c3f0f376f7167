package trampoline

import (
	"debug/elf"
	"encoding/hex"
	"strings"
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
	if _, err := call.Code(elf.EM_RISCV); err == nil {
		t.Error("a call on a machine that is not known")
	}
}

// The instructions are those that GNU as makes of what arm64_call.go says beside
// them. That they do what they shall is seen where they run (TestExceptions).
func TestArm64Call(t *testing.T) {
	call := Call{Function: 0x123456789abcdef0, First: 0x7f0000002000, Second: 0x7f0000003000, Flag: 0x7f0000003070, Value: 2}
	const (
		begin = "fd7bbea9 f35301a9 fd030091"
		errno = "100088d2 1000a0f2 10e0cff2 1000e0f2 00023fd6 f30300aa 140040b9"
		args  = "000084d2 0000a0f2 00e0cff2 0000e0f2 010086d2 0100a0f2 01e0cff2 0100e0f2" +
			"10de9bd2 9057b3f2 10cfcaf2 9046e2f2 00023fd6"
		back = "740200b9" // str w20, [x19]
		end  = "100e86d2 1000a0f2 10e0cff2 1000e0f2 51008052 11020039 f35341a9 fd7bc2a8 c0035fd6"
	)
	for errnoAt, want := range map[uint64]string{0: begin + args + end, 0x7f0000004000: begin + errno + args + back + end} {
		call.Errno = errnoAt
		b, err := call.Code(elf.EM_AARCH64)
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(b); got != strings.ReplaceAll(want, " ", "") || len(b) > CallSize {
			t.Errorf("errno %#x:\n%s\n%s", errnoAt, got, strings.ReplaceAll(want, " ", ""))
		}
	}
}
