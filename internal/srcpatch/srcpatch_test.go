package srcpatch

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"livepatch/internal/refusal"
)

// treeOf is a tree of files with these contents.
func treeOf(files map[string]string) *Tree {
	return NewTree(func(path string) ([]byte, bool, error) {
		s, ok := files[path]
		return []byte(s), ok, nil
	})
}

func applyAll(t *testing.T, tree *Tree, patches ...string) error {
	t.Helper()
	for i, text := range patches {
		p, err := Parse(fmt.Sprintf("%d.patch", i+1), []byte(text))
		if err != nil {
			return err
		}
		if err := tree.Apply(p); err != nil {
			return err
		}
	}
	return nil
}

const head = "--- a/d/f.c\n+++ b/d/f.c\n"

func numbered(from, to int) string {
	var b strings.Builder
	for i := from; i <= to; i++ {
		fmt.Fprintf(&b, "%d\n", i)
	}
	return b.String()
}

func TestApply(t *testing.T) {
	for _, tc := range []struct {
		name, before string
		patches      []string
		after, diff  string
	}{
		{"change", "a\nb\nc\n", []string{head + "@@ -1,3 +1,3 @@ f()\n a\n-b\n+B\n c\n"}, "a\nB\nc\n", head + "@@ -2,1 +2,1 @@\n-b\n+B\n"},
		{"count left out", "a\n", []string{head + "@@ -1 +1 @@\n-a\n+b\n"}, "b\n", head + "@@ -1,1 +1,1 @@\n-a\n+b\n"},
		{"moved down", numbered(1, 9), []string{head + "@@ -2,2 +2,3 @@\n 7\n+x\n 8\n"}, "1\n2\n3\n4\n5\n6\n7\nx\n8\n9\n", head + "@@ -7,0 +8,1 @@\n+x\n"},
		{"moved up", numbered(1, 9), []string{head + "@@ -8,1 +8,0 @@\n-2\n"}, "1\n" + numbered(3, 9), head + "@@ -2,1 +1,0 @@\n-2\n"},
		{
			"two in order", "a\nb\n", []string{head + "@@ -1,2 +1,3 @@\n a\n+x\n b\n", head + "@@ -2,2 +2,2 @@\n-x\n+y\n b\n"},
			"a\ny\nb\n", head + "@@ -1,0 +2,1 @@\n+y\n",
		},
		{"undone", "a\nb\n", []string{head + "@@ -1,2 +1,1 @@\n-a\n b\n", head + "@@ -1 +1,2 @@\n+a\n b\n"}, "", ""},
		{"no newline", "a\nb", []string{head + "@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+c\n"}, "a\nc\n", head + "@@ -2,1 +2,1 @@\n-b\n\\ No newline at end of file\n+c\n"},
		{"empty line without its space", "a\n\nb\n", []string{head + "@@ -1,3 +1,2 @@\n a\n\n-b\n"}, "a\n\n", head + "@@ -3,1 +2,0 @@\n-b\n"},
		{"insert by number", "a\nb\n", []string{head + "@@ -1,0 +2 @@\n+x\n"}, "a\nx\nb\n", head + "@@ -1,0 +2,1 @@\n+x\n"},
		{"other name before", "a\n", []string{"--- linux.orig/d/f.c\t2024-01-01\n+++ linux/d/f.c\t2024-01-01\n@@ -1 +1 @@\n-a\n+b\n"}, "b\n", head + "@@ -1,1 +1,1 @@\n-a\n+b\n"},
		{"mail around it", "a\n", []string{"From: x\n\ntext\n---\n d/f.c | 2 +-\n\ndiff --git a/d/f.c b/d/f.c\nindex 1..2 100644\n" + head + "@@ -1 +1 @@\n-a\n+b\n-- \n2.39.2\n"}, "b\n", head + "@@ -1,1 +1,1 @@\n-a\n+b\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tree := treeOf(map[string]string{"d/f.c": tc.before})
			if err := applyAll(t, tree, tc.patches...); err != nil {
				t.Fatal(err)
			}
			after := ""
			for _, c := range tree.Changes() {
				if c.Path != "d/f.c" || !c.Existed || !c.Exist || string(c.Before) != tc.before {
					t.Errorf("change %+v", c)
				}
				after = string(c.After)
			}
			if after != tc.after {
				t.Errorf("after:\n%q, want\n%q", after, tc.after)
			}
			if d := cmp.Diff(tc.diff, string(tree.Diff())); d != "" {
				t.Errorf("diff (-want +got)\n%s", d)
			}
		})
	}
}

func TestFiles(t *testing.T) {
	tree := treeOf(map[string]string{"old.c": "o\n", "gone.c": "g\n"})
	err := applyAll(t, tree, "--- /dev/null\n+++ b/new.c\n@@ -0,0 +1,2 @@\n+n\n+m\n",
		"--- a/gone.c\n+++ /dev/null\n@@ -1 +0,0 @@\n-g\n",
		"diff --git a/old.c b/now.c\nsimilarity index 90%\nrename from old.c\nrename to now.c\n--- a/old.c\n+++ b/now.c\n@@ -1 +1,2 @@\n o\n+p\n")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range tree.Changes() {
		got = append(got, fmt.Sprintf("%s %v->%v %q", c.Path, c.Existed, c.Exist, c.After))
	}
	want := []string{`gone.c true->false ""`, `new.c false->true "n\nm\n"`, `now.c false->true "o\np\n"`, `old.c true->false ""`}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func TestApplyErrors(t *testing.T) {
	for _, tc := range []struct{ name, patch, want string }{
		{"context", head + "@@ -1,2 +1,2 @@\n a\n-x\n+y\n", "1.patch: d/f.c: hunk 1 of 1: the file has nothing like its lines 1 to 2"},
		{"second hunk", head + "@@ -1 +1 @@\n-a\n+A\n@@ -9,1 +9,1 @@\n-q\n+r\n", "1.patch: d/f.c: hunk 2 of 2: the file has nothing like its lines 9 to 9"},
		{"applied", head + "@@ -1,2 +1,2 @@\n a\n-x\n+b\n", "1.patch: d/f.c: hunk 1 of 1: it seems to be applied already"},
		{"order", head + "@@ -2 +2 @@\n-b\n+B\n@@ -3 +3 @@\n-a\n+A\n", "hunk 2 of 2"},
		{"no file", "--- a/d/g.c\n+++ b/d/g.c\n@@ -1 +1 @@\n-a\n+b\n", "1.patch: d/g.c: the tree has no such file"},
		{"new, and there", "--- /dev/null\n+++ b/d/f.c\n@@ -0,0 +1 @@\n+a\n", "1.patch: d/f.c: it is to be a new file, and the tree has it"},
		{"not all removed", "--- a/d/f.c\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n", "it is to be removed, and the patch leaves 1 lines of it"},
		{"whitespace", head + "@@ -1 +1 @@\n-a \n+b\n", "the file has nothing like"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := applyAll(t, treeOf(map[string]string{"d/f.c": "a\nb\n"}), tc.patch)
			var apply *ApplyError
			if !errors.As(err, &apply) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	for _, tc := range []struct{ name, patch, want string }{
		{"empty", "", "this is no unified diff"},
		{"text", "hello\n", "this is no unified diff"},
		{"hunk alone", "@@ -1 +1 @@\n-a\n+b\n", "line 1: a hunk without the names"},
		{"head", head + "@@ -x +1 @@\n", "is no head of a hunk"},
		{"huge", head + "@@ -1,99999999999999999999 +1 @@\n", "is no head of a hunk"},
		{"cut off", head + "@@ -1,3 +1,3 @@\n a\n", "it ends within a hunk"},
		{"foreign line", head + "@@ -1,3 +1,3 @@\n a\n?\n", "line 5: it is in a hunk"},
		{"too many", head + "@@ -1,1 +1,2 @@\n-a\n-b\n", "more lines than it says"},
		{"binary", "diff --git a/x b/x\nGIT binary patch\n", "binary changes"},
		{"link", "diff --git a/x b/x\nnew file mode 120000\n", "only regular files"},
		{"no directory", "--- f.c\n+++ f.c\n@@ -1 +1 @@\n-a\n+b\n", "has no directory to leave out"},
		{"zero", head + "\x00", "this is no text"},
	} {
		if _, err := Parse("p", []byte(tc.patch)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", tc.name, err, tc.want)
		}
	}
}

// A path that leaves the tree is a refusal, whichever of the names has it.
func TestPathsThatLeave(t *testing.T) {
	for _, name := range []string{
		"/etc/passwd", "a/../x", "a/../../x", "a/d/../../../x", "a/d/..", "a//etc/passwd", "a/.git/config", "a/./x", "a/x/", `"a/x\ny"`, `a/..\x`, "a/",
	} {
		for _, text := range []string{
			"--- " + name + "\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n", "--- a/x\n+++ " + name + "\n@@ -1 +1 @@\n-a\n+b\n",
		} {
			_, err := Parse("p", []byte(text))
			var r refusal.Refusal
			if !errors.As(err, &r) || r.Code != refusal.PatchPath {
				t.Errorf("%s: got %v", name, err)
			}
		}
	}
	_, err := Parse("p", []byte("diff --git a/x b/x\nrename from ../x\nrename to y\n"))
	var r refusal.Refusal
	if !errors.As(err, &r) || r.Code != refusal.PatchPath {
		t.Errorf("rename: got %v", err)
	}
}

// What Diff writes, patch(1) applies to the original with the same result.
func TestDiffIsAPatch(t *testing.T) {
	if _, err := exec.LookPath("patch"); err != nil {
		t.Skip("patch is not installed")
	}
	before := numbered(1, 60)
	tree := treeOf(map[string]string{"d/f.c": before})
	err := applyAll(t, tree, head+"@@ -3,3 +3,2 @@\n 3\n-4\n 5\n@@ -40,2 +39,4 @@\n 40\n+x\n+y\n 41\n", head+"@@ -38,3 +38,2 @@\n 39\n-40\n x\n@@ -59,1 +58,0 @@\n-60\n")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "f.c")
	if err := os.WriteFile(file, []byte(before), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("patch", "-s", file)
	cmd.Stdin = strings.NewReader(string(tree.Diff()))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s\n%s", err, out, tree.Diff())
	}
	got, err := os.ReadFile(file)
	if err != nil || string(got) != string(tree.Changes()[0].After) {
		t.Errorf("%v: patch makes\n%s", err, got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(head + "@@ -1,2 +1,2 @@\n a\n-b\n+B\n"))
	f.Add([]byte("diff --git a/x b/y\nrename from x\nrename to y\n--- a/x\n+++ b/y\n@@ -1 +1,2 @@\n a\n+p\n\\ No newline\n"))
	f.Add([]byte("--- /dev/null\n+++ \"b/n\"\n@@ -0,0 +1 @@\n+a\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse("p", data)
		if err != nil {
			return
		}
		tree := treeOf(map[string]string{"d/f.c": "a\nb\nc\n", "x": "a\nb"})
		if err := tree.Apply(p); err != nil {
			return
		}
		diff := tree.Diff()
		if len(diff) == 0 {
			return
		}
		// Applied as one patch, all of it gives the same.
		again := treeOf(map[string]string{"d/f.c": "a\nb\nc\n", "x": "a\nb"})
		q, err := Parse("q", diff)
		if err != nil {
			return // names that are no names in a diff, or files without a line
		}
		if err := again.Apply(q); err != nil {
			t.Fatalf("%v\n%s", err, diff)
		}
		for _, c := range again.Changes() {
			if got, want := c.After, tree.files[c.Path]; want == nil || string(got) != joined(want) {
				t.Fatalf("%s differs\n%s", c.Path, diff)
			}
		}
	})
}

func joined(x *text) string {
	var b strings.Builder
	for _, l := range x.lines {
		b.WriteString(l.text)
	}
	return b.String()
}
