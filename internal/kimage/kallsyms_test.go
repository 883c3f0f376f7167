package kimage

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var (
	symbolsOnly = cmpopts.IgnoreFields(Symbol{}, "Size")
	forms       = fakeForms
)

func TestKallsymsInAllForms(t *testing.T) {
	for _, form := range forms {
		for _, short := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/short=%v", form, short), func(t *testing.T) {
				k := fake{form: form, short: short}
				rodata, _ := k.rodata()
				got, err := Parse(k.image(t, rodata))
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(k.symbols(), got.Symbols, symbolsOnly); d != "" {
					t.Errorf("symbols differ (-want +got):\n%s", d)
				}
				if got.Release != "6.99.1-fake" || got.Banner != strings.TrimSpace(fakeBanner) || got.Vermagic != "6.99.1-fake SMP preempt mod_unload " ||
					fmt.Sprintf("%x", got.BuildID) != "deadbeef" {
					t.Errorf("release %q, banner %q, vermagic %q, build-id %x", got.Release, got.Banner, got.Vermagic, got.BuildID)
				}
			})
		}
	}
}

func TestSymbolsBecomeASymbolTable(t *testing.T) {
	k := fake{form: "behind percpu"}
	rodata, _ := k.rodata()
	got, err := Parse(k.image(t, rodata))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.File.Symbols) != len(got.Symbols)+1 {
		t.Fatalf("%d symbols in the file, %d of kallsyms", len(got.File.Symbols), len(got.Symbols))
	}
	same := got.Named("same_name")
	if len(same) != 7 {
		t.Fatalf("same_name: %v", same)
	}
	for n, i := range same {
		if p := got.Sympos(i); p != n+1 {
			t.Errorf("symbol %d is at position %d, want %d", i, p, n+1)
		}
		s, e := got.Symbols[i], got.File.Symbols[i+1]
		if e.Name != s.Name || e.Value != s.Addr || e.Size != 0x20 || got.File.Sections[e.Section].Name != ".text" {
			t.Errorf("symbol %+v became %+v", s, e)
		}
	}
	if i := got.Named("_text")[0]; got.Sympos(i) != 0 {
		t.Error("_text is unique and has a position")
	}
	if at := got.At(fakeText); len(at) != 2 || got.Symbols[at[0]].Name != "_text" || got.Symbols[at[1]].Name != "_stext" {
		t.Errorf("at the start of the text: %v", at)
	}
	if at := got.At(fakeText + 1); at != nil {
		t.Errorf("at no symbol: %v", at)
	}
}

// What is damaged, missing or there twice is an error, never another table.
func TestKallsymsRefuses(t *testing.T) {
	for _, form := range []string{"before percpu", "behind", "pc-relative"} {
		k := fake{form: form}
		for _, c := range []struct {
			name   string
			damage func(b []byte, at map[string]int)
			want   string
		}{
			{"no index", func(b []byte, at map[string]int) { b[at["index"]+8] ^= 0x80 }, "no symbol table"},
			{"no tokens", func(b []byte, at map[string]int) { b[at["tokens"]+8] = 'x' }, "no symbol table"},
			{"wrong count", func(b []byte, at map[string]int) { b[at["count"]] -= 10 }, "no symbol table"},
			{"a marker is wrong", func(b []byte, at map[string]int) { b[at["markers"]+8]++ }, "no symbol table"},
			{"no name", func(b []byte, at map[string]int) { b[at["names"]] = 0 }, "no symbol table"},
			{"addresses fall", func(b []byte, at map[string]int) { copy(b[at["addresses"]+400:], b[at["addresses"]:][:400]) }, "unknown form"},
			{"addresses elsewhere", func(b []byte, at map[string]int) {
				for i := at["addresses"]; i < at["addresses"]+4*600; i += 4 {
					le.PutUint32(b[i:], uint32(i)<<8)
				}
			}, "unknown form"},
		} {
			rodata, parts := k.rodata()
			c.damage(rodata, parts)
			got, err := Parse(k.image(t, rodata))
			if err == nil {
				t.Errorf("%s: %s: %d symbols", form, c.name, len(got.Symbols))
			} else if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %s: %q does not say %q", form, c.name, err, c.want)
			}
		}
	}
	k := fake{form: "behind", twice: true}
	rodata, _ := k.rodata()
	if _, err := Parse(k.image(t, rodata)); err == nil || !strings.Contains(err.Error(), "two ") {
		t.Errorf("two tables: %v", err)
	}
}

func TestKallsymsEffortIsBounded(t *testing.T) {
	// Behind a token index, every word is a count of names, and every byte a name of
	// one byte.
	_, parts := fake{form: "behind"}.table(0)
	table, _ := fake{form: "behind"}.table(0)
	var b []byte
	for len(b) < 1<<18 {
		b = append(b, 1, 1, 1, 0)
	}
	b = append(b, table[parts["tokens"]:]...)
	_, err := findKallsyms([]region{{0, b}})
	if err == nil {
		t.Fatal("found a table")
	}
	for i := range b[:1<<18] {
		b[i] = 1
	}
	if _, err := findKallsyms([]region{{0, b}}); err == nil {
		t.Fatal("found a table")
	}
}

func TestParseKallsyms(t *testing.T) {
	const text = `0000000000000000 A fixed_percpu_data
ffffffff81000000 T _text
ffffffff81000000 T _stext
ffffffff81000040 t static_one

ffffffff81000040 t same
ffffffffc0001000 t in_module	[some_module]
ffffffff81000100 T _etext
`
	got, err := ParseKallsyms([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := []Symbol{
		{Name: "fixed_percpu_data", Type: 'A', Size: 0xffffffff81000000},
		{Name: "_text", Addr: 0xffffffff81000000, Type: 'T', Size: 0x40},
		{Name: "_stext", Addr: 0xffffffff81000000, Type: 'T', Size: 0x40},
		{Name: "static_one", Addr: 0xffffffff81000040, Type: 't', Size: 0xc0},
		{Name: "same", Addr: 0xffffffff81000040, Type: 't', Size: 0xc0},
		{Name: "in_module", Addr: 0xffffffffc0001000, Type: 't', Module: "some_module"},
		{Name: "_etext", Addr: 0xffffffff81000100, Type: 'T', Size: 0x3f000f00},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	for _, c := range []struct{ in, want string }{
		{"", "none of the 0"},
		{"0000000000000000 T _text\n", "none of the 1"},
		{"ffffffff81000000 T\n", "line 1: 2 columns"},
		{"x T _text\n", "the address"},
		{"1 TT _text\n", "the type"},
		{"1 T _text module\n", "the module"},
	} {
		if _, err := ParseKallsyms([]byte(c.in)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want one that says %q", c.in, err, c.want)
		}
	}
}
