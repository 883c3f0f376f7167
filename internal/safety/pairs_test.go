package safety

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"livepatch/elfpatch/diff"
	"livepatch/elfpatch/kernel"
	"livepatch/internal/refusal"
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

// script runs a script of the project that makes objects, and returns its lines.
func script(t *testing.T, args ...string) []string {
	t.Helper()
	if os.Getenv("CI") == "" {
		args = append(args, "--cached")
	}
	cmd := exec.Command(filepath.Join(testkit.Root(t), args[0]), args[1:]...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return strings.Split(strings.TrimSpace(string(out)), "\n")
	case errors.As(err, &exit) && exit.ExitCode() == 3:
		testkit.Missing(t, "%s: %s", args[0], bytes.TrimSpace(stderr.Bytes()))
	}
	t.Fatalf("%s: %v\n%s", args[0], err, stderr.Bytes())
	return nil
}

// The patches of test/kernel and of redis change what functions do, and nothing that is
// shared: none is refused or warned of. The objects describe their types.
func TestPatches(t *testing.T) {
	for _, series := range []string{"6.1", "6.12"} {
		t.Run(series, func(t *testing.T) {
			n := 0
			for _, line := range script(t, "scripts/kernel-objects", "--kernel", series, "--cases") {
				name, dir, _ := strings.Cut(line, " ")
				for pair := range strings.Lines(string(testkit.Read(t, filepath.Join(dir, "pairs")))) {
					file := strings.Fields(pair)[0]
					n++
					for _, f := range findings(t, file, filepath.Join(dir, "before", file), filepath.Join(dir, "after", file)) {
						if f.Level != Note || f.Code == refusal.TypesNotCompared {
							t.Errorf("%s: %v", name, f.Refusal())
						}
					}
				}
			}
			if n < 10 {
				t.Errorf("%d pairs", n)
			}
		})
	}
	t.Run("redis", func(t *testing.T) {
		dir := script(t, "scripts/redis-objects")[0]
		for _, file := range []string{"db", "t_string"} {
			for _, f := range findings(t, file+".o", filepath.Join(dir, file+".before.o"), filepath.Join(dir, file+".after.o")) {
				if f.Level != Note {
					t.Errorf("%v", f.Refusal())
				}
			}
		}
	})
}
