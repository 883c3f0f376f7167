package test

import (
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const binaries = "../testdata/binaries"

// A row of testdata/binaries/MANIFEST.tsv.
type row struct{ file, digest, command string }

func readManifest(t *testing.T) []row {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(binaries, "MANIFEST.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	var rows []row
	for i, line := range strings.Split(strings.TrimSuffix(string(b), "\n"), "\n") {
		f := strings.Split(line, "\t")
		if len(f) != 3 {
			t.Fatalf("MANIFEST.tsv:%d: %d fields, want 3", i+1, len(f))
		}
		if f[0] != "# tool" && f[0] != "file" {
			rows = append(rows, row{f[0], f[1], f[2]})
		}
	}
	return rows
}

// Every file is what scripts/build-testdata recorded, and none is without a
// record: neither a binary nor a source.
func TestBinariesAreAsRecorded(t *testing.T) {
	var listed []string
	for _, r := range readManifest(t) {
		path := filepath.Join(binaries, r.file)
		listed = append(listed, path)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
			continue
		}
		if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != r.digest {
			t.Errorf("%s: SHA-256 is %x, recorded is %s; run scripts/build-testdata", path, sum, r.digest)
		}
	}
	for _, dir := range []string{binaries, "../testdata/src", "../internal/demo/files"} {
		for _, path := range filesBelow(t, dir) {
			if !slices.Contains(listed, path) && filepath.Base(path) != "MANIFEST.tsv" {
				t.Errorf("%s is not in MANIFEST.tsv", path)
			}
		}
	}
}

func filesBelow(t *testing.T, dir string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// The committed binaries stay small enough for a repository.
func TestBinariesAreSmall(t *testing.T) {
	var sum int64
	for _, path := range filesBelow(t, binaries) {
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		sum += fi.Size()
	}
	if sum > 3<<20 {
		t.Errorf("testdata/binaries has %d bytes, more than 3 MiB", sum)
	}
}
