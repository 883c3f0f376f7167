package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	for _, text := range []string{"first", "second"} {
		if err := writeFile(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		b, err := readFile(path)
		if err != nil || string(b) != text {
			t.Errorf("read %q, error %v", b, err)
		}
	}
	onlyFile(t, dir, "out")
}

// A file that cannot be written leaves nothing behind, and the error names it.
func TestWriteFileFails(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "out", "full"), 0o755); err != nil {
		t.Fatal(err)
	}
	err := writeFile(filepath.Join(dir, "out"), []byte("x"))
	if err == nil || !strings.HasPrefix(err.Error(), "write "+filepath.Join(dir, "out")+": ") {
		t.Errorf("error %v", err)
	}
	onlyFile(t, dir, "out")
	err = writeFile(filepath.Join(dir, "none", "out"), []byte("x"))
	if err == nil || !strings.HasSuffix(err.Error(), "none/out: no such file or directory") {
		t.Errorf("error %v", err)
	}
}

func onlyFile(t *testing.T, dir, name string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 || entries[0].Name() != name {
		t.Errorf("directory holds %v, not only %s", entries, name)
	}
}

func TestReadFileNamesPath(t *testing.T) {
	_, err := readFile("/nonexistent/x")
	if err == nil || err.Error() != "read /nonexistent/x: no such file or directory" {
		t.Errorf("error %v", err)
	}
}
