package kimage

import (
	"debug/elf"
	"encoding/binary"
	"slices"
	"strings"
	"testing"
)

const (
	armBase   = 0xffff800080000000
	armText   = 0x10000
	armRodata = 0x20000
	armRela   = 0x30000
	armData   = 0x40000
	armEnd    = 0x50000
)

// armImage makes a raw arm64 Image whose symbol table counts from a base, which
// like all pointers is an addend of a relocation (relr: in its place, with a
// table that counts from its own places).
func armImage(t testing.TB, relr bool) []byte {
	t.Helper()
	k := fake{form: "behind"}
	if relr {
		k.form = "pc-relative"
	}
	raw := make([]byte, armData+0x1000)
	copy(raw[arm64Magic:], "ARM\x64")
	le.PutUint64(raw[arm64ImageSize:], armEnd)
	copy(raw[armRodata:], fakeBanner)
	table, parts := k.tableOf(armSymbols(), armBase+armRodata+0x1000, armBase)
	copy(raw[armRodata+0x1000:], table)
	var relas []byte
	pointer := func(place, to uint64) {
		if relr {
			le.PutUint64(raw[place-armBase:], to)
			return
		}
		relas = binary.LittleEndian.AppendUint64(relas, place)
		relas = binary.LittleEndian.AppendUint64(relas, relativeARM64)
		relas = binary.LittleEndian.AppendUint64(relas, to)
	}
	if !relr {
		at := armRodata + 0x1000 + parts["base"]
		clear(raw[at : at+8])
		pointer(armBase+uint64(at), armBase)
	}
	for i := range 200 { // a table of functions
		pointer(armBase+armData+8*uint64(i), armBase+armText+0x100+0x20*uint64(i))
	}
	copy(raw[armRela:], relas)
	return raw
}

// armSymbols are symbols that bound the sections, and functions.
func armSymbols() []Symbol {
	out := []Symbol{{Name: "_text", Addr: armBase, Type: 'T'}, {Name: "_stext", Addr: armBase + armText, Type: 'T'}}
	for _, s := range (fake{form: "behind"}).symbols() {
		if strings.HasPrefix(s.Name, "function_") || s.Name == "same_name" {
			s.Addr = armBase + armText + (s.Addr - fakeText)
			out = append(out, s)
		}
	}
	return append(out,
		Symbol{Name: "_etext", Addr: armBase + armRodata, Type: 'D'},
		Symbol{Name: "linux_banner", Addr: armBase + armRodata, Type: 'D'},
		Symbol{Name: "__inittext_begin", Addr: armBase + armRela, Type: 'T'},
		Symbol{Name: "__inittext_end", Addr: armBase + armRela, Type: 'T'},
		Symbol{Name: "_sdata", Addr: armBase + armData, Type: 'D'},
		Symbol{Name: "table", Addr: armBase + armData, Type: 'd'},
		Symbol{Name: "__bss_start", Addr: armBase + armData + 0x1000, Type: 'B'},
		Symbol{Name: "_end", Addr: armBase + armEnd, Type: 'B'})
}

func TestARM64Image(t *testing.T) {
	for _, relr := range []bool{false, true} {
		raw := armImage(t, relr)
		for _, b := range [][]byte{raw, gz(t, raw)} {
			k, err := Parse(b)
			if err != nil {
				t.Fatalf("relr %v: %v", relr, err)
			}
			want := armSymbols()
			if !slices.EqualFunc(want, k.Symbols, func(a, b Symbol) bool { return a.Name == b.Name && a.Addr == b.Addr && a.Type == b.Type }) {
				t.Errorf("relr %v: %d symbols, want %d; the first is %+v", relr, len(k.Symbols), len(want), k.Symbols[0])
			}
			if k.Machine != elf.EM_AARCH64 || k.Release != "6.99.1-fake" {
				t.Errorf("relr %v: machine %v, release %q", relr, k.Machine, k.Release)
			}
			if v, ok := k.Pointer(armBase + armData + 8); !ok || v != armBase+armText+0x120 {
				t.Errorf("relr %v: a pointer is %#x, %v", relr, v, ok)
			}
			text := k.File.Section(".text")
			if text == nil || text.Addr != armBase+armText || text.Size != armRodata-armText || text.Flags&elf.SHF_EXECINSTR == 0 {
				t.Errorf("relr %v: text is %+v", relr, text)
			}
			bss := k.File.Section(".bss")
			if bss == nil || bss.Type != elf.SHT_NOBITS || bss.Addr+bss.Size != armBase+armEnd {
				t.Errorf("relr %v: bss is %+v", relr, bss)
			}
		}
	}
}

func TestARM64ImageRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(raw []byte) []byte
		want   string
	}{
		{"its size is too small", func(b []byte) []byte { le.PutUint64(b[arm64ImageSize:], 0x100); return b }, "bytes in memory"},
		{"its size is another", func(b []byte) []byte { le.PutUint64(b[arm64ImageSize:], armEnd+8); return b }, "unknown form"},
		{"no relocations", func(b []byte) []byte { clear(b[armRela:armData]); return b }, "its pointers"},
		{"no table", func(b []byte) []byte { clear(b[armRodata:armRela]); return b }, "no symbol table"},
		{"cut short", func(b []byte) []byte { return b[:armText] }, "no symbol table"},
	} {
		raw := armImage(t, false)
		k, err := Parse(c.damage(raw))
		if err == nil {
			t.Errorf("%s: %d symbols", c.name, len(k.Symbols))
		} else if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %q does not say %q", c.name, err, c.want)
		}
	}
}
