package kmod

import (
	"bytes"
	"debug/elf"
	"fmt"
	"slices"
	"testing"

	"livepatch/elfpatch"
)

// reachObject branches to functions of a module, of the kernel, and of its own, in
// code of a size.
func reachObject(size int) (*builder, map[string]Binding) {
	b := newBuilder(elf.EM_AARCH64)
	text := b.section(".text.show", execFlags, 4, bytes.Repeat([]byte{0x00, 0x00, 0x00, 0x94}, size/4))
	cold := b.section(".text.unlikely.show", execFlags, 4, []byte{0, 0, 0, 0x14})
	b.symbol("show", elf.STT_FUNC, elf.STB_GLOBAL, text, 0, uint64(size))
	own := b.symbol("own", elf.STT_FUNC, elf.STB_LOCAL, text, 8, 4)
	inside, kernel, export := b.undefined("inside"), b.undefined("outside"), b.undefined("printer")
	call, jump := uint32(elf.R_AARCH64_CALL26), uint32(elf.R_AARCH64_JUMP26)
	b.rel(text, 0, call, inside, 0)
	b.rel(text, 4, jump, inside, 0)
	b.rel(text, 8, call, inside, 8)
	b.rel(text, 12, call, kernel, 0)
	b.rel(text, 16, call, export, 0)
	b.rel(text, 20, call, own, 0)
	b.rel(cold, 0, jump, inside, 0)
	return b, map[string]Binding{"inside": {Kind: KLP, Object: "xfs", Pos: 2}, "outside": {Kind: KLP}, "printer": {Kind: Export}}
}

// TestARM64Reach has branches to functions of a patched module go by way of veneers,
// one for each section and place, and all others as they were.
func TestARM64Reach(t *testing.T) {
	b, bindings := reachObject(24)
	m := mergeObject(t, b, "xfs", bindings)
	text := m.Object.Section(".text")
	veneer := arm64Words(0x90000010, 0x91000210, 0xd61f0200)
	if !bytes.Equal(text.Data[24:], slices.Concat(veneer, veneer)) {
		t.Errorf("behind the code is %x", text.Data[24:])
	}
	want := []string{
		"0 R_AARCH64_CALL26 inside.reach+0", "4 R_AARCH64_JUMP26 inside.reach+0", "8 R_AARCH64_CALL26 inside.reach#2+0",
		"12 R_AARCH64_CALL26 outside+0", "16 R_AARCH64_CALL26 printer+0", "20 R_AARCH64_CALL26 own+0",
		"24 R_AARCH64_ADR_PREL_PG_HI21 inside+0", "28 R_AARCH64_ADD_ABS_LO12_NC inside+0",
		"36 R_AARCH64_ADR_PREL_PG_HI21 inside+8", "40 R_AARCH64_ADD_ABS_LO12_NC inside+8",
	}
	if got := relocationTexts(t, m.Object, text); !slices.Equal(got, want) {
		t.Errorf("relocations\n%q, want\n%q", got, want)
	}
	if got := relocationTexts(t, m.Object, m.Object.Section(".text.unlikely")); got[0] != "0 R_AARCH64_JUMP26 inside.reach#3+0" || len(got) != 3 {
		t.Errorf("relocations of other code %q", got)
	}
	for _, s := range m.Object.Symbols {
		if s.Name == "inside.reach#2" && (s.Section != text.Index || s.Value != 36 || s.Size != 12 || s.Bind != elf.STB_LOCAL || s.Type != elf.STT_FUNC) {
			t.Errorf("symbol %+v", s)
		}
	}
}

func relocationTexts(t *testing.T, f *elfpatch.File, sec *elfpatch.Section) (out []string) {
	t.Helper()
	rels, err := f.Relocations(sec)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rels {
		out = append(out, fmt.Sprintf("%d %s %s%+d", r.Offset, elfpatch.RelocName(f.Machine, r.Type), f.Symbols[r.Symbol].Name, r.Addend))
	}
	return out
}

// No veneer begins where a page ends: there the kernel might have to make one itself.
func TestARM64ReachPageEnd(t *testing.T) {
	for size, want := range map[int]int{0xff0: 0xff0, 0xff4: 0xff4, 0xff8: 0x1000, 0xffc: 0x1004, 0x1000: 0x1000, 0x1ff8: 0x2000} {
		b, bindings := reachObject(size)
		text := mergeObject(t, b, "xfs", bindings).Object.Section(".text")
		adrp := arm64Words(0x90000010)
		if at := bytes.Index(text.Data, adrp); at != want {
			t.Errorf("behind %#x bytes the veneer is at %#x, want %#x", size, at, want)
		}
		if second := bytes.LastIndex(text.Data, adrp); second&0xff8 == 0xff8 {
			t.Errorf("behind %#x bytes the second veneer is at %#x", size, second)
		}
	}
}

// A module with veneers is taken apart and made again.
func TestARM64ReachUndo(t *testing.T) {
	b, bindings := reachObject(24)
	s := arm64Spec(t)
	m := mergeObject(t, b, "xfs", bindings)
	s.Object, s.Bindings = m.Object, ownBindings(m.Bindings)
	s.Objects = []Object{{Name: "xfs", Funcs: []Func{{Name: "xfs_show", Replacement: "show"}}}}
	module, err := Emit(s)
	if err != nil {
		t.Fatal(err)
	}
	checkModule(t, module)
	f, err := elfpatch.Parse(module)
	if err != nil {
		t.Fatal(err)
	}
	late := 0
	for _, sec := range f.Sections {
		if sec.Name == ".klp.rela.xfs..text" || sec.Name == ".klp.rela.xfs..text.unlikely" {
			for at := 8; at < len(sec.Data); at += relaSize {
				late++
				if typ := elf.R_AARCH64(le.Uint32(sec.Data[at:])); typ == elf.R_AARCH64_CALL26 || typ == elf.R_AARCH64_JUMP26 {
					t.Errorf("%s has a branch", sec.Name)
				}
			}
		}
	}
	if late != 6 {
		t.Errorf("%d relocations wait for the module, want 6", late)
	}
	if _, err := Undo(module); err != nil {
		t.Error(err)
	}
}
