package elfpatch_test

import (
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/testkit"
)

const (
	x86 = elf.EM_X86_64
	arm = elf.EM_AARCH64
)

// limitRows are the ranges that the two supplements demand: lo <= x < hi in
// multiples of step. The types that are not here accept any value (those with
// a step: any multiple).
var limitRows = []struct {
	m      elf.Machine
	types  string
	lo, hi int64
	step   int64
}{
	{x86, "PC32 PLT32 GOT32 GOTPCREL 32S TLSGD TLSLD DTPOFF32 GOTTPOFF TPOFF32 GOTPC32 GOTPC32_TLSDESC PC32_BND PLT32_BND GOTPCRELX " +
		"REX_GOTPCRELX CODE_4_GOTPCRELX CODE_4_GOTTPOFF CODE_4_GOTPC32_TLSDESC CODE_5_GOTPCRELX CODE_5_GOTTPOFF CODE_5_GOTPC32_TLSDESC " +
		"CODE_6_GOTPCRELX CODE_6_GOTTPOFF CODE_6_GOTPC32_TLSDESC", -1 << 31, 1 << 31, 1},
	{x86, "32 SIZE32", 0, 1 << 32, 1},
	{x86, "16", -1 << 15, 1 << 16, 1},
	{x86, "8", -1 << 7, 1 << 8, 1},
	{x86, "PC16", -1 << 15, 1 << 15, 1},
	{x86, "PC8", -1 << 7, 1 << 7, 1},

	{arm, "ABS32 PREL32", -1 << 31, 1 << 32, 1},
	{arm, "ABS16 PREL16", -1 << 15, 1 << 16, 1},
	{arm, "PLT32 GOTPCREL32 GOTREL32", -1 << 31, 1 << 31, 1},
	{arm, "MOVW_UABS_G0", 0, 1 << 16, 1},
	{arm, "MOVW_UABS_G1", 0, 1 << 32, 1},
	{arm, "MOVW_UABS_G2", 0, 1 << 48, 1},
	{arm, "MOVW_SABS_G0 MOVW_PREL_G0 MOVW_GOTOFF_G0 TLSLD_MOVW_DTPREL_G0 TLSLE_MOVW_TPREL_G0", -1 << 16, 1 << 16, 1},
	{arm, "MOVW_SABS_G1 MOVW_PREL_G1 MOVW_GOTOFF_G1 TLSGD_MOVW_G1 TLSLD_MOVW_G1 TLSLD_MOVW_DTPREL_G1 TLSIE_MOVW_GOTTPREL_G1 " +
		"TLSLE_MOVW_TPREL_G1 TLSDESC_OFF_G1", -1 << 32, 1 << 32, 1},
	{arm, "MOVW_SABS_G2 MOVW_PREL_G2 MOVW_GOTOFF_G2 TLSLD_MOVW_DTPREL_G2 TLSLE_MOVW_TPREL_G2", -1 << 48, 1 << 48, 1},
	{arm, "LD_PREL_LO19 CONDBR19 GOT_LD_PREL19 TLSLD_LD_PREL19 TLSIE_LD_GOTTPREL_PREL19 TLSDESC_LD_PREL19", -1 << 20, 1 << 20, 4},
	{arm, "ADR_PREL_LO21 TLSGD_ADR_PREL21 TLSLD_ADR_PREL21 TLSDESC_ADR_PREL21", -1 << 20, 1 << 20, 1},
	{arm, "ADR_PREL_PG_HI21 ADR_GOT_PAGE TLSGD_ADR_PAGE21 TLSLD_ADR_PAGE21 TLSIE_ADR_GOTTPREL_PAGE21 TLSDESC_ADR_PAGE21", -1 << 32, 1 << 32, 4096},
	{arm, "JUMP26 CALL26", -1 << 27, 1 << 27, 4},
	{arm, "TSTBR14", -1 << 15, 1 << 15, 4},
	{arm, "LD64_GOTOFF_LO15 LD64_GOTPAGE_LO15", 0, 1 << 15, 8},
	{arm, "TLSLD_ADD_DTPREL_HI12 TLSLE_ADD_TPREL_HI12", 0, 1 << 24, 1},
	{arm, "TLSLD_ADD_DTPREL_LO12 TLSLE_ADD_TPREL_LO12 TLSLD_LDST8_DTPREL_LO12 TLSLE_LDST8_TPREL_LO12", 0, 1 << 12, 1},
	{arm, "TLSLD_LDST16_DTPREL_LO12 TLSLE_LDST16_TPREL_LO12", 0, 1 << 12, 2},
	{arm, "TLSLD_LDST32_DTPREL_LO12 TLSLE_LDST32_TPREL_LO12", 0, 1 << 12, 4},
	{arm, "TLSLD_LDST64_DTPREL_LO12 TLSLE_LDST64_TPREL_LO12", 0, 1 << 12, 8},
	{arm, "TLSLD_LDST128_DTPREL_LO12 TLSLE_LDST128_TPREL_LO12", 0, 1 << 12, 16},
}

func typeNames(m elf.Machine) map[string]uint32 {
	all := map[string]uint32{}
	for typ := range uint32(2000) {
		if r, ok := elfpatch.RelocInfo(m, typ); ok {
			all[strings.TrimPrefix(strings.TrimPrefix(r.Name, "R_X86_64_"), "R_AARCH64_")] = typ
		}
	}
	return all
}

func TestRelocLimits(t *testing.T) {
	names := map[elf.Machine]map[string]uint32{x86: typeNames(x86), arm: typeNames(arm)}
	checked := map[string]bool{}
	for _, row := range limitRows {
		for _, name := range strings.Fields(row.types) {
			typ, ok := names[row.m][name]
			if !ok {
				t.Errorf("%s is not known", name)
				continue
			}
			r, _ := elfpatch.RelocInfo(row.m, typ)
			checked[r.Name] = true
			for _, x := range []int64{row.lo, row.lo + row.step, 0, row.hi - row.step} {
				checkFits(t, row.m, typ, x)
			}
			checkRefused(t, row.m, typ, row.lo-row.step)
			checkRefused(t, row.m, typ, row.hi)
			if row.step > 1 && !r.Page {
				checkRefused(t, row.m, typ, row.lo+row.step/2)
			}
		}
	}
	for m, types := range names {
		for _, typ := range types {
			r, _ := elfpatch.RelocInfo(m, typ)
			if checked[r.Name] || r.Size == 0 {
				continue
			}
			for _, x := range []int64{-1 << 63, -16, 0, 1<<63 - 16} {
				checkFits(t, m, typ, x)
			}
		}
	}
}

const place = 0x5555_5555_6000

// apply computes the relocation for the value x at place.
func apply(m elf.Machine, typ uint32, field []byte, x int64) error {
	r, _ := elfpatch.RelocInfo(m, typ)
	s := uint64(x)
	if r.PCRel {
		s += place
	}
	return elfpatch.ApplyReloc(m, typ, field, place, s-100, 100)
}

// checkFits applies a relocation to a field of all ones and one of all zeros:
// only bits of the mask may change, and the target must come back.
func checkFits(t *testing.T, m elf.Machine, typ uint32, x int64) {
	t.Helper()
	r, _ := elfpatch.RelocInfo(m, typ)
	mask := elfpatch.FieldMask(m, typ)
	for _, fill := range []byte{0, 0xff} {
		field := []byte(strings.Repeat(string([]byte{fill}), 9))
		if err := apply(m, typ, field, x); err != nil {
			t.Errorf("%s: value %#x: %v", r.Name, x, err)
			return
		}
		for i, b := range field {
			owned := byte(0)
			if i < len(mask) {
				owned = mask[i]
			}
			if b&^owned != fill&^owned {
				t.Errorf("%s: value %#x: byte %d of the field is %#x, was %#x, it owns %#x", r.Name, x, i, b, fill, owned)
			}
		}
		want := uint64(x)
		if r.PCRel {
			want += place
		}
		got, ok := elfpatch.LinkedTarget(m, typ, field, place)
		if ok != (r.Holds != 0) || ok && (got^want)&r.Holds != 0 {
			t.Errorf("%s: value %#x: the field tells %#x, %v, want %#x in the bits %#x", r.Name, x, got, ok, want, r.Holds)
		}
	}
}

func checkRefused(t *testing.T, m elf.Machine, typ uint32, x int64) {
	t.Helper()
	r, _ := elfpatch.RelocInfo(m, typ)
	field := make([]byte, 8)
	err := apply(m, typ, field, x)
	var out *elfpatch.RangeError
	if !errors.As(err, &out) || out.Name != r.Name || out.Value != x {
		t.Errorf("%s: value %#x is accepted or wrongly refused: %v", r.Name, x, err)
	}
	if string(field) != string(make([]byte, 8)) {
		t.Errorf("%s: value %#x is refused, and written", r.Name, x)
	}
}

func TestRelocErrors(t *testing.T) {
	tests := []struct {
		m     elf.Machine
		typ   uint32
		field int
		s     uint64
		want  string
	}{
		{x86, 2, 4, 1 << 31, "R_X86_64_PC32: value 0x80000000 is not in [-0x80000000, 0x7fffffff]"},
		{arm, 283, 4, 2, "R_AARCH64_CALL26: value 0x2 is no multiple of 4"},
		{x86, 2, 3, 0, "apply R_X86_64_PC32: field of 3 bytes, it takes 4"},
		{x86, 5, 8, 0, "apply R_X86_64_COPY: relocation type not supported"},
		{x86, 37, 8, 0, "apply R_X86_64_IRELATIVE: relocation type not supported"},
		{arm, 1032, 8, 0, "apply R_AARCH64_IRELATIVE: relocation type not supported"},
		{x86, 1 << 31, 8, 0, "apply relocation type 2147483648: relocation type not supported"},
		{elf.EM_S390, 1, 8, 0, "apply relocation type 1: relocation type not supported"},
	}
	for _, test := range tests {
		err := elfpatch.ApplyReloc(test.m, test.typ, make([]byte, test.field), 0, test.s, 0)
		if err == nil || err.Error() != test.want {
			t.Errorf("got %v\nwant %s", err, test.want)
		}
		if strings.HasSuffix(test.want, "supported") != errors.Is(err, elfpatch.ErrUnsupported) {
			t.Errorf("%v: wrong kind of error", err)
		}
	}
	if _, ok := elfpatch.LinkedTarget(x86, 2, make([]byte, 3), 0); ok {
		t.Error("a target from a field that is too short")
	}
	if elfpatch.FieldMask(x86, 0) != nil || elfpatch.FieldMask(arm, 5000) != nil {
		t.Error("a mask for no field")
	}
}

// TestRelocNames compares the names with those of the standard library, as far
// as it knows them.
func TestRelocNames(t *testing.T) {
	spelled := map[string]string{ // by later editions of the supplement
		"R_AARCH64_TLSDESC_LD64_LO12": "R_AARCH64_TLSDESC_LD64_LO12_NC",
		"R_AARCH64_TLSDESC_ADD_LO12":  "R_AARCH64_TLSDESC_ADD_LO12_NC",
	}
	for typ := range uint32(2000) {
		for m, name := range map[elf.Machine]string{x86: elf.R_X86_64(typ).String(), arm: elf.R_AARCH64(typ).String()} {
			if !strings.HasPrefix(name, "R_") || strings.Contains(name, "+") || strings.Contains(name, "_P32_") {
				continue
			}
			r, ok := elfpatch.RelocInfo(m, typ)
			if got := r.Name; !ok || got != name && spelled[got] != name {
				t.Errorf("type %d of %v: %q, want %s", typ, m, got, name)
			}
		}
	}
}

// TestRelocBytes shows fields as a linker writes them.
func TestRelocBytes(t *testing.T) {
	tests := []struct {
		m             elf.Machine
		name          string
		p, s          uint64
		a             int64
		before, after string
		text          string
	}{
		{x86, "PC32", 0x401003, 0x404010, -4, "488b05[00000000]", "488b05[09300000]", "mov 0x3009(%rip),%rax"},
		{x86, "PLT32", 0x401001, 0x400000, -4, "e8[00000000]", "e8[fbefffff]", "call 0x400000"},
		{x86, "32S", 0x401003, 0xffffffff81000000, 0, "48c7c0[00000000]", "48c7c0[00000081]", "mov $0xffffffff81000000,%rax"},
		{x86, "64", 0x401002, 0x1122334455667788, 1, "48b8[0000000000000000]", "48b8[8977665544332211]", "movabs $0x1122334455667789,%rax"},
		{x86, "TPOFF32", 0x401004, ^uint64(15), 0, "64488b0425[00000000]", "64488b0425[f0ffffff]", "mov %fs:0xfffffffffffffff0,%rax"},
		{arm, "CALL26", 0x1000, 0xff8, 0, "[00000094]", "[feffff97]", "bl 0xff8"},
		{arm, "CONDBR19", 0x1000, 0x1010, 0, "[00000054]", "[80000054]", "b.eq 0x1010"},
		{arm, "TSTBR14", 0x1000, 0x0ffc, 0, "[01001837]", "[e1ff1f37]", "tbnz w1, #3, 0xffc"},
		{arm, "ADR_PREL_LO21", 0x1000, 0x1003, 0, "[02000010]", "[02000070]", "adr x2, 0x1003"},
		{arm, "ADR_PREL_PG_HI21", 0x1ffc, 0x5008, 0, "[00000090]", "[20000090]", "adrp x0, 0x5000"},
		{arm, "ADD_ABS_LO12_NC", 0, 0x5ff8, 0, "[00000091]", "[00e03f91]", "add x0, x0, #0xff8"},
		{arm, "LDST64_ABS_LO12_NC", 0, 0x5ff8, 0, "[000040f9]", "[00fc47f9]", "ldr x0, [x0, #4088]"},
		{arm, "MOVW_UABS_G3", 0, 0xffff000011112222, 0, "[0000e0d2]", "[e0ffffd2]", "mov x0, #0xffff000000000000"},
		{arm, "MOVW_SABS_G0", 0, ^uint64(4), 0, "[000080d2]", "[80008092]", "mov x0, #-5"},
		{arm, "TLSLE_ADD_TPREL_HI12", 0, 0x123010, 0, "[00004091]", "[008c4491]", "add x0, x0, #0x123, lsl #12"},
	}
	for _, test := range tests {
		head, rest, _ := strings.Cut(test.before, "[")
		skip := len(head) / 2
		b, err := hex.DecodeString(head + strings.TrimSuffix(rest, "]"))
		if err != nil {
			t.Fatal(err)
		}
		if err := elfpatch.ApplyReloc(test.m, typeNames(test.m)[test.name], b[skip:], test.p, test.s, test.a); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		got := hex.EncodeToString(b[:skip]) + "[" + hex.EncodeToString(b[skip:]) + "]"
		if got != test.after {
			t.Errorf("%s: %s, want %s (%s)", test.name, got, test.after, test.text)
		}
	}
}

// linkerRows are relocation types whose value is that of a symbol, with
// addends that keep them in range of the target at 0x12345678.
const (
	linkTarget = 0x12345678
	linkPlace  = 0x12340000
)

var linkerRows = []struct {
	m     elf.Machine
	types string
	near  bool // the addend makes the target small
}{
	{x86, "64 PC32 PLT32 32 32S PC64", false},
	{x86, "16 8", true},
	{arm, "ABS64 ABS32 PREL64 PREL32 MOVW_UABS_G0_NC MOVW_UABS_G1 MOVW_UABS_G1_NC MOVW_UABS_G2 MOVW_UABS_G2_NC MOVW_UABS_G3 MOVW_SABS_G1 " +
		"MOVW_SABS_G2 LD_PREL_LO19 ADR_PREL_LO21 ADR_PREL_PG_HI21 ADR_PREL_PG_HI21_NC ADD_ABS_LO12_NC LDST8_ABS_LO12_NC LDST16_ABS_LO12_NC " +
		"LDST32_ABS_LO12_NC LDST64_ABS_LO12_NC LDST128_ABS_LO12_NC TSTBR14 CONDBR19 JUMP26 CALL26", false},
	{arm, "ABS16 MOVW_UABS_G0 MOVW_SABS_G0", true},
}

// TestLinkerAgrees lets ld link every simple type of relocation and compares.
func TestLinkerAgrees(t *testing.T) {
	for m, prefix := range map[elf.Machine]string{x86: "x86_64-linux-gnu-", arm: "aarch64-linux-gnu-"} {
		t.Run(m.String(), func(t *testing.T) {
			for _, tool := range []string{"as", "ld"} {
				testkit.Tool(t, prefix+tool)
			}
			checkLinker(t, m, prefix)
		})
	}
}

func checkLinker(t *testing.T, m elf.Machine, prefix string) {
	dir := t.TempDir()
	var src strings.Builder
	src.WriteString(".text\n.globl _start\n_start:\n")
	i := 0
	for _, row := range linkerRows {
		if row.m != m {
			continue
		}
		for _, name := range strings.Fields(row.types) {
			addend := 8 // to a multiple of 16
			if row.near {
				addend = -linkTarget + 0x67
			}
			r, _ := elfpatch.RelocInfo(m, typeNames(m)[name])
			if m == arm && r.Insn && strings.Contains(name, "MOVW") {
				fmt.Fprintf(&src, "1: .inst 0x%x; .inst 0\n", 0xd2800005)
			} else {
				fmt.Fprintf(&src, "1: .quad 0\n")
			}
			fmt.Fprintf(&src, ".reloc 1b, %s, target%+d\n", r.Name, addend)
			i++
		}
	}
	run(t, dir, src.String(), prefix+"as", "-o", "a.o", "-")
	script := fmt.Sprintf("SECTIONS { .text %#x : { *(.text) } } target = %#x;", linkPlace, linkTarget)
	if err := os.WriteFile(filepath.Join(dir, "script"), []byte(script), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, dir, "", prefix+"ld", "-no-pie", "-T", "script", "-o", "a.out", "a.o")
	object, linked := testkit.ELF(t, filepath.Join(dir, "a.o")), testkit.ELF(t, filepath.Join(dir, "a.out"))
	text := object.Section(".text")
	rels, err := object.Relocations(text)
	if err != nil || len(rels) != i {
		t.Fatalf("%d relocations, want %d: %v", len(rels), i, err)
	}
	for _, r := range rels {
		got := append([]byte(nil), text.Data[r.Offset:r.Offset+8]...)
		want := linked.Section(".text").Data[r.Offset : r.Offset+8]
		name := elfpatch.RelocName(m, r.Type)
		if err := elfpatch.ApplyReloc(m, r.Type, got, linkPlace+r.Offset, linkTarget, r.Addend); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if string(got) != string(want) {
			t.Errorf("%s at %#x: %x, ld has %x", name, linkPlace+r.Offset, got, want)
		}
	}
}

func run(t *testing.T, dir, input, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

var le = binary.LittleEndian
