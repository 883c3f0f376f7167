// Package testkit is what the tests of several packages need: programs and
// files that may be missing on a developer's machine but not in CI.
package testkit

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
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

// Shared finds a file or directory beside the checkout, or where
// LIVEPATCH_SHARED says. The path is absolute.
func Shared(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("LIVEPATCH_SHARED")
	if dir == "" {
		root, err := filepath.Abs(".")
		if err != nil {
			t.Fatal(err)
		}
		for !exists(filepath.Join(root, "go.mod")) && root != filepath.Dir(root) {
			root = filepath.Dir(root)
		}
		dir = filepath.Join(filepath.Dir(root), "shared")
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
