package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"livepatch/internal/testkit/vm"
)

// What is kept of an image is used for the very bytes that it was taken from, and
// compared with the image before anything is made of what was compiled.
func TestImageIdentity(t *testing.T) {
	path := filepath.Join(vm.Script(t, "kernel", "--cached", "6.12"), "vmlinuz")
	work := t.TempDir()
	file := filepath.Join(work, identityFile)
	ask := func() (kernelIdentity, error) {
		var o images
		defer o.close()
		a := o.readAhead(path)
		id, err := a.identity(work)
		if err != nil {
			t.Fatal(err)
		}
		_, err = a.keep(id, work)
		return id, err
	}
	first, err := ask()
	if err != nil || !strings.HasPrefix(first.Release, "6.12.") || !strings.HasPrefix(first.Banner, "Linux version "+first.Release+" ") {
		t.Fatalf("%+v, %v", first, err)
	}
	write := func(edit func(*kernelIdentity)) {
		t.Helper()
		id := first
		edit(&id)
		b, err := json.Marshal(id)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name    string
		edit    func(*kernelIdentity)
		release string // that is compiled for
	}{
		{"of another file", func(id *kernelIdentity) { id.SHA256, id.Release = []byte("other"), "1" }, first.Release},
		{"the same", func(*kernelIdentity) {}, first.Release},
		{"damaged", func(id *kernelIdentity) { id.Release = "1" }, "1"},
	} {
		write(c.edit)
		id, err := ask()
		if id.Release != c.release || (err == nil) != (c.release == first.Release) {
			t.Errorf("%s: %s, %v", c.name, id.Release, err)
		}
	}
	if id, err := ask(); id.Release != first.Release || err != nil {
		t.Errorf("after a damaged one: %s, %v", id.Release, err)
	}
}
