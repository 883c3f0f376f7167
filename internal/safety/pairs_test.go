package safety

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"livepatch/elfpatch/diff"
	"livepatch/elfpatch/kernel"
	"livepatch/internal/testkit"
)

// findings judges a pair of object files.
func findings(t testing.TB, name, before, after string) []Finding {
	t.Helper()
	orig, patched := testkit.ELF(t, before), testkit.ELF(t, after)
	isKernel := kernel.IsObject(orig)
	d, err := diff.Compare(orig, patched, diff.Options{Name: name, Kernel: isKernel})
	if err != nil {
		t.Skipf("not comparable: %v", err)
	}
	return Judge(Pair{Name: name, Delta: d, Kernel: isKernel})
}

// No finding about a pair of real objects refuses it: none of them changes a
// type or how a function is called.
func TestPairs(t *testing.T) {
	list, err := filepath.Glob(filepath.Join(testkit.Shared(t, "vectors/object-pairs"), "*", "*.ORIG.o"))
	if err != nil || len(list) == 0 {
		t.Fatalf("no pairs (%v)", err)
	}
	for _, before := range list {
		name := strings.TrimSuffix(filepath.Base(before), ".ORIG.o")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			after := strings.TrimSuffix(before, ".ORIG.o") + ".PATCHED.o"
			if _, err := os.Stat(after); err != nil {
				after = strings.TrimSuffix(after, ".o") + ".FAIL.o"
			}
			for _, f := range findings(t, name, before, after) {
				if f.Level == Refuse {
					t.Errorf("%v", f.Refusal())
				} else {
					t.Logf("%d %v", f.Level, f.Refusal())
				}
			}
		})
	}
}
