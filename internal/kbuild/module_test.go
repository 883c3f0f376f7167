package kbuild

import (
	"debug/elf"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"livepatch/internal/srcpatch"
	"livepatch/internal/testkit"
)

// treeOf is a prepared kernel tree of these files, with a configuration for
// make.
func treeOf(t *testing.T, config string, files map[string]string) *Tree {
	t.Helper()
	testkit.Tool(t, "make")
	src := realTemp(t)
	files["Makefile"], files["scripts/Makefile.build"] = "", ""
	writeTree(t, src, files)
	tree := &Tree{Kernel: &Kernel{Source: src, Work: realTemp(t), Machine: elf.EM_X86_64, Release: "6.0"}, Compiler: &Compiler{Program: "gcc"}, dirs: map[string]*listing{}, enters: map[string]bool{}}
	if err := tree.cleanSource(); err != nil {
		t.Fatal(err)
	}
	writeTree(t, tree.obj(), map[string]string{"include/config/auto.conf": config})
	return tree
}

func realTemp(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// Objects are named as the Makefile names them that builds them, and those that
// no directory builds that is entered have no name.
func TestTarget(t *testing.T) {
	tree := treeOf(t, "CONFIG_KVM=m\nCONFIG_GPU=y\n", map[string]string{
		"fs/Makefile": "obj-y += a.o sub/b.o\nobj-$(CONFIG_NONE) += no.o\nobj-$(CONFIG_NONE) += never/\nobj-y += deep/er/\n", "fs/never/Makefile": "obj-y := c.o ../../virt/far.o\n",
		"fs/deep/er/Makefile": "obj-y := d.o\n", "virt/Makefile": "obj-y := lib/\n", "virt/kvm/Makefile.kvm": "KVM := ../../../virt/kvm\nkvm-y := $(KVM)/main.o\nkvm-$(CONFIG_NONE) += $(KVM)/none.o\n",
		"arch/x86/kvm/Makefile":   "include $(srctree)/virt/kvm/Makefile.kvm\nkvm-y += mmu/mmu.o\nobj-$(CONFIG_KVM) += kvm.o\n",
		"arch/arm64/kvm/Makefile": "obj-y += ../../../virt/kvm/arm.o\n",
		"drivers/gpu/Makefile":    "obj-$(CONFIG_GPU) += amd/amdgpu/\n", "drivers/Makefile": "obj-y += gpu/\n",
		"drivers/gpu/amd/amdgpu/Makefile":  "FULL := $(src)/..\ninclude $(FULL)/dc/Makefile\namdgpu-y := $(DC)\nobj-y += amdgpu.o\n",
		"drivers/gpu/amd/dc/Makefile":      "include $(FULL)/dc/more.mk\n",
		"drivers/gpu/amd/dc/more.mk":       "DC := $(addprefix ../dc/core/,x.o)\n",
		"drivers/gpu/amd/dc/core/Makefile": "include $(NOWHERE)/more.mk # ..\n",
	})
	for object, want := range map[string]string{
		"fs/a.o": "fs/a.o", "fs/sub/b.o": "fs/sub/b.o", "fs/no.o": "", "fs/never/c.o": "", "fs/deep/er/d.o": "fs/deep/er/d.o", "virt/far.o": "",
		"virt/kvm/main.o": "arch/x86/kvm/../../../virt/kvm/main.o", "virt/kvm/none.o": "", "virt/kvm/arm.o": "", "arch/x86/kvm/mmu/mmu.o": "arch/x86/kvm/mmu/mmu.o",
		"drivers/gpu/amd/dc/core/x.o": "drivers/gpu/amd/amdgpu/../dc/core/x.o", "drivers/gpu/amd/dc/core/y.o": "",
	} {
		if got, err := tree.target(t.Context(), object); err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", object, got, err, want)
		}
	}
}

// A module is worked on in a copy without products; what its Makefiles build,
// with variables of make, is found from the top of the directory on.
func TestModule(t *testing.T) {
	kernel := treeOf(t, "", map[string]string{})
	given, scratch := realTemp(t), realTemp(t)
	writeTree(t, given, map[string]string{
		"Makefile": "obj-m := one.o\none-y := main.o $(MORE) sub/far.o\nccflags-y := -I$(PWD)\nobj-m += $(if $(wildcard $(PWD)/main.c),in/)\n",
		"main.c":   "#include \"x.h\"\n", "x.h": "x\n", "more.c": "", "in/Kbuild": "obj-m := two.o ../up.o\n", "in/two.c": "#include \"../x.h\"\n", "out/Makefile": "obj-m := three.o\n", "tools/three.c": "#include \"x.h\"\n",
		"main.o": "", ".main.o.cmd": "", ".main.o.d": "", "one.ko": "", "one.ko.xz": "", "one.mod": "", "one.mod.c": "", "Module.symvers": "", "modules.order": "", ".git/config": "", "gen.sh": "",
	})
	for link, to := range map[string]string{"in/link.h": "../x.h", "dir": "in", "dead.h": "nothing"} {
		if err := os.Symlink(to, filepath.Join(given, link)); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := kernel.Module(Module{Source: given, Vars: []string{"MORE=more.o"}}, scratch)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	err = filepath.WalkDir(tree.src, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name := below(tree.src, path)
		if to, err := os.Readlink(path); err == nil {
			name += " -> " + below(tree.src, to)
		}
		got = append(got, name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"Makefile", "dir -> in", "gen.sh", "in/Kbuild", "in/link.h -> x.h", "in/two.c", "main.c", "more.c", "out/Makefile", "tools/three.c", "x.h"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("copied (-want +got)\n%s", d)
	}
	for object, want := range map[string]string{
		"main.o": "main.o", "more.o": "more.o", "sub/far.o": "sub/far.o", "in/two.o": "in/two.o", "up.o": "in/../up.o", "out/three.o": "", "one.o": "one.o", "none.o": "",
	} {
		if got, err := tree.target(t.Context(), object); err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", object, got, err, want)
		}
	}
	targets, err := tree.units(t.Context(), &touched{sources: []string{"x.h"}}, 10)
	if d := cmp.Diff([]string{"in/two.o", "main.o"}, targets); d != "" || err != nil {
		t.Errorf("users of a header: %v (-want +got)\n%s", err, d)
	}
	for _, file := range []string{filepath.Join(given, "in/../x.h"), filepath.Join(tree.src, "x.h")} {
		if rel, ok := tree.find(file); !ok || rel != "x.h" {
			t.Errorf("%s: %q, %v", file, rel, ok)
		}
	}
}

// The names of directories of the kernel mean nothing in a module.
func TestCheckModule(t *testing.T) {
	if _, err := Check(touch(t, "tools/a.c", "arch/x86/boot/b.c", "scripts/c.c", "virt/d.c", "Makefile", "lib/vdso/e.c"), true); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"a.S", "b.rs", "Kconfig", "sub/Makefile.inc"} {
		if _, err := Check(touch(t, name), true); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	in, err := classify([]srcpatch.Change{{Path: "tools/a.c", Existed: true, Exist: true}}, true)
	if err != nil || len(in.sources) != 1 || len(in.notes) != 0 {
		t.Errorf("%+v, %v", in, err)
	}
}

func TestModuleRefused(t *testing.T) {
	kernel := treeOf(t, "", map[string]string{})
	dir, scratch := realTemp(t), realTemp(t)
	writeTree(t, dir, map[string]string{"module/Makefile": "", "empty/x.c": ""})
	source := filepath.Join(dir, "module")
	for want, m := range map[string]Module{
		"has no Makefile": {Source: filepath.Join(dir, "empty")}, "no such file": {Source: filepath.Join(dir, "none")},
		"cannot work with spaces": {Source: source, BuildPath: "/a b"}, "variable CC": {Source: source, Vars: []string{"CC=clang"}}, "variable M:": {Source: source, Vars: []string{"M=x"}},
	} {
		if _, err := kernel.Module(m, scratch); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want %q", m, err, want)
		}
	}
	writeTree(t, kernel.srctree, map[string]string{"Makefile": "export srcroot\n"})
	if _, err := kernel.Module(Module{Source: source}, scratch); err == nil || !strings.Contains(err.Error(), "from 6.13 on") {
		t.Errorf("a kernel that compiles otherwise: %v", err)
	}
}
