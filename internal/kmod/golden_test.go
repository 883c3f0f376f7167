package kmod

import (
	"bytes"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"livepatch/elfpatch"
	"livepatch/internal/refusal"
	"livepatch/internal/testkit"
)

// builder puts objects together by hand.
type builder struct {
	f    *elfpatch.File
	rels map[int][]elfpatch.Rela
}

func newBuilder(m elf.Machine) *builder {
	return &builder{elfpatch.New(elf.ET_REL, m), map[int][]elfpatch.Rela{}}
}

func (b *builder) section(name string, flags elf.SectionFlag, align uint64, data []byte) int {
	return b.f.AddSection(elfpatch.Section{Name: name, Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | flags, Align: align, Data: data}).Index
}

func (b *builder) symbol(name string, typ elf.SymType, bind elf.SymBind, sec int, value, size uint64) uint32 {
	return uint32(b.f.AddSymbol(elfpatch.Symbol{Name: name, Type: typ, Bind: bind, Section: sec, Value: value, Size: size}))
}

func (b *builder) undefined(name string) uint32 { return b.symbol(name, 0, elf.STB_GLOBAL, 0, 0, 0) }

func (b *builder) rel(sec int, off uint64, typ uint32, sym uint32, addend int64) {
	b.rels[sec] = append(b.rels[sec], elfpatch.Rela{Offset: off, Type: typ, Symbol: sym, Addend: addend})
}

func (b *builder) file(t testing.TB) *elfpatch.File {
	t.Helper()
	for sec, list := range b.rels {
		if err := b.f.SetRelocations(b.f.Sections[sec], list); err != nil {
			t.Fatal(err)
		}
	}
	return b.f
}

const (
	execFlags = elf.SHF_EXECINSTR
	x64PC32   = uint32(elf.R_X86_64_PC32)
	x64PLT32  = uint32(elf.R_X86_64_PLT32)
	x64Abs    = uint32(elf.R_X86_64_64)
	x64S32    = uint32(elf.R_X86_64_32S)
)

// x86Object is an object with a replacement that calls an export and refers to
// variables of the kernel and of the module xfs, with the tables for it.
func x86Object() *builder {
	b := newBuilder(elf.EM_X86_64)
	text := b.section(".text.show", execFlags, 16, []byte{
		0xf3, 0x0f, 0x1e, 0xfa, // endbr64
		0xe8, 0, 0, 0, 0, // call __fentry__
		0x48, 0xc7, 0xc6, 0, 0, 0, 0, // mov $text, %rsi
		0x48, 0x8b, 0x15, 0, 0, 0, 0, // mov kernel_variable(%rip), %rdx
		0xe8, 0, 0, 0, 0, // call printer
		0xe9, 0, 0, 0, 0, // jmp __x86_return_thunk
		0xcc, // int3
	})
	words := b.section(".rodata.text", 0, 1, []byte("now patched\n\x00"))
	data := b.section(".data.pointer", elf.SHF_WRITE, 8, make([]byte, 8))
	bss := b.f.AddSection(elfpatch.Section{Name: ".bss.count", Type: elf.SHT_NOBITS, Flags: elf.SHF_ALLOC | elf.SHF_WRITE, Align: 4, Size: 4}).Index
	sites := b.section(".return_sites", 0, 1, make([]byte, 4))
	mcount := b.section("__mcount_loc", 0, 8, make([]byte, 8))
	ip := b.section(".orc_unwind_ip", 0, 1, make([]byte, 8))
	b.section(".orc_unwind", 0, 1, []byte{8, 0, 0, 0, 5, 2, 0, 0, 0, 0, 0, 0})
	b.f.AddSection(elfpatch.Section{Name: ".comment", Type: elf.SHT_PROGBITS, Align: 1, Data: []byte("a compiler\x00")})

	show := b.symbol("show", elf.STT_FUNC, elf.STB_GLOBAL, text, 0, 34)
	str := b.symbol("text", elf.STT_OBJECT, elf.STB_LOCAL, words, 0, 13)
	b.symbol("pointer", elf.STT_OBJECT, elf.STB_LOCAL, data, 0, 8)
	b.symbol("count", elf.STT_OBJECT, elf.STB_LOCAL, bss, 0, 4)
	fentry, variable, printer := b.undefined("__fentry__"), b.undefined("kernel_variable"), b.undefined("printer")
	thunk, late := b.undefined(returnThunk), b.undefined("module_variable")

	b.rel(text, 5, x64PLT32, fentry, -4)
	b.rel(text, 12, x64S32, str, 0)
	b.rel(text, 19, x64PC32, variable, -4)
	b.rel(text, 24, x64PLT32, printer, -4)
	b.rel(text, 29, x64PLT32, thunk, -4)
	b.rel(data, 0, x64Abs, late, 16)
	b.rel(sites, 0, x64PC32, show, 28)
	b.rel(mcount, 0, x64Abs, show, 4)
	b.rel(ip, 0, x64PC32, show, 0)
	b.rel(ip, 4, x64PC32, show, 34)
	return b
}

// x86Spec is a module of x86Object for a kernel with all mitigations.
func x86Spec(t testing.TB) Spec {
	m := mergeObject(t, x86Object(), "xfs", map[string]Binding{
		"__fentry__":      {Kind: Export, CRC: 0x11223344, HasCRC: true},
		"kernel_variable": {Kind: KLP, Name: "kernel_variable", Pos: 2},
		"printer":         {Kind: Export, CRC: 0x55667788, HasCRC: true, GPL: true, Namespace: "PRINTING"},
		returnThunk:       {Kind: Export, CRC: 0x5b8239ca, HasCRC: true},
		"module_variable": {Kind: KLP, Object: "xfs"},
	})
	return Spec{
		Name: "golden", Object: m.Object, Bindings: ownBindings(m.Bindings), ABI: handABI(),
		Vermagic: "6.12.0 SMP preempt mod_unload modversions ", Versions: BasicVersions | ExtendedVersions,
		Retpoline: true, Rethunk: true, ORC: true, Padding: 16, Replace: true, States: []State{{ID: 1, Version: 3}},
		Info: []string{"description=a test"},
		Objects: []Object{
			{Name: "xfs", Funcs: []Func{{Name: "xfs_show", Sympos: 2, Replacement: "show"}}, Callbacks: map[CallbackKind]string{PostPatch: "show"}},
			{Funcs: []Func{{Name: "kernel_show", Replacement: "show"}}},
		},
	}
}

// mergeObject takes an object for the only part of a patch.
func mergeObject(t testing.TB, b *builder, object string, bindings map[string]Binding) *Merged {
	t.Helper()
	p := Part{Name: "part.o", Object: object, Cut: asCut(b.file(t), "show"), Bindings: map[int]Binding{}}
	for i, x := range p.Cut.Externals {
		if bound, ok := bindings[x.Name]; ok {
			p.Bindings[i] = bound
		}
	}
	m, err := Merge(b.f.Machine, []Part{p})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func arm64Object() *builder {
	b := newBuilder(elf.EM_AARCH64)
	text := b.section(".text.show", execFlags, 8, []byte{
		0x1f, 0x20, 0x03, 0xd5, // nop
		0x1f, 0x20, 0x03, 0xd5, // nop
		0x5f, 0x24, 0x03, 0xd5, // bti c
		0x1f, 0x20, 0x03, 0xd5, // nop
		0x1f, 0x20, 0x03, 0xd5, // nop
		0x00, 0x00, 0x00, 0x90, // adrp x0, kernel_variable
		0x00, 0x00, 0x40, 0xf9, // ldr x0, [x0, :lo12:kernel_variable]
		0x00, 0x00, 0x00, 0x14, // b printer
	})
	sites := b.f.AddSection(elfpatch.Section{
		Name: "__patchable_function_entries", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | elf.SHF_WRITE | elf.SHF_LINK_ORDER,
		Link: uint32(text), Align: 8, Data: make([]byte, 8),
	}).Index
	show := b.symbol("show", elf.STT_FUNC, elf.STB_GLOBAL, text, 8, 24)
	b.symbol("$x", 0, elf.STB_LOCAL, text, 0, 0)
	variable, printer := b.undefined("kernel_variable"), b.undefined("printer")
	b.rel(text, 20, uint32(elf.R_AARCH64_ADR_PREL_PG_HI21), variable, 0)
	b.rel(text, 24, uint32(elf.R_AARCH64_LDST64_ABS_LO12_NC), variable, 0)
	b.rel(text, 28, uint32(elf.R_AARCH64_JUMP26), printer, 0)
	b.rel(sites, 0, uint32(elf.R_AARCH64_ABS64), show, -8)
	return b
}

func arm64Spec(t testing.TB) Spec {
	m := mergeObject(t, arm64Object(), "", map[string]Binding{
		"kernel_variable": {Kind: KLP}, "printer": {Kind: Export, CRC: 0x55667788, HasCRC: true},
	})
	return Spec{
		Name: "golden", Object: m.Object, Bindings: ownBindings(m.Bindings), ABI: handABI(),
		Vermagic: "6.12.0 SMP mod_unload modversions aarch64", Versions: BasicVersions,
		Objects: []Object{{Funcs: []Func{{Name: "kernel_show", Replacement: "show"}}}},
	}
}

// TestGolden compares the complete contents of modules with what was reviewed.
func TestGolden(t *testing.T) {
	for name, spec := range map[string]Spec{"x86": x86Spec(t), "arm64": arm64Spec(t)} {
		b, err := Emit(spec)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Emit(spec)
		if err != nil || !bytes.Equal(b, again) {
			t.Errorf("%s: two modules differ (%v)", name, err)
		}
		got := dump(t, checkModule(t, b))
		golden := filepath.Join("testdata", "golden", name+".txt")
		if os.Getenv("UPDATE_GOLDEN") != "" {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if d := cmp.Diff(string(testkit.Read(t, golden)), got); d != "" {
			t.Errorf("%s: (-want +got)\n%s", name, d)
		}
	}
}

// dump is a module as text.
func dump(t testing.TB, f *elfpatch.File) string {
	var w strings.Builder
	name := func(i uint32) string {
		if s := f.Symbols[i]; s.Name != "" || i == 0 {
			return s.Name
		}
		return f.Sections[f.Symbols[i].Section].Name
	}
	fmt.Fprintf(&w, "%v %v\n", f.Type, f.Machine)
	for _, s := range f.Sections[1:] {
		fmt.Fprintf(&w, "\nsection %s %v %#x align %d size %d", s.Name, s.Type, uint64(s.Flags), s.Align, s.Size)
		if s.Type == elf.SHT_RELA || s.Flags&elf.SHF_LINK_ORDER != 0 {
			fmt.Fprintf(&w, " link %s", f.Sections[s.Link].Name)
		}
		fmt.Fprintln(&w)
		switch {
		case s.Type == elf.SHT_RELA:
			for at := 0; at < len(s.Data); at += relaSize {
				e := s.Data[at:]
				fmt.Fprintf(&w, "  %#06x %s %s%+d\n", le.Uint64(e), elfpatch.RelocName(f.Machine, le.Uint32(e[8:])), name(le.Uint32(e[12:])), int64(le.Uint64(e[16:])))
			}
		case s.Flags&elf.SHF_ALLOC != 0:
			dumpBytes(&w, s.Data)
		}
	}
	fmt.Fprintf(&w, "\nsymbols\n")
	for _, s := range f.Symbols[1:] {
		sec := fmt.Sprintf("%#x", uint16(s.Section))
		if s.Section > 0 {
			sec = f.Sections[s.Section].Name
		}
		fmt.Fprintf(&w, "  %-40s %v %v %s+%#x size %d\n", s.Name, s.Bind, s.Type, sec, s.Value, s.Size)
	}
	return w.String()
}

// dumpBytes leaves lines of zeros out.
func dumpBytes(w *strings.Builder, b []byte) {
	for i, line := range strings.Split(strings.TrimSuffix(hex.Dump(b), "\n"), "\n") {
		end := min(16*i+16, len(b))
		if 16*i < end && len(bytes.Trim(b[16*i:end], "\x00")) > 0 {
			fmt.Fprintf(w, "  %s\n", strings.TrimSpace(line))
		}
	}
}

// refusals are the codes of an error.
func refusals(t testing.TB, err error) refusal.List {
	t.Helper()
	var list refusal.List
	if err != nil && !errors.As(err, &list) {
		t.Fatalf("not a refusal: %v", err)
	}
	return list
}
