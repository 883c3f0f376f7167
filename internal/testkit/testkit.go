// Package testkit is what the tests of several packages need: programs and
// files that may be missing on a developer's machine but not in CI.
package testkit

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"livepatch/elfpatch"
)

// Missing ends a test that cannot run here: a failure where CI is set, for
// there everything is to be installed, else a skip.
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// Tool finds a program that a test needs.
func Tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Missing(t, "%s is not installed", name)
	}
	return path
}

// Compiler finds the C compiler for a machine.
func Compiler(t testing.TB, m elf.Machine) string {
	t.Helper()
	if m == elf.EM_AARCH64 {
		return Tool(t, "aarch64-linux-gnu-gcc")
	}
	return Tool(t, "gcc")
}

// Run runs a program that has to succeed.
func Run(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// Read returns the bytes of a file.
func Read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// ELF reads an ELF file.
func ELF(t testing.TB, path string) *elfpatch.File {
	t.Helper()
	f, err := elfpatch.Parse(Read(t, path))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return f
}

// Root is the directory of the source tree, as an absolute path.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	for !exists(filepath.Join(dir, "go.mod")) {
		if dir == filepath.Dir(dir) {
			t.Fatal("the test does not run below go.mod")
		}
		dir = filepath.Dir(dir)
	}
	return dir
}

// Shared finds a file or directory beside the checkout, or where
// LIVEPATCH_SHARED says. The path is absolute.
func Shared(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("LIVEPATCH_SHARED")
	if dir == "" {
		dir = filepath.Join(filepath.Dir(Root(t)), "shared")
	}
	path := filepath.Join(dir, name)
	if !exists(path) {
		Missing(t, "shared/%s is not beside the checkout", name)
	}
	return path
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
