package modcheck

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"livepatch/internal/check"
	"livepatch/internal/kimage"
	"livepatch/internal/testkit/vm"
)

// What is asked of any module, livepatch or not, is answered with yes by those
// of a distribution: every eighth, and all of them with LIVEPATCH_SLOW=1. Kernels that the
// tests do not fetch are added by their directories in LIVEPATCH_KERNELS.
func TestModulesOfDebian(t *testing.T) {
	kernels := map[string]func(testing.TB) *vm.Kernel{}
	for _, args := range [][]string{{"6.1"}, {"6.12"}, {"--arch", "arm64", "6.12"}} {
		kernels[strings.Join(args, " ")] = func(t testing.TB) *vm.Kernel { return vm.Fetched(t, args...) }
	}
	for path := range strings.FieldsSeq(os.Getenv("LIVEPATCH_KERNELS")) {
		kernels[filepath.Base(path)] = func(t testing.TB) *vm.Kernel {
			k, err := vm.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			return k
		}
	}
	for name, kernel := range kernels {
		t.Run(name, func(t *testing.T) {
			dir := kernel(t)
			k, err := kimage.Parse(readFile(t, dir.Path("vmlinuz")))
			if err != nil {
				t.Fatal(err)
			}
			exports, err := kimage.ParseSymvers(readFile(t, dir.Path("headers/Module.symvers")))
			if err != nil {
				t.Fatal(err)
			}
			target := newTarget(Set{Kernel: k, Exports: exports}, k.Machine)
			files := modulesIn(t, dir.Path("modules"))
			for i, path := range files {
				if i%8 == 0 || os.Getenv("LIVEPATCH_SLOW") != "" {
					auditModule(t, target, path)
				}
			}
			t.Logf("%d modules", len(files))
		})
	}
}

// beyond are modules with operands that lie far outside of what they count
// from: constants in code that is never reached.
var beyond = []string{"kvm-intel.ko"}

func auditModule(t *testing.T, target *target, path string) {
	t.Helper()
	m, err := open(readFile(t, path))
	if err != nil {
		t.Errorf("%s: %v", path, err)
		return
	}
	c := &checker{module: m, title: m.moduleName(), target: target, report: &check.Report{}, refused: map[string]int{}, text: map[int]*text{}}
	c.checkSections()
	c.checkKernel()
	c.checkSymbols()
	c.checkImports()
	c.checkText()
	c.checkRelocations()
	c.checkTables()
	c.checkEntries()
	c.checkUnwind()
	name, _, _ := strings.Cut(filepath.Base(path), ".")
	for _, r := range c.report.Results {
		if r.Status == check.Refused && !(r.What == whatRelocation && slices.Contains(beyond, name+".ko")) {
			t.Errorf("%s: %s %s: %s [%s]", name, r.What, r.Where, r.Text, r.Code)
		}
	}
}

func modulesIn(t *testing.T, dir string) []string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.Contains(d.Name(), ".ko") {
			list = append(list, path)
		}
		return err
	})
	if err != nil || len(list) < 500 {
		t.Fatalf("%d modules in %s, error %v", len(list), dir, err)
	}
	return list
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
