package diff

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/refusal"
	"livepatch/internal/testkit"
)

// A kernelCase is a row of expected.tsv.
type kernelCase struct {
	name, base   string
	exit         string
	changed, new []string
	ignored      []string
}

func kernelCases(t testing.TB) []kernelCase {
	t.Helper()
	var all []kernelCase
	for _, machine := range []string{"x86_64", "aarch64"} {
		dir := filepath.Join(testkit.Shared(t, "vectors/object-pairs"), machine)
		table, err := os.ReadFile(filepath.Join(dir, "expected.tsv"))
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range strings.Split(strings.TrimSpace(string(table)), "\n")[1:] {
			col := strings.Split(row, "\t")
			all = append(all, kernelCase{machine + "/" + col[0], filepath.Join(dir, col[0]), col[1], strings.Fields(col[2]), strings.Fields(col[3]), strings.Fields(col[4])})
		}
	}
	return all
}

func (k *kernelCase) files(t testing.TB) (orig, patched *elfpatch.File) {
	after := k.base + ".PATCHED.o"
	if _, err := os.Stat(after); err != nil {
		after = k.base + ".PATCHED.FAIL.o"
	}
	return testkit.ELF(t, k.base+".ORIG.o"), testkit.ELF(t, after)
}

// kernelVerdict is the exit class of a comparison and the functions that changed
// and are new, parts left out.
func kernelVerdict(t testing.TB, a, b *elfpatch.File) (exit string, changed, fresh []string, d *Delta) {
	t.Helper()
	d, err := Compare(a, b, Options{Name: "o", Kernel: true})
	var list refusal.List
	if errors.As(err, &list) {
		return "2", nil, nil, nil
	} else if err != nil {
		t.Fatal(err)
	}
	for _, f := range d.Funcs {
		switch {
		case f.Parent != 0:
		case f.Status == Changed:
			changed = append(changed, f.Name)
		case f.Status == New:
			fresh = append(fresh, f.Name)
		}
	}
	slices.Sort(changed)
	slices.Sort(fresh)
	switch {
	case len(d.Refusals) > 0:
		exit = "2"
	case d.Changed():
		exit = "0"
	default:
		exit = "3"
	}
	return exit, changed, fresh, d
}

// better lists the cases, by name, in which the verdict is another one than the
// table's because the table's is wrong, and why.
var better = map[string]struct {
	exit         string
	changed, new []string
	why          string
}{}

// Every case is decided as the table says.
func TestKernelVectors(t *testing.T) {
	for _, tc := range kernelCases(t) {
		if b, ok := better[tc.name]; ok {
			tc.exit, tc.changed, tc.new = b.exit, b.changed, b.new
		}
		t.Run(tc.name, func(t *testing.T) {
			a, b := tc.files(t)
			exit, changed, fresh, d := kernelVerdict(t, a, b)
			text := ""
			if d != nil {
				text = summary(d)
			}
			if exit != tc.exit {
				t.Errorf("exit class %s, want %s\n%s", exit, tc.exit, text)
			}
			if tc.exit == "0" && (!slices.Equal(changed, tc.changed) || !slices.Equal(fresh, tc.new)) {
				t.Errorf("changed %v, want %v; new %v, want %v\n%s", changed, tc.changed, fresh, tc.new, text)
			}
		})
	}
}

// Kernel objects are the same as themselves, and have an answer both ways, as
// patches too.
func TestKernelBothWays(t *testing.T) {
	for _, tc := range kernelCases(t) {
		a, b := tc.files(t)
		for _, f := range []*elfpatch.File{a, b} {
			d := kernelCompare(t, f, f)
			if d.Changed() {
				t.Errorf("%s differs from itself:\n%s", tc.name, summary(d))
			}
			for _, fn := range d.Funcs {
				if fn.Lines {
					t.Errorf("%s: %s has other lines than itself", tc.name, fn.Name)
				}
			}
		}
		for _, way := range [][2]*elfpatch.File{{a, b}, {b, a}} {
			d, err := Compare(way[0], way[1], Options{Kernel: true})
			if err != nil {
				t.Errorf("%s: %v", tc.name, err)
				continue
			}
			d.Report()
			for _, fn := range d.Funcs {
				if fn.Status == Changed && fn.Parent == 0 {
					if _, err := d.Explain(fn.Name, CutOptions{}); err != nil {
						t.Errorf("%s: %v", tc.name, err)
					}
				}
			}
		}
	}
}
