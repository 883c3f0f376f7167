package test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/elfpatch/diff"
)

var update = flag.Bool("update", false, "write the reports of the cases instead of comparing them")

// The cases of scripts/newcase: the complete report on two objects, and the
// reasons against patching, are as recorded.
func TestCases(t *testing.T) {
	dirs, err := os.ReadDir("cases")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		t.Run(d.Name(), func(t *testing.T) {
			dir := filepath.Join("cases", d.Name())
			got := reportOn(t, d.Name(), filepath.Join(dir, "before.o"), filepath.Join(dir, "after.o"))
			golden := filepath.Join(dir, "report")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o666); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("the report is\n%s\nrecorded is\n%s", got, want)
			}
			if same := reportOn(t, d.Name(), filepath.Join(dir, "before.o"), filepath.Join(dir, "before.o")); !strings.HasPrefix(same, "nothing changed: ") {
				t.Errorf("an object differs from itself:\n%s", same)
			}
		})
	}
}

func reportOn(t *testing.T, name, before, after string) string {
	t.Helper()
	var files [2]*elfpatch.File
	for i, path := range []string{before, after} {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if files[i], err = elfpatch.Parse(b); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	delta, err := diff.Compare(files[0], files[1], diff.Options{Name: name + ".o"})
	if err != nil {
		return err.Error() + "\n"
	}
	var out strings.Builder
	if err := delta.Text(&out); err != nil {
		t.Fatal(err)
	}
	if err := delta.Refusals.Err(); err != nil {
		out.WriteString(err.Error() + "\n")
	}
	return out.String()
}
