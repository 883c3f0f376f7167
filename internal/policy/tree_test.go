package policy

import (
	"bytes"
	"go/format"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestReadmeLength(t *testing.T) {
	if n := bytes.Count(read(t, "README.md"), []byte("\n")); n > maxReadme {
		t.Errorf("README.md has %d lines, more than %d", n, maxReadme)
	}
}

// The tree speaks of itself only: no path of the machine that it was written
// on. Tests may look for test vectors beside the tree.
func TestNoForeignPaths(t *testing.T) {
	slash := "/"
	for _, word := range []string{slash + "work" + slash, slash + "tmp" + slash + "w" + slash, ".." + slash + "shared", slash + "root" + slash} {
		walk(t, func(name string) {
			if strings.HasSuffix(name, "_test.go") {
				return
			}
			b := read(t, name)
			if bytes.IndexByte(b[:min(len(b), 8000)], 0) >= 0 {
				return // not text
			}
			if i := bytes.Index(b, []byte(word)); i >= 0 {
				t.Errorf("%s: line %d mentions %s", name, 1+bytes.Count(b[:i], []byte("\n")), word)
			}
		})
	}
}

// THIRD_PARTY.md has a row for every module that go.mod requires, with its
// version; a module that is only needed by tests is said to be.
func TestThirdParty(t *testing.T) {
	doc := string(read(t, "THIRD_PARTY.md"))
	rows := 0
	for _, line := range strings.Split(string(read(t, "go.mod")), "\n") {
		f := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
		if len(f) < 2 || !strings.HasPrefix(f[1], "v") || !strings.Contains(f[0], ".") {
			continue
		}
		rows++
		if !strings.Contains(doc, "| "+f[0]+" | "+f[1]+" |") {
			t.Errorf("THIRD_PARTY.md has no row for %s %s", f[0], f[1])
		}
	}
	if rows == 0 {
		t.Error("go.mod requires nothing, which cannot be")
	}
	if n := strings.Count(doc, "\n| ") - strings.Count(doc, "\n| module |"); n != rows {
		t.Errorf("THIRD_PARTY.md has %d rows, go.mod requires %d modules", n, rows)
	}
}

func TestLicence(t *testing.T) {
	if b := read(t, "LICENSE"); !bytes.Contains(b, []byte("Apache License")) || !bytes.Contains(b, []byte("END OF TERMS AND CONDITIONS")) {
		t.Error("LICENSE is not the whole Apache License 2.0")
	}
}

// ARCHITECTURE.md has a row for every package.
func TestArchitectureNamesPackages(t *testing.T) {
	doc := string(read(t, "ARCHITECTURE.md"))
	for dir := range imports {
		if !strings.Contains(doc, "| `"+dir+"` |") {
			t.Errorf("ARCHITECTURE.md has no row for %s", dir)
		}
	}
}

// Every Go file is as gofmt leaves it.
func TestFormatted(t *testing.T) {
	walk(t, func(name string) {
		if !strings.HasSuffix(name, ".go") {
			return
		}
		b := read(t, name)
		if out, err := format.Source(b); err != nil || !bytes.Equal(out, b) {
			t.Errorf("%s: not formatted (error %v)", name, err)
		}
	})
}

var link = regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)

// A link from one document to a file of the tree leads somewhere.
func TestLinks(t *testing.T) {
	walk(t, func(name string) {
		if !strings.HasSuffix(name, ".md") {
			return
		}
		for _, m := range link.FindAllStringSubmatch(string(read(t, name)), -1) {
			if _, err := os.Stat(filepath.Join(root, path.Dir(name), m[1])); err != nil {
				t.Errorf("%s: link to %s: %v", name, m[1], err)
			}
		}
	})
}

// Pure packages build for other systems and for a big-endian machine. The
// first run compiles the standard library for each, so -short leaves it out.
func TestPureBuildsEverywhere(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles the standard library for three systems; .ci/run does not use -short")
	}
	pure := []string{"./cmd/livepatch"} // not pure, but of use there: it reads files
	for dir := range imports {
		if !slices.Contains(machine, dir) {
			pure = append(pure, "./"+dir)
		}
	}
	slices.Sort(pure)
	for _, host := range []string{"darwin/arm64", "windows/amd64", "linux/s390x"} {
		goos, goarch, _ := strings.Cut(host, "/")
		cmd := exec.Command("go", append([]string{"build"}, pure...)...)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "GOOS="+goos, "GOARCH="+goarch, "CGO_ENABLED=0", "GOFLAGS=-mod=readonly")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", host, err, out)
		}
	}
}
