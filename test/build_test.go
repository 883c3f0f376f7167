//go:build linux && amd64

package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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

// buildPackage runs livepatch build and reads the package.
func buildPackage(t *testing.T, patch, source, dir, target string) *pack.Package {
	t.Helper()
	tmp := t.TempDir()
	program := filepath.Join(tmp, "livepatch")
	if out, err := exec.Command("go", "build", "-o", program, "livepatch/cmd/livepatch").CombinedOutput(); err != nil {
		t.Fatalf("build livepatch: %v\n%s", err, out)
	}
	file := filepath.Join(tmp, strings.TrimSuffix(filepath.Base(patch), ".patch")+".lpatch")
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
