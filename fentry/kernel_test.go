package fentry

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"livepatch/elfpatch"
	"livepatch/internal/testkit"
)

// compile compiles testdata/kernel/part.c and parses the object.
func compile(t *testing.T, command ...string) (path string, f *elfpatch.File) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "part.o")
	args := append(command[1:], "-O2", "-c", "-fno-pic", "-fno-stack-protector", "-fno-asynchronous-unwind-tables",
		filepath.Join("testdata", "kernel", "part.c"), "-o", path)
	if out, err := exec.Command(testkit.Tool(t, command[0]), args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return path, testkit.ELF(t, path)
}

// brief says of each function what matters here.
func brief(t *testing.T, f *elfpatch.File) map[string]string {
	t.Helper()
	list, err := Find(f, Options{Tables: true})
	if err != nil {
		t.Fatal(err)
	}
	by := map[string]string{}
	for i := range list {
		fn := &list[i]
		checkFunc(t, f, fn)
		s := fmt.Sprintf("%s %s", fn.Verdict, fn.Kind)
		if fn.Ftrace != nil {
			s += fmt.Sprintf(" +%d ip +%d", fn.Site-fn.Addr, *fn.Ftrace-fn.Addr)
		}
		if fn.Slot != nil {
			s += fmt.Sprintf(" slot -%d", fn.Addr-*fn.Slot)
		}
		if fn.KprobeBlacklisted {
			s += " no kprobes"
		}
		if fn.KCFI != nil {
			s += fmt.Sprintf(" kcfi %#x", *fn.KCFI)
		}
		for _, e := range fn.Entries {
			s += fmt.Sprintf(" %s:%d", e.Table, len(e.At))
		}
		by[fn.Name] = s
	}
	return by
}

// linkScripted links objects as a kernel is linked.
func linkKernel(t *testing.T, m elf.Machine, object string, flags ...string) *elfpatch.File {
	t.Helper()
	linker := "ld"
	if m == arm64 {
		linker = "aarch64-linux-gnu-ld"
	}
	out := filepath.Join(t.TempDir(), "vmlinux")
	script := filepath.Join("testdata", "kernel", "link.ld")
	args := append(flags, "-T", script, "-e", "traced", "--no-warn-rwx-segments", object, "-o", out)
	if text, err := exec.Command(testkit.Tool(t, linker), args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", linker, args, err, text)
	}
	return testkit.ELF(t, out)
}

var kernelBuilds = []struct {
	name    string
	machine elf.Machine
	command []string
	link    []string
	traced  string // what is said of the functions with a site
	by      string // of the one without a landing pad
	silent  string // what is said of the others, before the verdict's own words
}{
	{"x86-64", x86, []string{"gcc", "-mcmodel=kernel", "-pg", "-mfentry", "-mrecord-mcount", "-fcf-protection=branch"}, nil,
		"fentry-call +4 ip +4", "fentry-call +0 ip +0", "none"},
	{"x86-64 without landing pads", x86, []string{"gcc", "-mcmodel=kernel", "-pg", "-mfentry", "-mrecord-mcount", "-fcf-protection=none"}, nil,
		"fentry-call +0 ip +0", "fentry-call +0 ip +0", "none"},
	{"x86-64 with NOPs", x86, []string{"gcc", "-mcmodel=kernel", "-pg", "-mfentry", "-mrecord-mcount", "-mnop-mcount", "-fcf-protection=branch"}, nil,
		"fentry-nop +4 ip +4", "fentry-nop +0 ip +0", "none"},
	{"x86-64 with padding", x86, []string{"gcc", "-mcmodel=kernel", "-pg", "-mfentry", "-mrecord-mcount", "-fcf-protection=branch", "-fpatchable-function-entry=16,16"}, nil,
		"fentry-call +4 ip +4", "fentry-call +0 ip +0", "none"},
	{"arm64", arm64, []string{"aarch64-linux-gnu-gcc", "-fpatchable-function-entry=2", "-mbranch-protection=none"}, nil,
		"patchable +0 ip +4", "patchable +0 ip +4", "none"},
	{"arm64 with landing pads", arm64, []string{"aarch64-linux-gnu-gcc", "-fpatchable-function-entry=2", "-mbranch-protection=bti"}, nil,
		"patchable +4 ip +8", "patchable +0 ip +4", "none"},
	{"arm64 with ops", arm64, []string{"aarch64-linux-gnu-gcc", "-fpatchable-function-entry=4,2", "-falign-functions=8", "-mbranch-protection=none"}, nil,
		"patchable +0 ip +4 slot -8", "patchable +0 ip +4 slot -8", "none"},
	{"arm64 with ops and landing pads", arm64, []string{"aarch64-linux-gnu-gcc", "-fpatchable-function-entry=4,2", "-falign-functions=8", "-mbranch-protection=bti"}, nil,
		"patchable +4 ip +8 slot -8", "patchable +0 ip +4 slot -8", "none"},
	{"arm64 with ops, moved at boot", arm64, []string{"aarch64-linux-gnu-gcc", "-fpatchable-function-entry=4,2", "-falign-functions=8", "-mbranch-protection=bti"},
		[]string{"-shared", "-Bsymbolic", "-z", "notext", "--no-apply-dynamic-relocs"}, "patchable +4 ip +8 slot -8", "patchable +0 ip +4 slot -8", "none"},
}

// Sites of an object as compilers make it, and of the kernel linked from it.
func TestKernelBuilds(t *testing.T) {
	for _, tt := range kernelBuilds {
		t.Run(tt.name, func(t *testing.T) {
			path, f := compile(t, tt.command...)
			table := mcountTable
			if tt.machine == arm64 {
				table = patchableTable
			}
			want := map[string]string{
				"traced":      "patchable " + tt.traced + " " + table + ":1 __jump_table:2",
				"quiet":       "patchable " + tt.by + " " + table + ":1 __bug_table:1",
				"calls_quiet": "patchable " + tt.traced + " no kprobes " + table + ":1 _kprobe_blacklist:1",
				"by_pointer":  "patchable " + tt.traced + " " + table + ":1",
				"not_traced":  "notrace " + tt.silent,
				"hidden":      "kprobe-blacklisted " + tt.silent + " no kprobes _kprobe_blacklist:1",
				"early_entry": "kprobe-blacklisted " + tt.silent + " no kprobes",
				"start_up":    "init-text " + tt.traced + " " + table + ":1",
			}
			if tt.machine == x86 {
				want["__fentry__"] = "notrace " + tt.silent
			}
			if d := cmp.Diff(want, brief(t, f)); d != "" {
				t.Errorf("object (-want +got):\n%s", d)
			}
			linked := linkKernel(t, tt.machine, path, tt.link...)
			for name, s := range want {
				want[name] = strings.Replace(s, patchableTable, mcountTable, 1)
			}
			if d := cmp.Diff(want, brief(t, linked)); d != "" {
				t.Errorf("linked (-want +got):\n%s", d)
			}
			checkKernelTables(t, linked)
		})
	}
}

func checkKernelTables(t *testing.T, f *elfpatch.File) {
	t.Helper()
	r, err := NewReport("vmlinux", f, Options{}, Filter{})
	if err != nil {
		t.Fatal(err)
	}
	if r.Type != "kernel" {
		t.Errorf("type %s", r.Type)
	}
	want := []Table{
		{Section: mcountTable, Entries: 5, Stride: 8, By: byFormat, Empty: 1},
		{Section: "__jump_table", Entries: 2, Stride: 16, By: byPattern},
		{Section: "__bug_table", Entries: 1, Stride: 12, By: byPattern},
		{Section: blacklistTable, Entries: 2, Stride: 8, By: byFormat},
	}
	if d := cmp.Diff(want, r.Tables); d != "" {
		t.Errorf("tables (-want +got):\n%s", d)
	}
}

// Objects of clang with kCFI: each function but the one that nothing points to
// has a hash of its type, the same one for the same type.
func TestTypeHashes(t *testing.T) {
	const hash = " kcfi 0x50794" // of int (int)
	for _, tt := range []struct{ file, traced, quiet, hashed string }{
		{"kcfi.x86-64.o", "patchable fentry-call +4 ip +4", "patchable fentry-call +0 ip +0", hash},
		{"kcfi.arm64.o", "patchable patchable +4 ip +8", "patchable patchable +4 ip +8", hash},
	} {
		got := brief(t, testkit.ELF(t, filepath.Join("testdata", "kernel", tt.file)))
		if s := got["traced"]; !strings.HasPrefix(s, tt.traced+tt.hashed) {
			t.Errorf("%s: traced: %s", tt.file, s)
		}
		if s := got["quiet"]; !strings.HasPrefix(s, tt.quiet) || strings.Contains(s, "kcfi") {
			t.Errorf("%s: quiet: %s", tt.file, s)
		}
		if s := got["not_traced"]; !strings.Contains(s, tt.hashed) {
			t.Errorf("%s: not_traced: %s", tt.file, s)
		}
	}
}

// Without -mrecord-mcount the table is made when the kernel is linked, from the
// calls; a finished module without one has no sites.
func TestCallsWithoutTable(t *testing.T) {
	_, f := compile(t, "gcc", "-mcmodel=kernel", "-pg", "-mfentry", "-fcf-protection=branch")
	// The file itself defines __fentry__; objects of a kernel do not.
	for i := range f.Symbols {
		if f.Symbols[i].Name == fentryName {
			f.Symbols[i].Section = elfpatch.Undefined
		}
	}
	got := brief(t, f)
	if want := "patchable fentry-call +4 ip +4 __jump_table:2"; got["traced"] != want {
		t.Errorf("traced: %s, want %s", got["traced"], want)
	}
	if want := "notrace none"; got["not_traced"] != want {
		t.Errorf("not_traced: %s, want %s", got["not_traced"], want)
	}
	f.AddSection(elfpatch.Section{Name: thisModule, Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | elf.SHF_WRITE, Data: make([]byte, 64), Size: 64})
	if got, want := brief(t, f)["traced"], "no-site none __jump_table:2"; got != want {
		t.Errorf("module: %s, want %s", got, want)
	}
}

// recordmcount knew only some sections: calls in others count all the same.
func TestCallsBesideTable(t *testing.T) {
	k := newMaker(t, x86, elf.ET_REL)
	k.fn("f", "0f1f440000 c3").fn("g", "0f1f440000 c3").fn("h", "0f1f440000 c3")
	k.section(".discard.x", 0, nil)
	k.table(mcountTable, 6)
	k.relocate(k.text, elfpatch.Rela{Offset: 1, Type: uint32(elf.R_X86_64_NONE), Symbol: k.undefined(fentryName), Addend: -4})
	got := brief(t, k.file)
	for name, want := range map[string]string{
		"f": "patchable fentry-nop +0 ip +0", "g": "patchable fentry-nop +0 ip +0 __mcount_loc:1", "h": "notrace none",
	} {
		if got[name] != want {
			t.Errorf("%s: %s, want %s", name, got[name], want)
		}
	}
}

// kernelMaker makes a linked kernel with one text.
func kernelMaker(t testing.TB, m elf.Machine) *maker {
	k := newMaker(t, m, elf.ET_EXEC)
	k.file.AddSymbol(elfpatch.Symbol{Name: "_stext", Bind: elf.STB_GLOBAL, Section: k.text.Index, Value: base})
	k.file.AddSymbol(elfpatch.Symbol{Name: "linux_banner", Type: elf.STT_OBJECT, Bind: elf.STB_GLOBAL, Section: k.text.Index, Value: base})
	return k
}

// tableAt adds a table between its symbols.
func (k *maker) tableAt(addr uint64, start, stop string, data []byte) {
	s := k.section(".table"+start, elf.SHF_ALLOC, data)
	s.Addr = addr
	for name, v := range map[string]uint64{start: addr, stop: addr + uint64(len(data))} {
		k.file.AddSymbol(elfpatch.Symbol{Name: name, Bind: elf.STB_GLOBAL, Section: s.Index, Value: v})
	}
}

func words(v ...uint64) []byte {
	var b []byte
	for _, w := range v {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	return b
}

// reread writes the file and parses it, as ReadAddr needs contents with
// offsets.
func (k *maker) reread() *elfpatch.File {
	k.t.Helper()
	b, err := k.file.Bytes()
	if err != nil {
		k.t.Fatal(err)
	}
	f, err := elfpatch.Parse(b)
	if err != nil {
		k.t.Fatal(err)
	}
	return f
}

func TestKernelX86Sites(t *testing.T) {
	const call, nop5, tail = "e8 00000000 ", "0f1f440000 ", "31c0 c3 "
	pad := strings.Repeat("90", 11)
	tests := []struct {
		name, want string
		make       func(k *maker) (table []uint64) // offsets
	}{
		{"padding with a symbol", "patchable fentry-nop +0 ip +0", func(k *maker) []uint64 {
			k.fn("__pfx_f", strings.Repeat("90", 16)).fn("f", nop5+tail)
			return []uint64{16}
		}},
		{"type hash before the padding", "patchable fentry-nop +4 ip +4 kcfi 0x12345678", func(k *maker) []uint64 {
			k.fn("__cfi_f", "b8 78563412"+pad).fn("f", "f30f1efa"+nop5+tail)
			return []uint64{20}
		}},
		{"both", "patchable fentry-nop +0 ip +0 kcfi 0x12345678", func(k *maker) []uint64 {
			k.fn("__cfi_f", "b8 78563412").fn("__pfx_f", pad).fn("f", nop5+tail)
			return []uint64{16}
		}},
		{"type hash behind NOPs", "patchable fentry-nop +0 ip +0 kcfi 0x12345678", func(k *maker) []uint64 {
			k.fn("__cfi_f", pad+"b8 78563412").fn("f", nop5+tail)
			return []uint64{16}
		}},
		{"a hash that is none", "patchable fentry-nop +0 ip +0", func(k *maker) []uint64 {
			k.fn("__cfi_f", pad+"b9 78563412").fn("f", nop5+tail)
			return []uint64{16}
		}},
		{"a call of something else", "no-site none", func(k *maker) []uint64 {
			k.fn("__fentry__", "c3").fn("g", "c3").fn("f", "e8 faffffff "+tail) // calls g
			return []uint64{2}
		}},
		{"a call", "patchable fentry-call +0 ip +0", func(k *maker) []uint64 {
			k.fn("__fentry__", "c3").fn("f", "e8 faffffff "+tail)
			return []uint64{1}
		}},
		{"no call", "no-site none", func(k *maker) []uint64 { k.fn("f", "b801000000"+tail); return []uint64{0} }},
		{"cut off", "no-site none", func(k *maker) []uint64 { k.fn("f", "e8 0000"); return []uint64{0} }},
		{"not at the entry", "notrace none", func(k *maker) []uint64 { k.fn("f", tail+"cccccccccc"+nop5+tail); return []uint64{8} }},
		{"named twice", "patchable fentry-nop +0 ip +0", func(k *maker) []uint64 { k.fn("f", nop5+nop5+tail); return []uint64{0, 5, 0} }},
		{"Rust", "no-site none", func(k *maker) []uint64 { k.fn("_RNvC4krate1f", tail).fn("g", nop5+tail); return []uint64{3} }},
		{"Rust, older names", "no-site none", func(k *maker) []uint64 {
			k.fn("_ZN4core3fmt5write17h0123456789abcdefE", tail).fn("g", nop5+tail)
			return []uint64{3}
		}},
		{"C++ is not Rust", "notrace none", func(k *maker) []uint64 { k.fn("_ZN4core3fmt5writeEv", tail).fn("g", nop5+tail); return []uint64{3} }},
		{"a cold part", "no-site none", func(k *maker) []uint64 { k.fn("f.cold", tail).fn("g", nop5+tail); return []uint64{3} }},
		{"empty entries", "notrace none", func(k *maker) []uint64 { k.fn("f", tail).fn("g", nop5+tail); return []uint64{3, ^uint64(base) + 1} }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := kernelMaker(t, x86)
			var table []uint64
			for _, off := range tt.make(k) {
				table = append(table, off+base)
			}
			k.tableAt(0x600000, "__start_mcount_loc", "__stop_mcount_loc", words(table...))
			got := brief(t, k.reread())
			for name, s := range got {
				if strings.HasPrefix(name, "__pfx_") || strings.HasPrefix(name, "__cfi_") {
					t.Errorf("%s counts as a function", name)
				}
				if name != "g" && name != "__fentry__" && strings.Split(s, " __mcount_loc")[0] != tt.want {
					t.Errorf("%s: %s, want %s", name, s, tt.want)
				}
			}
		})
	}
}

// A symbol that only looks like padding is a function.
func TestPrefixNames(t *testing.T) {
	k := kernelMaker(t, x86)
	k.fn("__pfx_a", "c3").fn("b", "c3").fn("__cfi_c", strings.Repeat("90", 200)).fn("c", "c3")
	got := brief(t, k.reread())
	if len(got) != 4 {
		t.Errorf("functions: %v", got)
	}
}

func TestKernelArm64Sites(t *testing.T) {
	const nop, bti, pac, code = "1f2003d5 ", "5f2403d5 ", "3f2303d5 ", "00000091 c0035fd6 "
	tests := []struct {
		name, want string
		off        uint64
		make       func(k *maker)
	}{
		{"plain", "patchable patchable +0 ip +4", 0, func(k *maker) { k.fn("f", nop+nop+pac+code) }},
		{"after bti", "patchable patchable +4 ip +8", 4, func(k *maker) { k.fn("f", bti+nop+nop+pac+code) }},
		{"before bti", "no-site none", 0, func(k *maker) { k.fn("f", bti+nop+nop+code) }},
		{"ops", "patchable patchable +0 ip +4 slot -8", 0, func(k *maker) { k.fn("", nop+nop).fn("f", nop+nop+code) }},
		{"ops and bti", "patchable patchable +4 ip +8 slot -8", 0, func(k *maker) { k.fn("", nop+nop).fn("f", bti+nop+nop+code) }},
		{"ops behind another function", "patchable patchable +0 ip +4 slot -8", 8, func(k *maker) { k.fn("e", code+nop+nop).fn("f", nop+nop+code) }},
		{"ops not aligned", "no-site none", 4, func(k *maker) { k.fn("", nop+nop+nop).fn("f", nop+nop+code) }},
		{"code before", "notrace none", 0, func(k *maker) { k.fn("e", code).fn("f", nop+nop+code) }},
		{"one NOP", "no-site none", 0, func(k *maker) { k.fn("f", nop+code) }},
		{"too far", "notrace none", 8, func(k *maker) { k.fn("f", code+nop+nop+code) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := kernelMaker(t, arm64)
			tt.make(k)
			k.tableAt(0x600000, "__start_mcount_loc", "__stop_mcount_loc", words(base+tt.off))
			got := brief(t, k.reread())["f"]
			if strings.Split(got, " __mcount_loc")[0] != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

// The hash of kCFI on arm64 is a word of data before the NOPs and the entry.
func TestArm64TypeHash(t *testing.T) {
	for _, tt := range []struct {
		text, want string
		data       [2]uint64
	}{
		{"78563412 1f2003d5 1f2003d5 c0035fd6", "patchable patchable +0 ip +4 kcfi 0x12345678", [2]uint64{0, 4}},
		{"00000000 78563412 1f2003d5 1f2003d5 c0035fd6", "patchable patchable +0 ip +4", [2]uint64{0, 8}}, // two words: no hash
		{"78563412 1f2003d5 1f2003d5 c0035fd6", "patchable patchable +0 ip +4", [2]uint64{0, 0}},
	} {
		k := kernelMaker(t, arm64)
		k.fn("", tt.text)
		f := uint64(len(k.text.Data)) - 12
		k.symbol("f", int(f), 12)
		if tt.data[1] > 0 {
			for i, name := range []string{"$d", "$x"} {
				k.file.AddSymbol(elfpatch.Symbol{Name: name, Section: k.text.Index, Value: base + tt.data[i]})
			}
		}
		k.tableAt(0x600000, "__start_mcount_loc", "__stop_mcount_loc", words(base+f))
		if got := brief(t, k.reread())["f"]; strings.Split(got, " __mcount_loc")[0] != tt.want {
			t.Errorf("%s: %s, want %s", tt.text, got, tt.want)
		}
	}
}

// Code that runs at EL2 has no ftrace site, whatever a table says.
func TestHypText(t *testing.T) {
	k := kernelMaker(t, arm64)
	k.fn("f", "1f2003d5 1f2003d5 c0035fd6")
	for name, v := range map[string]uint64{"__hyp_text_start": base, "__hyp_text_end": base + 12} {
		k.file.AddSymbol(elfpatch.Symbol{Name: name, Bind: elf.STB_GLOBAL, Section: k.text.Index, Value: v})
	}
	k.tableAt(0x600000, "__start_mcount_loc", "__stop_mcount_loc", words(base))
	if got, want := brief(t, k.reread())["f"], "notrace patchable +0 ip +4 no kprobes __mcount_loc:1"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// What is built in never exits: its exit code is discarded with .init.text.
func TestExitText(t *testing.T) {
	k := kernelMaker(t, x86)
	k.fn("f", "0f1f440000 c3")
	k.text.Name = ".exit.text"
	for name, v := range map[string]uint64{"__init_begin": base, "__init_end": base + 6} {
		k.file.AddSymbol(elfpatch.Symbol{Name: name, Bind: elf.STB_GLOBAL, Section: k.text.Index, Value: v})
	}
	if got, want := brief(t, k.reread())["f"], "init-text none"; got != want {
		t.Errorf("kernel: %s, want %s", got, want)
	}
	k = newMaker(t, x86, elf.ET_REL)
	k.fn("f", "0f1f440000 c3")
	k.text.Name = ".exit.text"
	k.section(thisModule, elf.SHF_ALLOC, make([]byte, 64))
	k.table(mcountTable, 0)
	if got, want := brief(t, k.file)["f"], "patchable fentry-nop +0 ip +0 __mcount_loc:1"; got != want {
		t.Errorf("module: %s, want %s", got, want)
	}
}

// Data that a kernel marks executable is no text.
func TestExecutableData(t *testing.T) {
	k := kernelMaker(t, x86)
	k.fn("f", "0f1f440000 c3")
	s := k.section(".data", elf.SHF_ALLOC|elf.SHF_WRITE|elf.SHF_EXECINSTR, make([]byte, 64))
	s.Addr = 0x700000
	k.file.AddSymbol(elfpatch.Symbol{Name: "descriptor", Type: elf.STT_FUNC, Section: s.Index, Value: s.Addr, Size: 64})
	if got := brief(t, k.reread()); len(got) != 1 {
		t.Errorf("functions: %v", got)
	}
}

// Work grows with the file, however its symbols overlap.
func TestKernelScales(t *testing.T) {
	cost := func(n int) float64 {
		k := kernelMaker(t, arm64)
		k.fn("", strings.Repeat("1f2003d5", n))
		for i := range n {
			k.symbol(fmt.Sprintf("f%d", i), 4*i, 4*(n-i)) // each reaches to the end
		}
		k.tableAt(0x6000000, "__start_mcount_loc", "__stop_mcount_loc", make([]byte, 8*n))
		s := k.file.Sections[len(k.file.Sections)-1]
		for i := range n {
			binary.LittleEndian.PutUint64(s.Data[8*i:], base+uint64(4*i))
		}
		f := k.reread()
		return testing.AllocsPerRun(1, func() {
			fd, err := NewFinder(f, Options{Tables: true})
			if err != nil {
				t.Fatal(err)
			}
			entries := 0
			for _, fn := range fd.All() {
				for _, e := range fn.Entries {
					entries += len(e.At)
				}
			}
			if entries > 3*n {
				t.Fatalf("%d functions, %d entries in them", n, entries)
			}
		})
	}
	if small, large := cost(2000), cost(8000); large > 6*small {
		t.Errorf("%.0f allocations for 2000 functions, %.0f for 8000", small, large)
	}
}

// A kernel whose table cannot be found does not call its functions notrace.
func TestKernelWithoutTable(t *testing.T) {
	k := kernelMaker(t, x86)
	k.fn("f", "0f1f440000 c3")
	if got, want := brief(t, k.reread())["f"], "no-site none"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// Bounds that contradict themselves are no table, and nothing is read for
// them.
func TestHostileBounds(t *testing.T) {
	for _, b := range [][2]uint64{{0, 8}, {0x600000, 0x500000}, {0x600000, 1 << 60}, {^uint64(0) - 4, ^uint64(0)}, {0x601000, 0x601008}} {
		k := kernelMaker(t, x86)
		k.fn("f", "0f1f440000 c3")
		k.tableAt(0x600000, "__start_orc_unwind_ip", "__stop_orc_unwind_ip", words(0))
		for i, name := range []string{"__start_mcount_loc", "__stop_mcount_loc"} {
			k.file.AddSymbol(elfpatch.Symbol{Name: name, Bind: elf.STB_GLOBAL, Section: elfpatch.Absolute, Value: b[i]})
		}
		if got, want := brief(t, k.reread())["f"], "no-site none"; got != want {
			t.Errorf("%#x: %s, want %s", b, got, want)
		}
	}
}

func TestIsKernelFile(t *testing.T) {
	for name, want := range map[string]bool{
		".discard.addressable": true, ".initcall6.init": true, "__bug_table": true, ".text.startup": false, ".debug_info": false, "__mcount_loc": false,
	} {
		k := newMaker(t, x86, elf.ET_REL)
		k.fn("f", ret20).section(name, 0, nil)
		if got := kernelFileOf(k.file) != nil; got != want {
			t.Errorf("an object with %s is of a kernel: %t", name, got)
		}
	}
	k := newMaker(t, x86, elf.ET_EXEC)
	k.fn("_stext", ret20).fn("f", ret20)
	if kernelFileOf(k.file) != nil {
		t.Error("a program with _stext is no kernel")
	}
}
