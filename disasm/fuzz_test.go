package disasm

import (
	"debug/elf"
	"strings"
	"testing"
)

// seeds are the goldens, a few together, and what is refused.
func seeds(f *testing.F, path string) {
	for _, g := range readGolden(f, path) {
		f.Add(g.code)
	}
	f.Add([]byte{})
	f.Add([]byte{0x06})
	f.Add([]byte{0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90})
	f.Add([]byte{0x62, 0xf1, 0x7c, 0x48, 0x28, 0x05, 0, 0, 0, 0, 0xc3})
}

func FuzzDecodeX86(f *testing.F) {
	seeds(f, "testdata/x86.txt")
	f.Fuzz(func(t *testing.T, b []byte) {
		in, err := Decode(elf.EM_X86_64, b)
		if err != nil {
			if in != (Inst{}) {
				t.Fatalf("% x: %+v beside %v", b, in, err)
			}
			return
		}
		if in.Len < 1 || in.Len > maxX86Len || in.Len > len(b) {
			t.Fatalf("% x: length %d", b, in.Len)
		}
		sameAlone(t, elf.EM_X86_64, b, in)
		x := in.X86
		end := 0 // the fields follow each other
		for _, part := range []Field{{x.OpcodeOff, 1}, modrmField(x), x.Disp, x.Imm} {
			if part.Size == 0 {
				continue
			}
			if int(part.Off) < end {
				t.Fatalf("% x: field at %d overlaps what ends at %d: %+v", b, part.Off, end, in)
			}
			end = int(part.Off) + int(part.Size)
		}
		if end > in.Len || (x.Disp.Size > 0 || x.Imm.Size > 0) && end != in.Len {
			t.Fatalf("% x: fields end at %d, the instruction at %d", b, end, in.Len)
		}
		if in.PCRel.Size > 0 && in.PCRel != x.Disp && in.PCRel != x.Imm {
			t.Fatalf("% x: PC-relative field %v is neither displacement nor immediate", b, in.PCRel)
		}
	})
}

func modrmField(x X86) Field {
	if !x.HasModRM {
		return Field{}
	}
	return Field{x.ModRMOff, 1}
}

func FuzzDecodeARM64(f *testing.F) {
	seeds(f, "testdata/arm64.txt")
	f.Fuzz(func(t *testing.T, b []byte) {
		in, err := Decode(elf.EM_AARCH64, b)
		if err != nil {
			return
		}
		if in.Len != arm64Len || in.X86 != (X86{}) {
			t.Fatalf("% x: %+v", b, in)
		}
		sameAlone(t, elf.EM_AARCH64, b, in)
	})
}

// sameAlone checks what holds on both machines: the bytes after an instruction
// do not matter, without its last byte it is truncated, a direct branch has a
// target, and its bytes can be printed.
func sameAlone(t *testing.T, m elf.Machine, b []byte, in Inst) {
	if again, err := Decode(m, b[:in.Len:in.Len]); err != nil || again != in {
		t.Fatalf("% x: alone %+v, %v; in a row %+v", b, again, err, in)
	}
	_, err := Decode(m, b[:in.Len-1])
	if e, ok := err.(*Error); !ok || !e.Truncated {
		t.Fatalf("% x without its last byte: %v", b[:in.Len], err)
	}
	_, has := in.Target(0x1000)
	direct := in.Flow == Jump || in.Flow == CondJump || in.Flow == Call
	if direct && (!has || in.Mem) || has && !direct && !in.Mem {
		t.Fatalf("% x: flow %d, field %v, Mem %v", b, in.Flow, in.PCRel, in.Mem)
	}
	if int(in.PCRel.Off)+int(in.PCRel.Size) > in.Len {
		t.Fatalf("% x: field %v beyond %d", b, in.PCRel, in.Len)
	}
}

func FuzzText(f *testing.F) {
	seeds(f, "testdata/x86.txt")
	seeds(f, "testdata/arm64.txt")
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, m := range []elf.Machine{elf.EM_X86_64, elf.EM_AARCH64, elf.EM_386} {
			s := Text(m, b, goldenPC, goldenSymbol)
			if s == "" || strings.ContainsAny(s, "\n\t") || s != strings.TrimSpace(s) {
				t.Fatalf("%v % x: %q", m, b, s)
			}
			raw := strings.HasPrefix(s, ".byte") || strings.HasPrefix(s, ".inst")
			if in, err := Decode(m, b); (err != nil || in.Len != len(b)) && !raw {
				t.Fatalf("%v % x: %q for what is not one instruction", m, b, s)
			}
		}
	})
}
