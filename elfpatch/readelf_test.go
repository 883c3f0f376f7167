package elfpatch_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/testkit"
)

// offsets are the parts of `readelf -aW` output that say where something is in
// the file, and the sizes of the string tables that are made anew.
var offsets = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`(Start of section headers: +)\d+`), "${1}N"},
	{regexp.MustCompile(`(There are \d+ section headers, starting at offset )0x[0-9a-f]+`), "${1}N"},
	{regexp.MustCompile(`(Relocation section .* at offset )0x[0-9a-f]+`), "${1}N"},
	{regexp.MustCompile(`(?m)^( +\[ *\d+\] .*(?:STRTAB) +[0-9a-f]{16} )[0-9a-f]{6,} [0-9a-f]{6,}`), "${1}N N"},
	{regexp.MustCompile(`(?m)^( +\[ *\d+\] .* [0-9a-f]{16} )[0-9a-f]{6,}( [0-9a-f]{6,} [0-9a-f]{2,} [ WAXMSILOGTCxoEDlRp]+\d+ +\d+ +\d+)$`), "${1}N${2}"},
}

func readelf(t testing.TB, path string) string {
	t.Helper()
	cmd := exec.Command("readelf", "-aW", path)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var warnings bytes.Buffer
	cmd.Stderr = &warnings
	out, err := cmd.Output()
	if len(out) == 0 {
		t.Fatalf("readelf %s: %v\n%s", path, err, warnings.Bytes())
	}
	// Separate debug files and odd ones get warnings; they have to be the same.
	s := fmt.Sprintf("%s%s%v", out, warnings.Bytes(), err)
	s = strings.ReplaceAll(s, path, "FILE")
	for _, o := range offsets {
		s = o.pattern.ReplaceAllString(s, o.with)
	}
	return s
}

// firstDifference shows the first line in which two texts part.
func firstDifference(a, b string) string {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := 0; i < len(x) || i < len(y); i++ {
		var p, q string
		if i < len(x) {
			p = x[i]
		}
		if i < len(y) {
			q = y[i]
		}
		if p != q {
			return fmt.Sprintf("line %d:\n-%s\n+%s", i+1, p, q)
		}
	}
	return ""
}

// rewrite reads a file, lays it out anew and leaves the result in dir.
func rewrite(t testing.TB, path, dir string) (string, []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := elfpatch.Parse(b)
	if err != nil {
		t.Errorf("%s: %v", path, err)
		return "", nil
	}
	out, err := f.Bytes()
	if err != nil {
		t.Errorf("%s: %v", path, err)
		return "", nil
	}
	to := filepath.Join(dir, "rewritten.o")
	if err := os.WriteFile(to, out, 0o755); err != nil {
		t.Fatal(err)
	}
	return to, out
}

func checkRewrite(t testing.TB, path string) {
	t.Helper()
	to, out := rewrite(t, path, t.TempDir())
	if out == nil {
		return
	}
	if d := firstDifference(readelf(t, path), readelf(t, to)); d != "" {
		t.Errorf("%s: rewritten, readelf -aW differs in more than offsets: %s", path, d)
	}
}

// TestRewriteSamples covers what this machine has: programs, libraries,
// objects, debug files, and the binaries of the tree.
func TestRewriteSamples(t *testing.T) {
	testkit.Tool(t, "readelf")
	files := sampleFiles(t)
	t.Logf("%d files", len(files))
	for _, path := range files {
		checkRewrite(t, path)
	}
}

func TestRewriteVectors(t *testing.T) {
	testkit.Tool(t, "readelf")
	paths, err := filepath.Glob(filepath.Join(testkit.Shared(t, "vectors/object-pairs"), "*", "*.o"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no object pairs: %v", err)
	}
	for _, p := range paths {
		checkRewrite(t, p)
	}
}
