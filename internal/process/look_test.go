//go:build linux && (amd64 || arm64)

package process

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"livepatch/internal/testkit"
)

// What it costs to look at a process, and to ask whether it is the same.
func BenchmarkLook(b *testing.B) {
	cmd := exec.Command("/bin/sleep", "1000")
	must(b, cmd.Start())
	b.Cleanup(func() { testkit.End(b, cmd) })
	b.Run("look", func(b *testing.B) {
		for b.Loop() {
			must(b, Look(cmd.Process.Pid, func(*Seen) {}))
		}
	})
	b.Run("identify", func(b *testing.B) {
		for b.Loop() {
			_, err := Identify(cmd.Process.Pid)
			must(b, err)
		}
	})
}

// A process is seen with its library, and is seen to run it still when the file
// is gone or another one is in its place.
func TestLookAtDeletedLibrary(t *testing.T) {
	lib := compile(t, "libanswer.so", "-shared", "-fPIC", "libanswer.c")
	dir := filepath.Dir(lib)
	user := compile(t, "user", "-L"+dir, "-Wl,-rpath,"+dir, "libuser.c", "-lanswer")
	s := start(t, user)
	look := func(want ...string) {
		t.Helper()
		must(t, Look(s.pid, func(seen *Seen) {
			if !slices.Equal(seen.Deleted, want) || seen.Command != "user" || seen.Images[0].Name != "user" {
				t.Errorf("deleted %q, want %q; %s runs %s", seen.Deleted, want, seen.Command, seen.Images[0].Name)
			}
			if !slices.ContainsFunc(seen.Images, func(im SeenImage) bool { return strings.HasPrefix(im.Name, "libanswer.so") }) {
				t.Errorf("no library among %+v", seen.Images)
			}
		}))
	}
	look()
	must(t, os.Rename(lib, lib+".old"))
	look() // it has a name still
	must(t, os.Remove(lib+".old"))
	look(lib + ".old")
	must(t, os.WriteFile(lib+".old", nil, 0o644))
	look(lib + ".old")
}
