package kimage

import (
	"debug/elf"
	"strings"
	"testing"

	"livepatch/elfpatch/btf"
)

// btfMaker writes BTF for tests.
type btfMaker struct {
	types, strings []byte
	n              uint32
	header         int // 24, or 32 with a part that says how long types are
	layout         []byte
}

func newBTF() *btfMaker { return &btfMaker{strings: []byte{0}, header: btf.HeaderMin} }

func (m *btfMaker) str(s string) uint32 {
	at := len(m.strings)
	if s == "" {
		return 0
	}
	m.strings = append(append(m.strings, s...), 0)
	return uint32(at)
}

func (m *btfMaker) add(name string, kind, n int, value uint32, tail ...uint32) uint32 {
	for _, v := range append([]uint32{m.str(name), uint32(kind<<24 | n), value}, tail...) {
		m.types = le.AppendUint32(m.types, v)
	}
	m.n++
	return m.n
}

func (m *btfMaker) bytes() []byte {
	b := []byte{0x9f, 0xeb, 1, 0}
	b = le.AppendUint32(b, uint32(m.header))
	for _, v := range []int{0, len(m.types), len(m.types), len(m.strings)} {
		b = le.AppendUint32(b, uint32(v))
	}
	if m.header > btf.HeaderMin {
		b = le.AppendUint32(le.AppendUint32(b, uint32(len(m.types)+len(m.strings))), uint32(len(m.layout)))
	}
	return append(append(append(b, m.types...), m.strings...), m.layout...)
}

// member is the three words of one.
func (m *btfMaker) member(name string, typ, bits uint32) []uint32 {
	return []uint32{m.str(name), typ, bits}
}

func sampleBTF() *btfMaker {
	m := newBTF()
	word := m.add("unsigned long", btf.Int, 0, 8, 64)
	char := m.add("char", btf.Int, 0, 1, 8)
	ptr := m.add("", btf.Ptr, 0, char)
	alias := m.add("u64", btf.Typedef, 0, word)
	array := m.add("", btf.Array, 0, 0, char, word, 56)
	var list []uint32
	list = append(list, m.member("old_name", ptr, 0)...)
	inner := m.add("", btf.Union, 2, 8, append(m.member("a", alias, 0), m.member("b", word, 0)...)...)
	list = append(list, m.member("", inner, 64)...)
	list = append(list, m.member("name", array, 128)...)
	m.add("klp_func", btf.Struct, 3, 72, list...)
	m.add("module", btf.Struct, 1, 8, m.member("x", word, 0)...)
	m.add("module", btf.Struct, 1, 16, m.member("x", word, 64)...)
	return m
}

func TestABIFromBTF(t *testing.T) {
	for _, header := range []int{24, 32} {
		m := sampleBTF()
		m.header = header
		if header == 32 {
			m.add("new", 25, 3, 0, 1, 2, 3, 4) // a kind of the future: 4 bytes, and 4 for each of 3
			m.layout = make([]byte, 26*4)
			m.layout[25*4], m.layout[25*4+1] = 4, 4
		}
		m.add("klp_state", btf.Struct, 1, 8, m.member("id", 1, 0)...)
		a, err := ABIFromBTF(m.bytes(), elf.EM_X86_64)
		if err != nil {
			t.Fatal(err)
		}
		s, err := a.Require("klp_func", "old_name", "a", "b", "name")
		if err != nil || s.Size != 72 || s.Members["old_name"] != (Member{0, 8}) || s.Members["b"] != (Member{8, 8}) || s.Members["name"] != (Member{16, 56}) {
			t.Errorf("klp_func: %+v, %v", s, err)
		}
		if _, err := a.Require("klp_state", "id"); err != nil {
			t.Error(err)
		}
		for _, c := range []struct{ name, member, want string }{
			{"module", "x", "no structure module"}, // there are two
			{"klp_func", "new_func", "no member new_func"},
			{"klp_patch", "", "no structure klp_patch"},
		} {
			if _, err := a.Require(c.name, c.member); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v", c.name, err)
			}
		}
	}
}

func TestBTFErrors(t *testing.T) {
	good := sampleBTF().bytes()
	edit := func(f func(b []byte) []byte) []byte { return f(append([]byte(nil), good...)) }
	loop := newBTF()
	loop.add("module", btf.Struct, 1, 8, loop.member("", 1, 0)...)
	unknown := newBTF()
	unknown.add("x", 27, 0, 0)
	for _, c := range []struct {
		name string
		in   []byte
		want string
	}{
		{"empty", nil, "magic"},
		{"magic", edit(func(b []byte) []byte { b[0]++; return b }), "magic"},
		{"version", edit(func(b []byte) []byte { b[2]++; return b }), "version"},
		{"header", edit(func(b []byte) []byte { b[4] = 8; return b }), "header"},
		{"cut", edit(func(b []byte) []byte { return b[:len(b)-1] }), "exceeds"},
		{"type cut", edit(func(b []byte) []byte { b[12]--; return b }), "type"},
		{"loop", loop.bytes(), "contains itself"},
		{"kind", unknown.bytes(), "unknown kind 27"},
	} {
		if _, err := ABIFromBTF(c.in, elf.EM_X86_64); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want one that says %q", c.name, err, c.want)
		}
	}
}
