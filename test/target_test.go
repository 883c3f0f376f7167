//go:build linux && amd64

package test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"livepatch/internal/build"
	"livepatch/internal/image"
	"livepatch/internal/pack"
)

// objectPair names DIR/NAME.before.o and DIR/NAME.after.o.
func objectPair(dir, name string) [2]string {
	return [2]string{filepath.Join(dir, name+".before.o"), filepath.Join(dir, name+".after.o")}
}

// createPackage makes a package for the program from pairs of objects, writes it
// and reads it back.
func createPackage(t testing.TB, name, program string, pairs ...[2]string) *pack.Package {
	t.Helper()
	target := build.Target{Name: filepath.Base(program), File: openImage(t, program).File}
	for _, p := range pairs {
		target.Pairs = append(target.Pairs, build.Pair{
			OrigName: filepath.Base(p[0]), PatchedName: filepath.Base(p[1]),
			Orig: openImage(t, p[0]).File, Patched: openImage(t, p[1]).File,
		})
	}
	made, err := build.Create(build.Inputs{Name: name, Version: "test", Targets: []build.Target{target}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := pack.Write(made)
	if err != nil {
		t.Fatal(err)
	}
	pkg, err := pack.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return pkg
}

func openImage(t testing.TB, path string) *image.Image {
	t.Helper()
	img, err := image.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close() })
	return img
}

// executablePages returns the SHA-256 of the executable mappings of each file
// in a process, as they are in memory.
func executablePages(t *testing.T, pid int) map[string][32]byte {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	sums := map[string][32]byte{}
	for line := range strings.Lines(string(maps)) {
		f := strings.Fields(line)
		if len(f) < 6 || f[1][2] != 'x' || !strings.HasPrefix(f[5], "/") {
			continue
		}
		var lo, hi int64
		if _, err := fmt.Sscanf(f[0], "%x-%x", &lo, &hi); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		b := make([]byte, hi-lo)
		if _, err := mem.ReadAt(b, lo); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		old := sums[f[5]]
		sums[f[5]] = sha256.Sum256(append(old[:], b...))
	}
	return sums
}

// comparePages checks that no file's code changed.
func comparePages(t *testing.T, want, got map[string][32]byte) {
	t.Helper()
	if len(want) == 0 || len(want) != len(got) {
		t.Errorf("%d files with code, want %d", len(got), len(want))
	}
	for path, sum := range want {
		if got[path] != sum {
			t.Errorf("%s: the code in memory is not as before", path)
		}
	}
}
