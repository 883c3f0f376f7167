package kbuild

import (
	"debug/elf"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"livepatch/internal/refusal"
	"livepatch/internal/srcpatch"
)

// builtIn is a source in which a kernel was built, and the tree of it.
func builtIn(t *testing.T) (src string, tree *Tree) {
	t.Helper()
	src = t.TempDir()
	writeTree(t, src, map[string]string{
		"Makefile": "", "scripts/Makefile.build": "", ".config": "old", "include/config/FOO": "old", "include/generated/autoconf.h": "#include <linux/a.h>",
		"arch/x86/include/generated/asm/b.h": "#include <linux/a.h>", "arch/x86/include/asm/c.h": "", "include/linux/a.h": "a\n",
		"fs/x/d.c": "#include <linux/a.h>\n", "fs/x/d.o": "old", "fs/e.c": "#include <linux/a.h>",
	})
	tree = &Tree{Kernel: &Kernel{Source: src, Work: t.TempDir(), Machine: elf.EM_X86_64}}
	if err := tree.cleanSource(); err != nil {
		t.Fatal(err)
	}
	writeTree(t, tree.obj(), map[string]string{"include/generated/autoconf.h": ""})
	return src, tree
}

func there(t *testing.T, dir string, names ...string) (out []string) {
	t.Helper()
	for _, n := range names {
		if _, err := os.Stat(filepath.Join(dir, n)); err == nil {
			out = append(out, n)
		}
	}
	return out
}

// Configuration and generated headers of another build are out of sight, with
// and without the patch; the sources are not.
func TestSourceBuiltIn(t *testing.T) {
	src, tree := builtIn(t)
	if tree.src == src {
		t.Fatal("kbuild is given the source with the products of another build")
	}
	products := []string{".config", "include/config", "include/generated", "arch/x86/include/generated"}
	sources := []string{"Makefile", "scripts/Makefile.build", "include/linux/a.h", "arch/x86/include/asm/c.h", "fs/x/d.c", "fs/e.c"}
	if got := there(t, tree.src, slices.Concat(products, sources)...); !slices.Equal(got, sources) {
		t.Errorf("the tree has %q, want %q", got, sources)
	}

	x, err := tree.scan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := x.usersOf("include/linux/a.h"); len(got) != 2 || !slices.Contains(got, "fs/x/d.c") || !slices.Contains(got, "fs/e.c") {
		t.Errorf("users of a header: %q", got)
	}

	over := tree.overlay(Request{Changes: touchIn(t, src, "include/linux/a.h", "a"), Dir: t.TempDir()}, "source")
	if err := over.link(""); err != nil {
		t.Fatal(err)
	}
	if got := there(t, over.to, slices.Concat(products, sources)...); !slices.Equal(got, sources) {
		t.Errorf("the patched tree has %q, want %q", got, sources)
	}
	if b, err := os.ReadFile(filepath.Join(over.to, "include/linux/a.h")); err != nil || string(b) != "b\n" {
		t.Errorf("the patched header is %q, %v", b, err)
	}
	if b, err := os.ReadFile(filepath.Join(src, "include/linux/a.h")); err != nil || string(b) != "a\n" {
		t.Errorf("the source was changed: %q, %v", b, err)
	}
}

// A path that leads out of the patched tree to a file that the patch changes is
// seen, whichever tree kbuild was given.
func TestUnpatchedFileRead(t *testing.T) {
	src, tree := builtIn(t)
	dir := t.TempDir()
	over := tree.overlay(Request{Changes: touchIn(t, src, "include/linux/a.h", "a"), Dir: dir}, "source")
	if err := over.link(""); err != nil {
		t.Fatal(err)
	}
	o := &Object{Name: "fs/x/d.o", Source: "fs/x/d.c", Patched: filepath.Join(dir, "d.o")}
	for dep, bad := range map[string]bool{"include/linux/a.h": false, "fs/x/../../include/linux/a.h": true, "arch/x86/include/asm/c.h": false} {
		// As the compiler reads it: by the links, one after the other.
		text := "d.o: \\\n " + over.to + "/" + dep + "\n"
		if err := os.WriteFile(depFile(o.Patched), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		err := tree.checkDeps(o, over)
		var r refusal.Refusal
		if got := errors.As(err, &r) && r.Code == refusal.Unsupported; got != bad {
			t.Errorf("%s: %v", dep, err)
		}
	}
}

// Options that no function depends on may differ, and no others.
func TestConfigDiff(t *testing.T) {
	const boot = "CONFIG_A=y\nCONFIG_CC_VERSION_TEXT=\"gcc 1\"\n# CONFIG_B is not set\n"
	for now, want := range map[string]string{
		boot + "CONFIG_BUILD_SALT=\"\"\nCONFIG_MODULE_SIG_ALL=y\nCONFIG_MODULE_SIG_KEY=\"certs/signing_key.pem\"\nCONFIG_SYSTEM_TRUSTED_KEYS=\"\"\n": "",
		"CONFIG_A=y\nCONFIG_CC_VERSION_TEXT=\"gcc 2\"\n# CONFIG_B is not set\n":                                                                      "",
		boot + "CONFIG_MODULE_SIG_KEY_TYPE_ECDSA=y\n":                                                                                                "CONFIG_MODULE_SIG_KEY_TYPE_ECDSA=y",
		boot + "CONFIG_MODULE_SIG=y\n":                                  "CONFIG_MODULE_SIG=y",
		strings.Replace(boot, "CONFIG_A=y", "CONFIG_A=m", 1):            "CONFIG_A=y, CONFIG_A=m",
		strings.Replace(boot, "# CONFIG_B is not set", "", 1):           "# CONFIG_B is not set",
		strings.Replace(boot, "# CONFIG_B is not set", "CONFIG_B=y", 1): "# CONFIG_B is not set, CONFIG_B=y",
	} {
		if got := configDiff([]byte(boot), []byte(now)); got != want {
			t.Errorf("got %q, want %q, of\n%s", got, want, now)
		}
	}
}

// touchIn is a patch of one line of a file.
func touchIn(t *testing.T, src, name, line string) *srcpatch.Tree {
	t.Helper()
	p, err := srcpatch.Parse("p", []byte(strings.NewReplacer("NAME", name, "LINE", line).Replace("--- a/NAME\n+++ b/NAME\n@@ -1 +1 @@\n-LINE\n+b\n")))
	if err != nil {
		t.Fatal(err)
	}
	tree := srcpatch.NewTree(func(name string) ([]byte, bool, error) {
		b, err := os.ReadFile(filepath.Join(src, name))
		return b, err == nil, err
	})
	if err := tree.Apply(p); err != nil {
		t.Fatal(err)
	}
	return tree
}
