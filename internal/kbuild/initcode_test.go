package kbuild

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"livepatch/internal/srcpatch"
)

const initSource = `// SPDX: "not a string
#include <x.h>
#define MACRO(x) do { \
	x; } while (0)
static int __initdata one[] = { 1, '{', 2 };
static const char *two __initconst;
static int (*three)(int) __initdata = NULL;
/* static int __init no(void) { */
static int four;

static int __init
five(char *arg)
{
	if (arg) {
		four = 1;
	}

	return "}"[0];
}
early_param("five", five);

#ifdef X
static int six(void) {
#else
static int six(int a) {
#endif
	return 6;
}

static __attribute__((section("a"), used)) int __init seven(void) { return 7; }
struct eight {
	int __initialised;
};
`

func TestDefinitions(t *testing.T) {
	var got []string
	for _, d := range definitions([]byte(initSource)) {
		got = append(got, strings.TrimSpace(fmt.Sprintf("%d-%d %s %s", d.from, d.to, d.name, d.mark)))
	}
	want := []string{
		"5-5 one __initdata", "6-6 two __initconst", "7-7 three __initdata", "9-9 four", "11-19 five __init", "20-20 early_param",
		"23-28 six", "30-30 seven __init", "31-33 eight",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

// A warning names what is marked, wherever in it the patch is, and nothing else.
func TestInitCode(t *testing.T) {
	for _, tc := range []struct{ hunk, want string }{
		{"@@ -15 +15 @@\n-\t\tfour = 1;\n+\t\tfour = 2;\n", "x.c: five is marked __init: it is used only while starting, and a change of it will be refused"},
		{"@@ -16,0 +17 @@\n+\tfour++;\n", "x.c: five is marked __init: it is used only while starting, and a change of it will be refused"},
		{"@@ -17,0 +18 @@\n+\n", ""},
		{"@@ -9 +9 @@\n-static int four;\n+static long four;\n", ""},
		{"@@ -27 +27 @@\n-\treturn 6;\n+\treturn 7;\n", ""},
		{"@@ -33,0 +34,3 @@\n+static int __init nine(void)\n+{\n+}\n", "x.c: nine is marked __init: it is used only while starting, and a change of it will be refused"},
		{"@@ -5 +4,0 @@\n-static int __initdata one[] = { 1, '{', 2 };\n", "x.c: one is marked __initdata: it is used only while starting, and a change of it will be refused"},
	} {
		p, err := srcpatch.Parse("p", []byte("--- a/x.c\n+++ b/x.c\n"+tc.hunk))
		if err != nil {
			t.Fatal(err)
		}
		tree := srcpatch.NewTree(func(string) ([]byte, bool, error) { return []byte(initSource), true, nil })
		if err := tree.Apply(p); err != nil {
			t.Fatal(err)
		}
		got, err := Check(tree, false)
		if err != nil || strings.Join(got, "\n") != tc.want {
			t.Errorf("%q: got %q, %v, want %q", tc.hunk, got, err, tc.want)
		}
	}
}

func FuzzDefinitions(f *testing.F) {
	f.Add([]byte(initSource))
	f.Add([]byte("a(\n/*\n#x\\\n'"))
	f.Fuzz(func(t *testing.T, text []byte) {
		last := 0
		for _, d := range definitions(text) {
			if d.from < max(last, 1) || d.to < d.from || d.name == "" {
				t.Fatalf("lines %d to %d of %q after %d", d.from, d.to, d.name, last)
			}
			last = d.from
		}
	})
}
