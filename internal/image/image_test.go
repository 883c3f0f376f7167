package image

import (
	"debug/elf"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

const programs = "../../testdata/binaries/x86_64-gcc"

func TestOpenReadsAndMapsTheSame(t *testing.T) {
	path := filepath.Join(programs, "prog")
	read, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	if read.mapped || read.File.Machine != elf.EM_X86_64 || read.Path != path {
		t.Errorf("mapped %v, machine %v, path %s", read.mapped, read.File.Machine, read.Path)
	}
	mapped, err := open(path, 1)
	if err != nil {
		t.Fatal(err)
	}
	if want := runtime.GOOS != "windows"; mapped.mapped != want {
		t.Errorf("mapped = %v, want %v", mapped.mapped, want)
	}
	if string(read.Bytes) != string(mapped.Bytes) || len(mapped.File.Symbols) != len(read.File.Symbols) {
		t.Error("the mapped file is not the file that was read")
	}
	if err := mapped.Close(); err != nil || mapped.Close() != nil {
		t.Error("closing, twice:", err)
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, c := range []struct{ path, want string }{
		{filepath.Join(dir, "none"), "none"},
		{dir, "not a regular file"},
		{write("empty", ""), "read " + filepath.Join(dir, "empty") + ": "},
		{write("text", strings.Repeat("no ELF file ", 20)), "read " + filepath.Join(dir, "text") + ": "},
	} {
		if img, err := Open(c.path); err == nil {
			img.Close()
			t.Errorf("%s: no error", c.path)
		} else if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %q does not say %q", c.path, err, c.want)
		}
	}
	if _, err := Open(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

// A file that is shortened under its map faults; Guard makes that an error.
func TestGuardTurnsFaultsIntoErrors(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("faults of maps are tested on linux")
	}
	path := filepath.Join(t.TempDir(), "prog")
	copyFile(t, filepath.Join(programs, "prog"), path)
	img, err := open(path, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	var sum byte
	err = Guard(func() error {
		for _, b := range img.Bytes {
			sum += b
		}
		return nil
	})
	var fault *FaultError
	if !errors.As(err, &fault) {
		t.Fatalf("reading a file that was shortened: %v", err)
	}
}

func TestGuardPassesTheRestThrough(t *testing.T) {
	want := errors.New("something else")
	if err := Guard(func() error { return want }); err != want {
		t.Errorf("Guard returned %v", err)
	}
	defer func() {
		if r := recover(); r != "mine" {
			t.Errorf("recovered %v", r)
		}
	}()
	Guard(func() error { panic("mine") })
}

func TestFindDebug(t *testing.T) {
	for _, c := range []struct {
		name  string
		place func(t *testing.T, dir string, img *Image) string // where prog.debug goes
	}{
		{"beside", func(t *testing.T, dir string, img *Image) string { return filepath.Join(dir, "prog.debug") }},
		{".debug", func(t *testing.T, dir string, img *Image) string { return filepath.Join(dir, ".debug", "prog.debug") }},
		{"below", func(t *testing.T, dir string, img *Image) string { return filepath.Join(dir, "d", dir, "prog.debug") }},
		{"build-id", func(t *testing.T, dir string, img *Image) string {
			id, err := img.File.BuildID()
			if err != nil || len(id) != 20 {
				t.Fatalf("build-id %x: %v", id, err)
			}
			h := hex.EncodeToString(id)
			return filepath.Join(dir, "d", ".build-id", h[:2], h[2:]+".debug")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, img := strippedProgram(t)
			if dbg, err := FindDebug(img, filepath.Join(dir, "d")); !errors.Is(err, ErrNoDebug) {
				t.Fatalf("nothing there yet: %v, %v", dbg, err)
			}
			path := c.place(t, dir, img)
			copyFile(t, filepath.Join(programs, "prog.debug"), path)
			dbg, err := FindDebug(img, filepath.Join(dir, "d"))
			if err != nil {
				t.Fatal(err)
			}
			defer dbg.Close()
			if dbg.Path != path || dbg.File.Symbols == nil {
				t.Errorf("found %s with %d symbols", dbg.Path, len(dbg.File.Symbols))
			}
		})
	}
}

// A debug file of another build, or one whose bytes changed, is not taken.
func TestFindDebugRefusesOthers(t *testing.T) {
	for _, c := range []struct{ name, from, want string }{
		{"other build", "../../testdata/binaries/x86_64-clang/prog.debug", "build-id"},
		{"other machine", "../../testdata/binaries/aarch64-gcc/prog.debug", "is for EM_AARCH64"},
		{"other bytes", filepath.Join(programs, "prog"), "checksum"},
		{"no ELF file", "image_test.go", "read "},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, img := strippedProgram(t)
			copyFile(t, c.from, filepath.Join(dir, "prog.debug"))
			dbg, err := FindDebug(img, dir)
			if !errors.Is(err, ErrNoDebug) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("found %v, error %v, want one that says %q", dbg, err, c.want)
			}
		})
	}
}

func strippedProgram(t *testing.T) (dir string, img *Image) {
	t.Helper()
	dir = t.TempDir()
	path := filepath.Join(dir, "prog")
	copyFile(t, filepath.Join(programs, "prog.stripped"), path)
	img, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close() })
	return dir, img
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o666); err != nil {
		t.Fatal(err)
	}
}
