package diff

import (
	"debug/elf"
	"testing"

	"livepatch/elfpatch"
)

// Code without symbols, in several sections of one name, is paired by its
// contents; it belongs to no source file.
func TestUnnamedCode(t *testing.T) {
	object := func(symbols bool, bodies ...byte) *elfpatch.File {
		f := elfpatch.New(elf.ET_REL, elf.EM_X86_64)
		for _, b := range bodies {
			f.AddSection(elfpatch.Section{Name: ".text", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | elf.SHF_EXECINSTR, Align: 16,
				Data: []byte{0xb8, b, 0, 0, 0, 0xc3}}) // mov $b,%eax; ret
		}
		if !symbols {
			f.Symbols = nil
		}
		return f
	}
	for _, symbols := range []bool{true, false} {
		for _, rules := range []bool{true, false} {
			opt := Options{Kernel: rules}
			d, err := Compare(object(symbols, 1, 2, 3), object(symbols, 3, 1, 2), opt)
			if err != nil {
				t.Fatal(err)
			}
			if d.Changed() {
				t.Errorf("symbols %v: pieces in another order are taken for others:\n%s", symbols, summary(d))
			}
			if d, err = Compare(object(symbols, 1, 2, 3), object(symbols, 3, 9, 2), opt); err != nil {
				t.Fatal(err)
			} else if len(d.Refusals) == 0 {
				t.Errorf("symbols %v: changed code without a symbol is not refused:\n%s", symbols, summary(d))
			}
			if _, err := Compare(object(symbols), object(symbols, 1, 2), opt); err != nil {
				t.Fatal(err)
			}
		}
	}
}
