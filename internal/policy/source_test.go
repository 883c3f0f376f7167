package policy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

const root = "../.."

// A source is one Go file of the tree that is not a test.
type source struct {
	dir, name string // slash-separated, from the root of the module
	fset      *token.FileSet
	file      *ast.File
	lines     int
}

// walk calls f for every file of the tree but those of version control and
// hidden directories other than .ci.
func walk(t *testing.T, f func(name string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		hidden := strings.HasPrefix(d.Name(), ".") && rel != "." && d.Name() != ".ci"
		switch {
		case d.IsDir() && (hidden || rel == "dist"):
			return filepath.SkipDir
		case d.Type().IsRegular() && !hidden:
			f(filepath.ToSlash(rel))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	walk(t, func(name string) {
		inTestdata := strings.HasPrefix(name, "testdata/") || strings.Contains(name, "/testdata/")
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") || inTestdata {
			return
		}
		b := read(t, name)
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, name, b, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, source{path.Dir(name), name, fset, f, strings.Count(string(b), "\n")})
	})
	if len(all) == 0 {
		t.Fatal("no sources found")
	}
	return all
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
