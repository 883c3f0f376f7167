package kmod

import (
	"bytes"
	"debug/elf"
	"fmt"
	"slices"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/refusal"
)

// part is a hand-made object as a part of a patch; names of external symbols
// that are not in bindings stay unbound.
func part(t testing.TB, name, object string, b *builder, bindings map[string]Binding, replaced ...string) Part {
	t.Helper()
	p := Part{Name: name, Object: object, Cut: asCut(b.file(t), replaced...), Bindings: map[int]Binding{}}
	for i, x := range p.Cut.Externals {
		if bound, ok := bindings[x.Name]; ok {
			p.Bindings[i] = bound
		}
	}
	return p
}

// caller has a static and a new global function, a table, and calls others.
func caller(text []byte, names ...string) *builder {
	b := newBuilder(elf.EM_X86_64)
	sec := b.section(".text.f", execFlags, 16, text)
	table := b.section("__ex_table", 0, 4, make([]byte, 12))
	b.section(".data..percpu..read_mostly", elf.SHF_WRITE, 8, []byte{1})
	b.section(".parainstructions", 0, 8, make([]byte, 10))
	static := b.symbol("static_one", elf.STT_FUNC, elf.STB_LOCAL, sec, 0, uint64(len(text)))
	own := b.symbol("", elf.STT_SECTION, elf.STB_LOCAL, sec, 0, 0)
	b.rel(table, 0, x64PC32, own, 3)
	b.rel(table, 4, x64PC32, static, 4)
	for i, n := range names {
		b.rel(sec, uint64(4*i), x64PLT32, b.undefined(n), -4)
	}
	return b
}

// TestMerge puts two objects together and looks at all that has to differ.
func TestMerge(t *testing.T) {
	one := caller(make([]byte, 21), "printk", "helper", "static_two")
	one.symbol("changed", elf.STT_FUNC, elf.STB_GLOBAL, 1, 4, 4)
	two := caller(make([]byte, 32), "printk", "static_two", "changed", "module_function")
	two.symbol("helper", elf.STT_FUNC, elf.STB_GLOBAL, 1, 8, 4)
	bindings := map[string]Binding{
		"printk": {Kind: Export, CRC: 7, HasCRC: true}, "changed": {Kind: KLP}, "static_two": {Kind: KLP, Pos: 1},
		"module_function": {Kind: KLP, Object: "xfs"},
	}
	second := part(t, "two.o", "xfs", two, bindings)
	for i, x := range second.Cut.Externals {
		if x.Name == "static_two" {
			second.Bindings[i] = Binding{Kind: KLP, Pos: 2}
		}
	}
	m, err := Merge(elf.EM_X86_64, []Part{part(t, "one.o", "xfs", one, bindings, "changed"), second})
	if err != nil {
		t.Fatal(err)
	}
	text := m.Object.Section(".text")
	if text.Size != 64 || !bytes.Equal(text.Data[21:32], bytes.Repeat([]byte{0x90}, 11)) {
		t.Errorf("code of %d bytes, between the parts %x", text.Size, text.Data[21:32])
	}
	rels, err := m.Object.Relocations(text)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range rels {
		got = append(got, fmt.Sprintf("%d %s", r.Offset, m.Object.Symbols[r.Symbol].Name))
	}
	// The two static functions called static_two are different ones; changed
	// means the kernel's, through which its replacement is reached.
	want := []string{"0 printk", "4 helper", "8 static_two", "32 printk", "36 static_two#2", "40 changed#2", "44 module_function"}
	if !slices.Equal(got, want) {
		t.Errorf("relocations %q, want %q", got, want)
	}
	for name, want := range map[string]Binding{
		"printk":          {Kind: Export, Object: "vmlinux", For: "vmlinux", Name: "printk", CRC: 7, HasCRC: true},
		"static_two":      {Kind: KLP, Object: "vmlinux", For: "vmlinux", Name: "static_two", Pos: 1},
		"static_two#2":    {Kind: KLP, Object: "vmlinux", For: "vmlinux", Name: "static_two", Pos: 2},
		"changed#2":       {Kind: KLP, Object: "vmlinux", For: "vmlinux", Name: "changed"},
		"module_function": {Kind: KLP, Object: "xfs", For: "xfs", Name: "module_function"},
	} {
		if m.Bindings[name] != want {
			t.Errorf("%s is bound to %+v", name, m.Bindings[name])
		}
	}
	if len(m.Bindings) != 5 {
		t.Errorf("%d bindings", len(m.Bindings))
	}
	checkTables(t, m)
	if a, b := m.SymbolName(0, int(symbolNamed(one.f, "static_one"))), m.SymbolName(1, int(symbolNamed(two.f, "static_one"))); a != "static_one" || b != "static_one#2" {
		t.Errorf("static functions %s and %s", a, b)
	}
}

// checkTables checks that entries of the second part follow those of the first
// at once and lead to its code.
func checkTables(t *testing.T, m *Merged) {
	t.Helper()
	table := m.Object.Section("__ex_table")
	rels, err := m.Object.Relocations(table)
	if err != nil || len(rels) != 4 || table.Size != 24 {
		t.Fatalf("%d relocations of %d bytes: %v", len(rels), table.Size, err)
	}
	if r := rels[2]; r.Offset != 12 || m.Object.Symbols[r.Symbol].Type != elf.STT_SECTION || r.Addend != 32+3 {
		t.Errorf("the second table begins with %+v", r)
	}
	if r := rels[3]; r.Offset != 16 || m.Object.Symbols[r.Symbol].Value != 32 || r.Addend != 4 {
		t.Errorf("and goes on with %+v", r)
	}
	if s := m.Object.Section(".data..percpu"); s == nil || s.Size != 9 || s.Data[8] != 1 {
		t.Errorf("variables of each processor: %+v", s)
	}
	if s := m.Object.Section(".parainstructions"); s.Size != 26 {
		t.Errorf("paravirtual calls: %d bytes, the second entry belongs at 16", s.Size)
	}
}

func TestMergeRefuses(t *testing.T) {
	newGlobal := func() *builder {
		b := caller(make([]byte, 8))
		b.symbol("helper", elf.STT_FUNC, elf.STB_GLOBAL, 1, 0, 4)
		return b
	}
	odd := caller(make([]byte, 8))
	odd.f.Section("__ex_table").Flags |= elf.SHF_EXECINSTR
	header := func(b byte) *builder {
		x := newBuilder(elf.EM_X86_64)
		x.section(".orc_header", 0, 1, bytes.Repeat([]byte{b}, 20))
		return x
	}
	huge := newBuilder(elf.EM_X86_64)
	huge.f.AddSection(elfpatch.Section{Name: ".bss", Type: elf.SHT_NOBITS, Flags: elf.SHF_ALLOC | elf.SHF_WRITE, Align: 1 << 40, Size: 1 << 50})
	group := newBuilder(elf.EM_X86_64)
	group.f.AddGroup(".group", 1, 0, nil)
	for name, tc := range map[string]struct {
		parts []Part
		code  refusal.Code
		want  string
	}{
		"nobody has it":   {[]Part{part(t, "a.o", "", caller(make([]byte, 8), "helper"), nil)}, refusal.SymbolNotFound, "a.o: helper: neither the kernel"},
		"another module":  {[]Part{part(t, "a.o", "", caller(make([]byte, 8), "helper"), nil), part(t, "b.o", "xfs", newGlobal(), nil)}, refusal.SymbolNotFound, "a.o: helper: neither"},
		"defined twice":   {[]Part{part(t, "a.o", "", newGlobal(), nil), part(t, "b.o", "", newGlobal(), nil)}, refusal.Unsupported, "b.o: helper: another object"},
		"other flags":     {[]Part{part(t, "a.o", "", caller(make([]byte, 8)), nil), part(t, "b.o", "", odd, nil)}, refusal.Unsupported, "b.o: __ex_table: another object has a section"},
		"unwind formats":  {[]Part{part(t, "a.o", "", header(1), nil), part(t, "b.o", "", header(2), nil)}, refusal.ObjectsUnrelated, "b.o: .orc_header: the objects have unwind tables of different formats"},
		"too large":       {[]Part{part(t, "a.o", "", huge, nil)}, refusal.Unsupported, "a.o: .bss: 1125899906842624 bytes"},
		"section group":   {[]Part{part(t, "a.o", "", group, nil)}, refusal.Unsupported, "a.o: .group: the object has a section group"},
		"kernel's helper": {[]Part{part(t, "a.o", "xfs", caller(make([]byte, 8), "helper"), nil), part(t, "b.o", "", newGlobal(), nil)}, "", ""},
		"two modules":     {[]Part{part(t, "a.o", "xfs", newGlobal(), nil), part(t, "b.o", "ext4", newGlobal(), nil)}, "", ""},
		"same format":     {[]Part{part(t, "a.o", "", header(1), nil), part(t, "b.o", "", header(1), nil)}, "", ""},
	} {
		_, err := Merge(elf.EM_X86_64, tc.parts)
		list := refusals(t, err)
		if tc.code == "" && err != nil || tc.code != "" && (len(list) != 1 || list[0].Code != tc.code || !strings.HasPrefix(list[0].Error(), tc.want)) {
			t.Errorf("%s: want %s %q, got %v", name, tc.code, tc.want, err)
		}
	}
	if _, err := Merge(elf.EM_AARCH64, []Part{part(t, "a.o", "", header(1), nil)}); err == nil {
		t.Error("an object for another machine is taken")
	}
	weak := caller(make([]byte, 8), "maybe")
	weak.f.Symbols[symbolNamed(weak.f, "maybe")].Bind = elf.STB_WEAK
	if m, err := Merge(elf.EM_X86_64, []Part{part(t, "a.o", "", weak, nil)}); err != nil || m.Bindings["maybe"].Kind != Absent {
		t.Errorf("a weak symbol that nobody has: %v", err)
	}
}

// TestMergeCost merges 21 objects: the result has at most half as much again as
// they have together.
func TestMergeCost(t *testing.T) {
	var parts []Part
	sum := 0
	for i := range 21 {
		b := x86Object()
		raw, err := b.file(t).Bytes()
		if err != nil {
			t.Fatal(err)
		}
		sum += len(raw)
		p := part(t, fmt.Sprintf("%d.o", i), fmt.Sprintf("module_%d", i), b, nil, "show")
		for j, x := range p.Cut.Externals {
			p.Bindings[j] = Binding{Kind: KLP, Name: x.Name}
		}
		parts = append(parts, p)
	}
	m, err := Merge(elf.EM_X86_64, parts)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := m.Object.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if 2*len(raw) > 3*sum {
		t.Errorf("%d bytes made of %d", len(raw), sum)
	}
	if n := len(m.Object.Sections); n > 30 {
		t.Errorf("%d sections", n)
	}
}

func TestObjtoolArgs(t *testing.T) {
	common := "CONFIG_OBJTOOL=y\nCONFIG_HAVE_JUMP_LABEL_HACK=y\nCONFIG_HAVE_NOINSTR_HACK=y\nCONFIG_UNWINDER_ORC=y\nCONFIG_HAVE_STATIC_CALL_INLINE=y\n" +
		"CONFIG_HAVE_UACCESS_VALIDATION=y\n# CONFIG_STACK_VALIDATION is not set\nCONFIG_KCOV=n\n"
	for name, tc := range map[string]struct {
		config, args string
		needed       bool
	}{
		"6.1": {common + "CONFIG_RETPOLINE=y\nCONFIG_RETHUNK=y\nCONFIG_SLS=y\n",
			"--hacks=jump_label --hacks=noinstr --orc --retpoline --rethunk --sls --static-call --uaccess --module", false},
		"6.12": {common + "CONFIG_MITIGATION_RETPOLINE=y\nCONFIG_MITIGATION_RETHUNK=y\nCONFIG_MITIGATION_SLS=y\nCONFIG_MITIGATION_CALL_DEPTH_TRACKING=y\n" +
			"CONFIG_X86_KERNEL_IBT=y\nCONFIG_CALL_PADDING=y\nCONFIG_PREFIX_SYMBOLS=y\nCONFIG_FUNCTION_PADDING_BYTES=16\n",
			"--hacks=jump_label --hacks=noinstr --hacks=skylake --ibt --orc --retpoline --rethunk --sls --static-call --uaccess --prefix=16 --link --module", true},
		"7.2 with kCFI": {common + "CONFIG_CFI=y\nCONFIG_FINEIBT=y\nCONFIG_CALL_PADDING=y\nCONFIG_FUNCTION_PADDING_BYTES=11\nCONFIG_KLP_BUILD=y\nCONFIG_OBJTOOL_WERROR=y\n",
			"--hacks=jump_label --hacks=noinstr --orc --static-call --uaccess --werror --cfi --fineibt --prefix=11 --link --module", true},
		"6.6 with kCFI": {common + "CONFIG_CFI_CLANG=y\nCONFIG_FINEIBT=y\nCONFIG_CALL_PADDING=y\nCONFIG_LTO_CLANG=y\nCONFIG_GCOV_KERNEL=y\n",
			"--hacks=jump_label --hacks=noinstr --orc --static-call --uaccess --no-unreachable --cfi --link --module", true},
		"mcount by objtool": {"CONFIG_FTRACE_MCOUNT_USE_OBJTOOL=y\nCONFIG_HAVE_OBJTOOL_NOP_MCOUNT=y", "--mcount --mnop --module", false},
		"arm64":             {"CONFIG_ARM64=y\n", "--module", false},
	} {
		c := ParseConfig([]byte(tc.config))
		if got := strings.Join(ObjtoolArgs(c), " "); got != tc.args || NeedsObjtool(c) != tc.needed {
			t.Errorf("%s: needed %v, %s", name, NeedsObjtool(c), got)
		}
	}
}
