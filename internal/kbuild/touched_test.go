package kbuild

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"livepatch/internal/refusal"
	"livepatch/internal/srcpatch"
)

// touch is a tree with a patch that changes a line of each of these files.
func touch(t *testing.T, names ...string) *srcpatch.Tree {
	t.Helper()
	var b strings.Builder
	for _, n := range names {
		b.WriteString("--- a/" + n + "\n+++ b/" + n + "\n@@ -1 +1 @@\n-a\n+b\n")
	}
	p, err := srcpatch.Parse("p", []byte(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	tree := srcpatch.NewTree(func(string) ([]byte, bool, error) { return []byte("a\n"), true, nil })
	if err := tree.Apply(p); err != nil {
		t.Fatal(err)
	}
	return tree
}

// What cannot be covered is said of all files at once.
func TestCheckRefuses(t *testing.T) {
	for name, want := range map[string]refusal.Code{
		"arch/x86/entry/vdso/vclock_gettime.c": refusal.VDSO, "lib/vdso/gettimeofday.c": refusal.VDSO, "arch/arm64/kernel/vdso/vgettimeofday.c": refusal.VDSO,
		"arch/x86/entry/entry_64.S": refusal.Assembly, "lib/Kconfig": refusal.BuildFiles, "lib/Kconfig.debug": refusal.BuildFiles, "Makefile": refusal.BuildFiles,
		"scripts/Makefile.build": refusal.BuildFiles, "arch/x86/kernel/vmlinux.lds.S": refusal.BuildFiles, "scripts/mod/modpost.c": refusal.BuildFiles,
		"arch/x86/entry/syscalls/syscall_64.tbl": refusal.BuildFiles, "arch/x86/boot/main.c": refusal.InitTextChanged,
		"drivers/firmware/efi/libstub/x86-stub.c": refusal.InitTextChanged, "rust/kernel/lib.rs": refusal.Unsupported,
	} {
		_, err := Check(touch(t, "fs/a.c", name), false)
		var list refusal.List
		if !errors.As(err, &list) || len(list) != 1 || list[0].Code != want || list[0].Where != name {
			t.Errorf("%s: got %v, want %s", name, err, want)
		}
	}
	_, err := Check(touch(t, "lib/Kconfig", "arch/x86/entry/entry_64.S"), false)
	var list refusal.List
	if !errors.As(err, &list) || len(list) != 2 {
		t.Errorf("not all reasons are given: %v", err)
	}
	if _, err := Check(touch(t, "fs/a.c", "include/linux/b.h", "Documentation/x.rst", "MAINTAINERS", "fs/Makefile"), false); err != nil {
		t.Errorf("what can be covered is refused: %v", err)
	}
}

func TestOtherThanLists(t *testing.T) {
	for _, tc := range []struct {
		before, after string
		bad           bool
	}{
		{"obj-y := a.o\n", "obj-y := a.o b.o\n", false},
		{"obj-y := a.o \\\n\tb.o\n", "obj-y := a.o \\\n\tb.o \\\n\tc.o\n", false},
		{"x\n", "x\nobj-$(CONFIG_FOO) += d/e.o\nfoo-objs += f.o\n# why\n\n", false},
		{"x\n", "x\nCFLAGS_a.o += -O3\n", true},
		{"obj-y += d/\n", "obj-y += d/ e/\n", true},
		{"ifdef X\n", "ifndef X\n", true},
		{"x\n", "x\nobj-y += $(shell reboot).o\n", true},
	} {
		line, bad := otherThanLists(srcpatch.Change{Before: []byte(tc.before), After: []byte(tc.after)})
		if bad != tc.bad {
			t.Errorf("%q -> %q: got %v (%q)", tc.before, tc.after, bad, line)
		}
	}
}

// An overlay shows all of a tree, and of some files another content; nothing
// of the tree is changed.
func TestOverlay(t *testing.T) {
	src := t.TempDir()
	writeTree(t, src, map[string]string{"fs/a.c": "a", "fs/b.c": "b", "fs/x/c.c": "c", "mm/d.c": "d", ".git/config": "g", "gone.c": ""})
	o := overlay{
		from: src, to: filepath.Join(t.TempDir(), "o"), real: map[string]bool{}, omit: map[string]bool{"gone.c": true},
		files: map[string][]byte{"fs/a.c": []byte("A"), "new/dir/e.c": []byte("E")},
	}
	o.addReal("fs")
	o.addReal("new/dir")
	if err := o.link(""); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"fs/a.c": "A", "fs/b.c": "b", "fs/x/c.c": "c", "mm/d.c": "d", "new/dir/e.c": "E", "gone.c": "-", ".git/config": "-"} {
		b, err := os.ReadFile(filepath.Join(o.to, name))
		if err != nil {
			b = []byte("-")
		}
		if string(b) != want {
			t.Errorf("%s: got %q, want %q", name, b, want)
		}
	}
	if b, err := os.ReadFile(filepath.Join(src, "fs/a.c")); err != nil || string(b) != "a" {
		t.Errorf("the tree was changed: %q, %v", b, err)
	}
}
