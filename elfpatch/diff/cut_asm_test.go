package diff

import (
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/refusal"
	"livepatch/internal/testkit"

	"github.com/google/go-cmp/cmp"
)

// assemble makes the before and after objects of a source that differs by
// AFTER. "x86" sources start a function with FUNC name, "arm64" too.
func assemble(t testing.TB, m elf.Machine, source string) (a, b *elfpatch.File) {
	t.Helper()
	as, prologue := testkit.Tool(t, "as"), asmX86
	if m == elf.EM_AARCH64 {
		as, prologue = testkit.Tool(t, "aarch64-linux-gnu-as"), asmARM64
	}
	dir := t.(interface{ TempDir() string }).TempDir()
	var files [2]*elfpatch.File
	for i := range files {
		src, out := filepath.Join(dir, "s.s"), filepath.Join(dir, "s.o")
		write(t, src, []byte(prologue+source+"\n"))
		run(t, "", as, "--defsym", fmt.Sprintf("AFTER=%d", i), "-o", out, src)
		files[i] = testkit.ELF(t, out)
	}
	return files[0], files[1]
}

const asmX86 = `
.macro FUNC name
	.section .text.\name,"ax",@progbits
	.globl \name
	.type \name,@function
\name:
.endm
.macro END name
	.size \name, .-\name
.endm
.macro TABLE name flags=a
	.pushsection \name,"\flags",@progbits
.endm
`

const asmARM64 = `
.macro FUNC name
	.section .text.\name,"ax",%progbits
	.globl \name
	.type \name,%function
\name:
.endm
.macro END name
	.size \name, .-\name
.endm
.macro TABLE name flags=a
	.pushsection \name,"\flags",%progbits
.endm
`

// dump writes the sections of a cut whose names start with one of those given:
// bytes, relocations, and marks of data and code.
func dump(t testing.TB, cut *Cut, names ...string) []string {
	t.Helper()
	f := cut.Object
	var out []string
	for _, sec := range f.Sections {
		if sec.Type == elf.SHT_RELA || sec.Type == elf.SHT_SYMTAB || sec.Type == elf.SHT_STRTAB || !slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(sec.Name, n) }) {
			continue
		}
		rels, err := sortedRelocations(f, sec)
		if err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprintf("%s %x", sec.Name, sec.Data)
		if sec.Flags&elf.SHF_LINK_ORDER != 0 {
			line += " of " + f.Sections[sec.Link].Name
		}
		for _, r := range rels {
			sym := f.Symbols[r.Symbol]
			name := sym.Name
			if sym.Type == elf.STT_SECTION {
				name = f.Sections[sym.Section].Name
			}
			_, typ, _ := strings.Cut(elfpatch.RelocName(f.Machine, r.Type), "_")
			line += fmt.Sprintf(" %d:%s:%s%+d", r.Offset, strings.TrimPrefix(strings.TrimPrefix(typ, "X86_64_"), "AARCH64_"), name, r.Addend)
		}
		for _, sym := range f.Symbols {
			if sym.Section == sec.Index && isMapping(f.Machine, sym.Name) {
				line += fmt.Sprintf(" %s:%d", sym.Name, sym.Value)
			}
		}
		out = append(out, line)
	}
	return out
}

// An asmCase is a source, and what its cut holds.
type asmCase struct {
	name    string
	machine elf.Machine
	source  string
	show    string   // prefixes of the names of sections to show
	modules string   // static keys that belong to module m
	want    []string // sections shown
	warn    []string
	refuse  []refusal.Code // instead of want
}

func TestKernelCutAssembled(t *testing.T) {
	for _, tc := range asmCases {
		t.Run(tc.name, tc.run)
	}
}

func (tc *asmCase) run(t *testing.T) {
	a, b := assemble(t, tc.machine, tc.source)
	d, err := Compare(a, b, Options{Name: "o", Kernel: true})
	if err != nil {
		t.Fatal(err)
	}
	keys := strings.Fields(tc.modules)
	cut, err := d.CutFor(CutOptions{ModuleKey: func(s string) (string, bool) { return "m", slices.Contains(keys, s) }})
	if tc.refuse != nil {
		list, _ := err.(refusal.List)
		var codes []refusal.Code
		for _, r := range list {
			codes = append(codes, r.Code)
		}
		if !slices.Equal(codes, tc.refuse) {
			t.Errorf("refused with %v, want %v\n%v", codes, tc.refuse, err)
		}
		return
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, summary(d))
	}
	wellFormedKernel(t, cut)
	inspect(t, tc.machine, must(cut.Object.Bytes()))
	if got := dump(t, cut, strings.Fields(tc.show)...); !slices.Equal(got, tc.want) {
		t.Log(summary(d))
		t.Errorf("the cut has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tc.want, "\n"))
		if os.Getenv("UPDATE_GOLDEN") != "" { // to be read before it is copied
			fmt.Printf("CASE %s\n", tc.name)
			for _, line := range got {
				fmt.Printf("\t\t\t%q,\n", line)
			}
		}
	}
	if !slices.Equal(cut.Kernel.Warnings, tc.warn) {
		t.Errorf("warnings %q, want %q", cut.Kernel.Warnings, tc.warn)
	}
}

// The hash of a type is a part of its function: a function whose type is another, or that
// gains a hash, has changed, and no hash is listed as a function.
func TestTypeHashARM64(t *testing.T) {
	a, b := assemble(t, elf.EM_AARCH64, `
.macro HASHED name hash
	.section .text.\name,"ax",%progbits
	.word \hash
	.type \name,%function
\name:	mov w0, #1
	ret
	.size \name, .-\name
.endm
	HASHED same 0x36b1c5a6
	HASHED other 0x36b1c5a6+AFTER
.if AFTER
	HASHED gains 0x94000001
.else
	FUNC gains
	mov w0, #1
	ret
	END gains
.endif
	FUNC bare
	mov w0, #1
	ret
	END bare
`)
	delta, err := Compare(a, b, Options{Kernel: true})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, f := range delta.Funcs {
		got[f.Name] = string(f.Status)
		if f.Why != nil {
			got[f.Name] += fmt.Sprintf(" %s: %s -> %s", f.Why.In, f.Why.Old, f.Why.New)
		}
	}
	want := map[string]string{
		"same": "same", "bare": "same", "other": "changed type hash: 0x36b1c5a6 -> 0x36b1c5a7", "gains": "changed type hash: none -> 0x94000001",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}
