package kimage

import (
	"bytes"
	"debug/elf"
	"testing"
)

// The parsers are given files of strangers: whatever the bytes, they end with a
// value or an error, and what they return can be used.

func FuzzUnpack(f *testing.F) {
	f.Add(gz(f, []byte("\x7fELF")))
	f.Add(bzImage(gz(f, []byte("\x7fELF"))))
	f.Add(zboot(gz(f, []byte("\x7fELF"))))
	f.Add([]byte("\x02\x21\x4c\x18\x04\x00\x00\x00\x30abc\x03\x00\x00\x00"))
	f.Add([]byte("\x28\xb5\x2f\xfd\x24\x04\x21\x00\x00\x7fELF\x00\x00\x00\x00"))
	f.Add([]byte("\xfd7zXZ\x00\x00\x01\x69\x22\xde\x36\x02\x00\x21\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<16 {
			return // bombs are slow, not wrong
		}
		got, err := Unpack(b)
		if err == nil && !isELF(got) && !isARM64Image(got) {
			t.Errorf("unpacked to %d bytes that are no image", len(got))
		}
	})
}

func FuzzKernel(f *testing.F) {
	for _, form := range forms {
		k := fake{form: form}
		rodata, _ := k.rodata()
		f.Add(k.image(f, rodata))
	}
	f.Add(armImage(f, false))
	f.Add(armImage(f, true))
	f.Fuzz(func(t *testing.T, b []byte) {
		if !isELF(b) && !isARM64Image(b) {
			return
		}
		k, err := Parse(b)
		if err != nil {
			return
		}
		for i, s := range k.Symbols {
			if i > 0 && s.Addr < k.Symbols[i-1].Addr {
				t.Fatalf("symbol %d at %#x is before %#x", i, s.Addr, k.Symbols[i-1].Addr)
			}
			if p := k.Sympos(i); p < 0 || p > len(k.Named(s.Name)) {
				t.Fatalf("symbol %s is at position %d", s.Name, p)
			}
		}
		_, _ = k.Exports()
		_, _ = ABIFromBTF(k.BTF, k.Machine)
	})
}

func FuzzModule(f *testing.F) {
	f.Add(assemble(f, elf.EM_X86_64, moduleSource))
	f.Add(assemble(f, elf.EM_AARCH64, moduleSource))
	f.Fuzz(func(t *testing.T, b []byte) {
		if !isELF(b) {
			return
		}
		m, err := ParseModule(b)
		if err != nil {
			return
		}
		if len(m.Linked.Symbols) != len(m.File.Symbols) {
			t.Fatalf("%d symbols of %d", len(m.Linked.Symbols), len(m.File.Symbols))
		}
		for i := range m.Symbols {
			m.Sympos(i)
			m.Steady(i)
		}
		_, _ = m.Exports()
	})
}

func FuzzSymvers(f *testing.F) {
	f.Add([]byte("0x1\ta\tvmlinux\tEXPORT_SYMBOL\t\n0x2\tb\tx/y-z\tEXPORT_SYMBOL_GPL\tN\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ParseSymvers(b)
		if err == nil && len(got) > bytes.Count(b, []byte("\n"))+1 {
			t.Fatalf("%d exports of %d bytes", len(got), len(b))
		}
	})
}

func FuzzKallsymsText(f *testing.F) {
	f.Add([]byte("ffffffff81000000 T _text\nffffffffc0000000 t a\t[m]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ParseKallsyms(b)
		if err == nil && len(got) == 0 {
			t.Fatal("no symbols, and no error")
		}
	})
}

func FuzzBTF(f *testing.F) {
	f.Add(sampleBTF().bytes())
	m := sampleBTF()
	m.header = 32
	m.layout = make([]byte, 40)
	f.Add(m.bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ABIFromBTF(b, elf.EM_X86_64)
		if err == nil && a.Structs == nil {
			t.Fatal("no structures, and no error")
		}
	})
}
