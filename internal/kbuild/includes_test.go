package kbuild

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestIncludesOf(t *testing.T) {
	got := includesOf([]byte("#include <linux/a.h>\n  #\tinclude \"b.h\" /* x */\n// include \"no.h\"\n#include MACRO\n#include_next <c.h>\n#include \"cut\n#include <d/e.h>"))
	if d := cmp.Diff([]string{"<linux/a.h", `"b.h`, "<d/e.h"}, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

// writeTree makes files below a directory.
func writeTree(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestUsers(t *testing.T) {
	src, work := t.TempDir(), t.TempDir()
	writeTree(t, src, map[string]string{
		"fs/internal.h": "", "fs/a.c": `#include "internal.h"`, "fs/x/b.c": `#include "../internal.h"`, "fs/x/internal.h": "", "fs/x/c.c": `#include "internal.h"`,
		"mm/internal.h": "", "mm/d.c": `#include "internal.h"`, "include/linux/up.h": "#include <linux/down.h>", "include/linux/down.h": "",
		"kernel/e.c": "#include <linux/up.h>", "kernel/part.c": "", "kernel/all.c": `#include "part.c"`, "tools/f.c": "#include <linux/down.h>",
		"arch/arm64/g.c": "#include <linux/down.h>", "arch/x86/h.c": "#include <linux/down.h>", "loop/a.h": `#include "b.h"`, "loop/b.h": `#include "a.h"`,
		"net/y.c": `#include "sub/z.h"`, "net/inc/sub/z.h": "",
	})
	writeTree(t, work, map[string]string{"build/arch/x86/include/generated/asm/w.h": "#include <linux/down.h>", "build/kernel/made.c": "#include <linux/down.h>"})
	tree := &Tree{Kernel: &Kernel{Work: work}, place: place{src: src, files: src}}
	for range 2 { // read, and then from what was kept
		x, err := tree.scan(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for file, want := range map[string][]string{
			"fs/internal.h": {"fs/a.c", "fs/x/b.c"}, "fs/x/internal.h": {"fs/x/c.c"}, "include/linux/down.h": {"arch/x86/h.c", "kernel/e.c"},
			"kernel/part.c": {"kernel/all.c", "kernel/part.c"}, "loop/a.h": nil, "net/inc/sub/z.h": {"net/y.c"}, "fs/a.c": {"fs/a.c"},
		} {
			got := x.usersOf(file)
			slices.Sort(got)
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("%s (-want +got)\n%s", file, d)
			}
		}
	}
	// A file that changes is read again.
	writeTree(t, src, map[string]string{"fs/a.c": "/* no more of it */"})
	x, err := tree.scan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := x.usersOf("fs/internal.h"); !slices.Equal(got, []string{"fs/x/b.c"}) {
		t.Errorf("after a change: %v", got)
	}
}
