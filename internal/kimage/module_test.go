package kimage

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/testkit"
)

// moduleSource is the assembly of a small module; %s is what the machine needs.
const moduleSource = `
	.section .gnu.linkonce.this_module,"aw"
	.zero 64
	.section .modinfo,"a"
	.asciz "license=GPL", "name=some_module", "vermagic=6.99.1-fake SMP ", "depends=one,two", "srcversion=0123ABCD", "alias=a", "alias=b"
	.section __versions,"a"
	.quad 0x11223344
	.asciz "module_layout"
	.zero 42
	.section __version_ext_crcs,"a"
	.long 0x55667788
	.section __version_ext_names,"a"
	.asciz "a_name_that_is_much_longer_than_the_fifty_five_bytes_of_an_entry"
	.section .init.text,"ax"
	.type twice, %function
twice:	CALL outside
	.size twice, .-twice
	.text
	.type twice_, %function
	.globl exported
	.type exported, %function
exported: CALL twice_
	CALL outside
	CALL other
	.size exported, .-exported
	.set inner, exported
	.type inner, %function
twice_:	nop
	.size twice_, .-twice_
	.data
	.globl table
	.type table, %object
table:	.quad exported, outside, table
	.size table, .-table
	.section __ksymtab,"a"
	.long exported-., name-., 0
	.section __kcrctab,"a"
	.long 0xcafe
	.section __ksymtab_strings,"aMS",%progbits,1
name:	.asciz "exported"
	.section .bss
	.type counter, %object
counter: .zero 8
	.size counter, 8
`

func assemble(t testing.TB, m elf.Machine, source string) []byte {
	t.Helper()
	as, call := "as", "call"
	if m == elf.EM_AARCH64 {
		as, call = "aarch64-linux-gnu-as", "bl"
	}
	source = strings.ReplaceAll(source, "CALL", call)
	if m == elf.EM_X86_64 {
		source = strings.ReplaceAll(source, "%function", "@function")
		source = strings.ReplaceAll(source, "%object", "@object")
		source = strings.ReplaceAll(source, "%progbits", "@progbits")
	}
	out := filepath.Join(t.TempDir(), "m.o")
	cmd := exec.Command(testkit.Tool(t, as), "-o", out, "-")
	cmd.Stdin = strings.NewReader(source)
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", as, err, msg)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseModule(t *testing.T) {
	for _, machine := range []elf.Machine{elf.EM_X86_64, elf.EM_AARCH64} {
		b := assemble(t, machine, moduleSource)
		m, err := ParseModule(gz(t, b))
		if err != nil {
			t.Fatal(err)
		}
		if m.Name != "some_module" || m.Vermagic != "6.99.1-fake SMP " || m.Srcversion != "0123ABCD" || !slices.Equal(m.Depends, []string{"one", "two"}) {
			t.Errorf("%s, %q, %s, %v", m.Name, m.Vermagic, m.Srcversion, m.Depends)
		}
		if !slices.Equal(m.Values("alias"), []string{"a", "b"}) {
			t.Errorf("aliases %v", m.Values("alias"))
		}
		if len(m.Versions) != 2 || m.Versions["module_layout"] != 0x11223344 ||
			m.Versions["a_name_that_is_much_longer_than_the_fifty_five_bytes_of_an_entry"] != 0x55667788 {
			t.Errorf("versions %v", m.Versions)
		}
		checkLayout(t, m)
		ex, err := m.Exports()
		e := ex["exported"]
		if err != nil || len(ex) != 1 || e.CRC != 0xcafe || e.GPL || e.Module != "some_module" || e.Addr != m.Linked.Symbols[symbolNamed(t, m.File, "exported")].Value {
			t.Errorf("exports %+v, %v", ex, err)
		}
	}
}

func symbolNamed(t testing.TB, f *elfpatch.File, name string) int {
	t.Helper()
	i := slices.IndexFunc(f.Symbols, func(s elfpatch.Symbol) bool { return s.Name == name })
	if i < 0 {
		t.Fatalf("no symbol %s", name)
	}
	return i
}

func checkLayout(t *testing.T, m *Module) {
	t.Helper()
	at := func(name string) uint64 { return m.Linked.Symbols[symbolNamed(t, m.File, name)].Value }
	if len(m.Linked.Symbols) != len(m.File.Symbols) || m.Linked.Type != elf.ET_EXEC {
		t.Fatalf("type %v, %d symbols of %d", m.Linked.Type, len(m.Linked.Symbols), len(m.File.Symbols))
	}
	if at("outside") == at("other") || m.Linked.Sections[m.Linked.Symbols[symbolNamed(t, m.File, "other")].Section].Name != UndefinedSection {
		t.Error("undefined symbols share an address, or are nowhere")
	}
	words, ok := m.Linked.ReadAddr(at("table"), 24)
	if !ok {
		t.Fatal("the table cannot be read")
	}
	for i, name := range []string{"exported", "outside", "table"} {
		if v := le.Uint64(words[8*i:]); v != at(name) {
			t.Errorf("the table has %#x for %s at %#x", v, name, at(name))
		}
	}
	// Symbols of the initialization are not kept.
	if m.Named("twice") != nil {
		t.Error("twice is in .init.text and was kept")
	}
	i := m.Named("exported")
	if len(i) != 1 || m.Symbols[i[0]].Type != 'T' || m.Symbols[i[0]].Addr != at("exported") || !m.Steady(i[0]) {
		t.Errorf("exported: %v", i)
	}
	if i := m.Named("counter"); len(i) != 1 || m.Symbols[i[0]].Type != 'b' {
		t.Errorf("counter: %v", i)
	}
	if both := m.At(at("exported")); len(both) != 2 {
		t.Errorf("%d symbols where exported and inner are", len(both))
	}
}

func TestModuleErrors(t *testing.T) {
	good := moduleSource
	for _, c := range []struct{ name, source, want string }{
		{"no module", strings.ReplaceAll(good, ".gnu.linkonce.this_module", ".data.other"), "without .gnu.linkonce"},
		{"no information", strings.ReplaceAll(good, ".modinfo", ".modinfo2"), "no .modinfo"},
		{"no name", strings.ReplaceAll(good, "name=some", "other=some"), "gives no name"},
		{"versions", strings.ReplaceAll(good, ".zero 42", ".zero 40"), "no multiple"},
		{"names", strings.ReplaceAll(good, ".long 0x55667788", ".long 0x55667788, 2"), "fewer names"},
		{"relocation", good + "\n.data\n.quad outside@GOTPCREL\n", "not used in modules"},
		{"range", good + "\n.data\n.byte exported\n", "exported: R_X86_64_8"},
	} {
		if c.name == "relocation" {
			c.source = good + "\n.text\nmov outside@GOTPCREL(%rip), %rax\n"
		}
		m, err := ParseModule(assemble(t, elf.EM_X86_64, c.source))
		if err == nil {
			t.Errorf("%s: module %s", c.name, m.Name)
		} else if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %q does not say %q", c.name, err, c.want)
		}
	}
}

func TestParseSymvers(t *testing.T) {
	const text = "0x7be3c09f\tklp_enable_patch\tvmlinux\tEXPORT_SYMBOL_GPL\t\n" +
		"0x00000000\tplain\tfs/some/other-name\tEXPORT_SYMBOL\tA_SPACE\n" +
		"0x1\told\tvmlinux\tEXPORT_SYMBOL\n"
	got, err := ParseSymvers([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []Export{
		{Name: "klp_enable_patch", CRC: 0x7be3c09f, HasCRC: true, GPL: true, Module: "vmlinux"},
		{Name: "plain", Namespace: "A_SPACE", Module: "other_name"},
		{Name: "old", CRC: 1, HasCRC: true, Module: "vmlinux"},
	} {
		if got[want.Name] != want {
			t.Errorf("%+v, want %+v", got[want.Name], want)
		}
	}
	for _, c := range []struct{ in, want string }{
		{"0x1\ta\n", "line 1: 2 columns"},
		{"x\ta\tvmlinux\tEXPORT_SYMBOL\n", "checksum"},
		{"0x1\ta\tvmlinux\tEXPORT\n", "export is"},
		{text + "0x2\told\tvmlinux\tEXPORT_SYMBOL\n", "line 4: old is exported twice"},
	} {
		if _, err := ParseSymvers([]byte(c.in)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v", c.in, err)
		}
	}
}
