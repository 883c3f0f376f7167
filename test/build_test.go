//go:build linux && amd64

package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"livepatch/internal/pack"
	"livepatch/internal/testkit/vm"
)

// programFiles returns the directory that scripts/program-objects made of a
// package of Debian, with at least the objects that programs/objects names.
func programFiles(t *testing.T, name string) string {
	t.Helper()
	list, err := os.ReadFile("programs/objects")
	if err != nil {
		t.Fatal(err)
	}
	var args []string
	for line := range strings.Lines(string(list)) {
		if f := strings.Fields(line); len(f) > 0 && f[0] == name {
			args = f
		}
	}
	if os.Getenv("CI") == "" {
		args = append([]string{"--cached"}, args...)
	}
	return vm.Script(t, "program-objects", args...)
}

// livepatchProgram builds the program, once for all tests.
func livepatchProgram(t *testing.T) string {
	t.Helper()
	path, err := livepatchOnce()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// builtIn is where the program is built; TestMain removes it.
var builtIn string

var livepatchOnce = sync.OnceValues(func() (path string, err error) {
	if builtIn, err = os.MkdirTemp("", "livepatch-test-"); err != nil {
		return "", err
	}
	path = filepath.Join(builtIn, "livepatch")
	if out, err := exec.Command("go", "build", "-o", path, "livepatch/cmd/livepatch").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build livepatch: %w\n%s", err, out)
	}
	return path, nil
})

// buildPackage runs livepatch build and reads the package.
func buildPackage(t *testing.T, patch, source, dir, target string) *pack.Package {
	t.Helper()
	program := livepatchProgram(t)
	file := filepath.Join(t.TempDir(), strings.TrimSuffix(filepath.Base(patch), ".patch")+".lpatch")
	out, err := exec.Command(program, "build", "-o", file, "--patch", patch, "--src", source,
		"--compdb", filepath.Join(dir, "compile_commands.json"), "--target", target).CombinedOutput()
	if err != nil {
		t.Fatalf("livepatch build: %v\n%s", err, out)
	}
	t.Logf("%s", out)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pkg, err := pack.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return pkg
}

// shares reports whether a package uses a variable of its target.
func shares(pkg *pack.Package, name string) bool {
	for _, v := range pkg.Manifest.Targets[0].Variables {
		if v.Name == name {
			return true
		}
	}
	return false
}
