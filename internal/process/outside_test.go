//go:build linux && (amd64 || arm64)

package process

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Where there is no compiler, as in a machine that a test boots for another
// processor, the one outside is asked through a file: an order is a line of JSON,
// and so is the answer.

// order is what is to be compiled. Files are those among the arguments that lie
// outside testdata, by the place of the argument; Libraries those in the
// directories of -L, by their names.
type order struct {
	Out       string
	Args      []string
	Files     map[int][]byte
	Libraries map[string][]byte
}

// compiled is what came of it.
type compiled struct {
	File []byte
	Err  string
}

// compiledOutside has the compiler outside build a file.
func compiledOutside(t testing.TB, port, out string, args []string) string {
	t.Helper()
	o := order{Out: out, Args: args, Files: map[int][]byte{}, Libraries: map[string][]byte{}}
	for i, a := range args {
		if filepath.IsAbs(a) {
			o.Files[i] = readFile(t, a)
		}
		if dir, ok := strings.CutPrefix(a, "-L"); ok {
			libs, err := filepath.Glob(filepath.Join(dir, "*.so"))
			must(t, err)
			for _, lib := range libs {
				o.Libraries[filepath.Base(lib)] = readFile(t, lib)
			}
		}
	}
	f, err := os.OpenFile(port, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	must(t, json.NewEncoder(f).Encode(&o))
	var c compiled
	must(t, json.NewDecoder(f).Decode(&c))
	if c.Err != "" {
		t.Fatalf("compile %s: %s", out, c.Err)
	}
	path := filepath.Join(t.TempDir(), out)
	must(t, os.WriteFile(path, c.File, 0o755))
	return path
}

// compileFor answers orders until there are no more. compile returns the bytes of
// what it was asked for.
func compileFor(rw io.ReadWriter, compile func(o *order) ([]byte, error)) {
	in, out := json.NewDecoder(rw), json.NewEncoder(rw)
	for {
		var o order
		if in.Decode(&o) != nil {
			return
		}
		var c compiled
		var err error
		if c.File, err = compile(&o); err != nil {
			c.Err = err.Error()
		}
		if out.Encode(&c) != nil {
			return
		}
	}
}
