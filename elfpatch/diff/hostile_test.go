package diff

import (
	"debug/elf"
	"testing"

	"livepatch/elfpatch"
)

// Padding with a name at the end of a section is padding of nothing, least of
// all of itself.
func TestPrefixAtEnd(t *testing.T) {
	for _, at := range []uint64{0, 8, 16} {
		var files [2]*elfpatch.File
		for i := range files {
			f := elfpatch.New(elf.ET_REL, elf.EM_X86_64)
			code := []byte{0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0xb8, byte(i), 0, 0, 0, 0xc3, 0x90, 0x90}
			sec := f.AddSection(elfpatch.Section{Name: ".text", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | elf.SHF_EXECINSTR, Data: code, Align: 16})
			f.AddSymbol(elfpatch.Symbol{Name: "f", Type: elf.STT_FUNC, Bind: elf.STB_GLOBAL, Section: sec.Index, Value: 8, Size: 8})
			f.AddSymbol(elfpatch.Symbol{Name: "__pfx_f", Type: elf.STT_FUNC, Bind: elf.STB_GLOBAL, Section: sec.Index, Value: at})
			b, err := f.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			if files[i], err = elfpatch.Parse(b); err != nil {
				t.Fatal(err)
			}
		}
		s, err := newSide(files[0], "", true)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range s.pieces {
			if p.parent == p {
				t.Errorf("at %d: %s is a part of itself", at, p.name)
			}
		}
		d := checkPair(t, files[0], files[1], Options{Kernel: true})
		if d == nil || !d.Changed() {
			t.Errorf("at %d: the change of f is not seen", at)
		}
	}
}
