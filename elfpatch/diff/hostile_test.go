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

// What stands before the part of a function that seldom runs has no place in a
// cut, whatever it is and whoever refers to it.
func TestPrefixOfPart(t *testing.T) {
	const jump = 0xeb
	for _, tc := range []struct {
		prefix []byte
		refers bool
	}{
		{[]byte{0x90, 0x90, 0x90, 0x90}, false},
		{[]byte{jump, 0x10, 0x90, 0x90}, false}, // to g
		{[]byte{0x90, 0x90, 0x90, 0x90}, true},
	} {
		var files [2]*elfpatch.File
		for i := range files {
			f := elfpatch.New(elf.ET_REL, elf.EM_X86_64)
			const flags = elf.SHF_ALLOC | elf.SHF_EXECINSTR
			hot := f.AddSection(elfpatch.Section{Name: ".text", Type: elf.SHT_PROGBITS, Flags: flags, Align: 16,
				Data: []byte{0xe8, 0, 0, 0, 0, 0xe9, 0, 0, 0, 0, 0x48, 0xc7, 0xc0 + byte(i), 0, 0, 0, 0, 0xc3}})
			cold := f.AddSection(elfpatch.Section{Name: ".text.unlikely", Type: elf.SHT_PROGBITS, Flags: flags, Align: 16,
				Data: append(append([]byte{}, tc.prefix...), 0x31, 0xc0, 0xc3, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x31, 0xc0, 0xc3)})
			for _, s := range []elfpatch.Symbol{
				{Name: "f", Section: hot.Index, Size: 18, Bind: elf.STB_LOCAL},
				{Name: "__pfx_x", Section: cold.Index, Size: 4},
				{Name: "f.cold", Section: cold.Index, Value: 4, Size: 3},
				{Name: "g", Section: cold.Index, Value: 18, Size: 3, Bind: elf.STB_GLOBAL},
			} {
				s.Type = elf.STT_FUNC
				f.AddSymbol(s)
			}
			f.AddSymbol(elfpatch.Symbol{Name: "__fentry__", Bind: elf.STB_GLOBAL})
			rels := []elfpatch.Rela{{Offset: 1, Type: uint32(elf.R_X86_64_PLT32), Symbol: 5, Addend: -4}, {Offset: 6, Type: uint32(elf.R_X86_64_PLT32), Symbol: 3, Addend: -4}}
			if tc.refers {
				rels = append(rels, elfpatch.Rela{Offset: 13, Type: uint32(elf.R_X86_64_32S), Symbol: 2, Addend: 1})
			}
			if err := f.SetRelocations(hot, rels); err != nil {
				t.Fatal(err)
			}
			b, err := f.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			if files[i], err = elfpatch.Parse(b); err != nil {
				t.Fatal(err)
			}
		}
		d, err := Compare(files[0], files[1], Options{Kernel: true})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Cut(); (err != nil) != tc.refers {
			t.Errorf("%x, referred to %v: %v", tc.prefix, tc.refers, err)
		}
	}
}
