//go:build linux && amd64

package test

import (
	"os"
	"testing"

	"livepatch/internal/pack"
	"livepatch/internal/process"
)

// soak is how many rounds a program is patched in under load.
func soak(t *testing.T) int {
	switch {
	case os.Getenv("LIVEPATCH_SLOW") != "":
		return 1000
	case testing.Short():
		return 6
	}
	return 30
}

// renamed is the same patch under another name: another patch to the loader.
func renamed(pkg *pack.Package, name string) *pack.Package {
	m := *pkg.Manifest
	m.Name = name
	return &pack.Package{Manifest: &m, Members: pkg.Members}
}

// patchMemory is the number of bytes that patches occupy in a process.
func patchMemory(t *testing.T, pid int) (sum uint64) {
	t.Helper()
	status, err := process.Status(pid)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range status.Patches {
		sum += p.Size
	}
	return sum
}
