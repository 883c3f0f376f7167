package diff

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/testkit"
)

// A case of the corpus: an object before and after a change.
type pairFiles struct{ name, before, after string }

func testdataPairs(t testing.TB) []pairFiles {
	t.Helper()
	var all []pairFiles
	root := filepath.Join("..", "..", "testdata", "binaries")
	found, err := filepath.Glob(filepath.Join(root, "*", "*.before.o"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no objects in %s (%v)", root, err)
	}
	for _, before := range found {
		name, _ := filepath.Rel(root, strings.TrimSuffix(before, ".before.o"))
		all = append(all, pairFiles{name, before, strings.TrimSuffix(before, ".before.o") + ".after.o"})
	}
	return all
}

func vectorPairs(t testing.TB) []pairFiles {
	t.Helper()
	root := testkit.Shared(t, "vectors/object-pairs")
	found, err := filepath.Glob(filepath.Join(root, "*", "*.ORIG.o"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no objects in %s (%v)", root, err)
	}
	var all []pairFiles
	for _, before := range found {
		base := strings.TrimSuffix(before, ".ORIG.o")
		name, _ := filepath.Rel(root, base)
		after := base + ".PATCHED.o"
		if _, err := os.Stat(after); err != nil {
			after = base + ".PATCHED.FAIL.o"
		}
		all = append(all, pairFiles{name, before, after})
	}
	return all
}

func summary(d *Delta) string {
	var b strings.Builder
	for _, f := range d.Funcs {
		if f.Status != Same {
			b.WriteString(string(f.Status) + " " + f.Name)
			if f.Why != nil {
				b.WriteString(": " + f.Why.String())
			}
			b.WriteString("\n")
		}
	}
	for _, v := range d.Data {
		if v.Status != Same {
			b.WriteString(string(v.Status) + " data " + v.Name)
			if v.Why != nil {
				b.WriteString(": " + v.Why.String())
			}
			b.WriteString("\n")
		}
	}
	for _, r := range d.Refusals {
		b.WriteString(r.Error() + "\n")
	}
	return b.String()
}

func TestCompareWithItself(t *testing.T) {
	pairs := append(testdataPairs(t), vectorPairs(t)...)
	for _, p := range pairs {
		for _, path := range []string{p.before, p.after} {
			f := testkit.ELF(t, path)
			d, err := Compare(f, f, Options{})
			if err != nil {
				t.Errorf("%s: %v", path, err)
				continue
			}
			if s := summary(d); s != "" {
				t.Errorf("%s differs from itself:\n%s", path, s)
			}
		}
	}
}

// Whatever is compared with whatever, forwards or backwards, there is an answer;
// what is cut is well formed. Kernel objects are cut too, as far as the rules of
// programs go.
func TestPairsBothWays(t *testing.T) {
	pairs := append(testdataPairs(t), vectorPairs(t)...)
	for _, p := range pairs {
		a, b := testkit.ELF(t, p.before), testkit.ELF(t, p.after)
		for _, way := range [][2]*elfpatch.File{{a, b}, {b, a}} {
			d, err := Compare(way[0], way[1], Options{})
			if err != nil {
				t.Errorf("%s: %v", p.name, err)
				continue
			}
			t.Logf("%s\n%s", p.name, summary(d))
			if cut, err := d.Cut(); err == nil {
				wellFormed(t, cut)
			}
		}
	}
}

// What the kernel's vectors say is found: functions that changed and that are
// new, apart from those that only differ in line numbers.
func TestVectorsFindChanges(t *testing.T) {
	for _, machine := range []string{"x86_64", "aarch64"} {
		dir := filepath.Join(testkit.Shared(t, "vectors/object-pairs"), machine)
		table, err := os.ReadFile(filepath.Join(dir, "expected.tsv"))
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range strings.Split(strings.TrimSpace(string(table)), "\n")[1:] {
			col := strings.Split(row, "\t")
			if col[1] != "0" {
				continue
			}
			base := filepath.Join(dir, col[0])
			d, err := Compare(testkit.ELF(t, base+".ORIG.o"), testkit.ELF(t, base+".PATCHED.o"), Options{})
			if err != nil {
				t.Errorf("%s: %v", col[0], err)
				continue
			}
			got := map[string]Status{}
			for _, f := range d.Funcs {
				got[stem(f.Name)] = f.Status
			}
			for i, want := range map[int]Status{2: Changed, 3: New} {
				for _, name := range strings.Fields(col[i]) {
					if got[stem(name)] != want {
						t.Errorf("%s/%s: %s is %s, want %s", machine, col[0], name, got[stem(name)], want)
					}
				}
			}
		}
	}
}
