package kimage

import (
	"cmp"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// fake is a kernel that tests make: a few hundred functions and variables, and the
// symbol table in one of its forms.
type fake struct {
	machine elf.Machine
	form    string // of the symbol table: a key of fakeForms
	short   bool   // no lengths above 127 in two bytes
	banner  string
	twice   bool // a second symbol table
}

// fakeForms are how kernels have written the table, oldest first.
var fakeForms = []string{"before", "before percpu", "before plain", "behind", "behind percpu", "behind plain", "pc-relative"}

const (
	fakeText   = 0xffffffff81000000
	fakeRodata = 0xffffffff82000000
	fakeData   = 0xffffffff83000000
	fakeFuncs  = 700
)

// symbols are those of the fake, sorted as kallsyms are.
func (k fake) symbols() []Symbol {
	text, data := uint64(fakeText), uint64(fakeData)
	var out []Symbol
	if strings.Contains(k.form, "percpu") {
		out = append(out, Symbol{Name: "fixed_percpu_data", Type: 'A'}, Symbol{Name: "cpu_number", Type: 'd', Addr: 0x1040})
	}
	out = append(out, Symbol{Name: "_text", Addr: text, Type: 'T'}, Symbol{Name: "_stext", Addr: text, Type: 'T'})
	for i := range fakeFuncs {
		name := fmt.Sprintf("function_%d_of_many", i)
		if i%100 == 7 {
			name = "same_name"
		}
		if i == 300 && !k.short {
			name = strings.Repeat("AbCdEfGhIjKlMnOpQrStUvWxYz", 10) // no tokens for these pairs
		}
		out = append(out, Symbol{Name: name, Addr: text + 0x100 + 0x20*uint64(i), Type: "tT"[i%2]})
	}
	out = append(out, Symbol{Name: "_etext", Addr: text + 0x8000, Type: 'T'})
	out = append(out, Symbol{Name: "linux_banner", Addr: fakeRodata, Type: 'R'})
	for i := range 40 {
		out = append(out, Symbol{Name: fmt.Sprintf("variable_%d", i), Addr: data + 8*uint64(i), Type: 'd'})
	}
	out = append(out, Symbol{Name: "_end", Addr: data + 0x2000, Type: 'B'})
	slices.SortStableFunc(out, func(a, b Symbol) int { return cmp.Compare(a.Addr, b.Addr) })
	return out
}

// tokens are all characters by themselves, and a few strings.
func fakeTokens() (tokens []string, code map[string]byte) {
	tokens, code = make([]string, numTokens), map[string]byte{}
	for i := range tokens {
		switch {
		case i > ' ' && i < 0x7f:
			tokens[i] = string(rune(i))
		case i >= 0x80 && i < 0x80+10:
			tokens[i] = []string{"function_", "_of_many", "Tf", "tf", "variable_", "name", "text", "_da", "ta", "__"}[i-0x80]
		default:
			tokens[i] = fmt.Sprintf("unused%d_", i)
		}
		code[tokens[i]] = byte(i)
	}
	return tokens, code
}

// compress writes a name with its type as codes of tokens, the longest first.
func compress(s string, code map[string]byte) []byte {
	var out []byte
	for len(s) > 0 {
		n := min(len(s), 12)
		for ; n > 1; n-- {
			if _, ok := code[s[:n]]; ok {
				break
			}
		}
		out = append(out, code[s[:n]])
		s = s[n:]
	}
	return out
}

// table writes the symbol table at an address, and returns where its parts are
// for tests that damage it.
func (k fake) table(addr uint64) (b []byte, parts map[string]int) {
	return k.tableOf(k.symbols(), addr, fakeText)
}

// tableOf writes a table of any symbols; base is the relative base.
func (k fake) tableOf(syms []Symbol, addr, base uint64) (b []byte, parts map[string]int) {
	parts = map[string]int{}
	align := 8
	if k.form == "pc-relative" {
		align = 4
	}
	part := func(name string) {
		for (addr+uint64(len(b)))%uint64(align) != 0 {
			b = append(b, 0)
		}
		parts[name] = len(b)
	}
	tokens, code := fakeTokens()
	addresses := func() {
		part("addresses")
		b = k.addresses(b, syms, addr, base)
		if !strings.Contains(k.form, "plain") && k.form != "pc-relative" {
			part("base")
			b = le.AppendUint64(b, base)
		}
	}
	if strings.HasPrefix(k.form, "before") {
		addresses()
	}
	part("count")
	b = le.AppendUint32(b, uint32(len(syms)))
	part("names")
	var markers []uint32
	for i, s := range syms {
		if i%namesPerMarker == 0 {
			markers = append(markers, uint32(len(b)-parts["names"]))
		}
		c := compress(string(s.Type)+s.Name, code)
		if len(c) > 127 && !k.short {
			b = append(b, byte(len(c))|0x80, byte(len(c)>>7))
		} else {
			b = append(b, byte(len(c)))
		}
		b = append(b, c...)
	}
	part("markers")
	for _, m := range markers {
		b = le.AppendUint32(b, m)
	}
	part("tokens")
	var index []byte
	for _, t := range tokens {
		index = le.AppendUint16(index, uint16(len(b)-parts["tokens"]))
		b = append(append(b, t...), 0)
	}
	part("index")
	b = append(b, index...)
	if !strings.HasPrefix(k.form, "before") {
		addresses()
		part("order")
		b = append(b, make([]byte, 3*len(syms))...)
	}
	part("end")
	return b, parts
}

func (k fake) addresses(b []byte, syms []Symbol, addr, base uint64) []byte {
	for _, s := range syms {
		switch {
		case strings.Contains(k.form, "plain"):
			b = le.AppendUint64(b, s.Addr)
		case k.form == "pc-relative":
			b = le.AppendUint32(b, uint32(s.Addr-(addr+uint64(len(b)))))
		case strings.Contains(k.form, "percpu") && s.Addr >= base:
			b = le.AppendUint32(b, uint32(-1-int64(s.Addr-base)))
		case strings.Contains(k.form, "percpu"):
			b = le.AppendUint32(b, uint32(s.Addr))
		default:
			b = le.AppendUint32(b, uint32(s.Addr-base))
		}
	}
	return b
}

const fakeBanner = "Linux version 6.99.1-fake (tester@example.org) (gcc) #1 SMP\n"

// rodata is the section with the table, behind a banner and something else.
func (k fake) rodata() (b []byte, parts map[string]int) {
	banner := k.banner
	if banner == "" {
		banner = fakeBanner
	}
	b = append([]byte(banner), 0)
	b = append(b, "\x006.99.1-fake SMP preempt mod_unload \x00"...)
	for i := 0; len(b) < 0x1000; i++ {
		b = append(b, byte(i*i>>3))
	}
	t, parts := k.table(fakeRodata + uint64(len(b)))
	for name := range parts {
		parts[name] += len(b)
	}
	b = append(b, t...)
	if k.twice {
		t, _ = k.table(fakeRodata + uint64(alignUp(len(b), 8)))
		b = append(append(b, make([]byte, -len(b)&7)...), t...)
	}
	return b, parts
}

// image is the ELF file that a bzImage would hold.
func (k fake) image(t testing.TB, rodata []byte) []byte {
	t.Helper()
	m := k.machine
	if m == 0 {
		m = elf.EM_X86_64
	}
	note := binary.LittleEndian.AppendUint32(nil, 4)
	note = le.AppendUint32(le.AppendUint32(note, 4), 3)
	note = append(note, "GNU\x00\xde\xad\xbe\xef"...)
	f, err := linkedFile(m, []placed{
		{name: ".data..percpu", typ: elf.SHT_PROGBITS, flags: rw, addr: 0, size: 0x2000},
		{name: ".text", typ: elf.SHT_PROGBITS, flags: rx, addr: fakeText, size: 0x8000},
		{name: ".rodata", typ: elf.SHT_PROGBITS, flags: ro, addr: fakeRodata, size: uint64(len(rodata)), data: rodata},
		{name: ".notes", typ: elf.SHT_NOTE, flags: ro, addr: fakeRodata + 0x200000, size: uint64(len(note)), data: note},
		{name: ".data", typ: elf.SHT_PROGBITS, flags: rw, addr: fakeData, size: 0x1000},
		{name: ".bss", typ: elf.SHT_NOBITS, flags: rw, addr: fakeData + 0x1000, size: 0x1000},
	})
	if err != nil {
		t.Fatal(err)
	}
	b, err := f.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return b
}
