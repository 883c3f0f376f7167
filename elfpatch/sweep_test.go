package elfpatch_test

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"flag"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"livepatch/elfpatch"
	"livepatch/internal/testkit"
)

var sweepDirs = flag.String("sweep", "", "rewrite every ELF file below these directories, separated by commas (scripts/sweep-elf)")

// counts is what TestSweep reports.
type counts struct {
	files, modules, bytes, sections, symbols, relocs int
	written                                          int
	parse, write                                     time.Duration
}

// TestSweep rewrites many files and holds them against readelf, and modules
// against modinfo and ld -r.
func TestSweep(t *testing.T) {
	if *sweepDirs == "" {
		t.Skip("a slow sweep: scripts/sweep-elf")
	}
	testkit.Tool(t, "readelf")
	var c counts
	for _, dir := range strings.Split(*sweepDirs, ",") {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				c.sweep(t, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d files (%d modules), %.1f MB, %d sections, %d symbols, %d relocations",
		c.files, c.modules, float64(c.bytes)/1e6, c.sections, c.symbols, c.relocs)
	mb := func(n int, d time.Duration) float64 { return float64(n) / 1e6 / d.Seconds() }
	t.Logf("read with all relocations in %v (%.0f MB/s), written in %v (%.0f MB/s)",
		c.parse.Round(time.Millisecond), mb(c.bytes, c.parse), c.write.Round(time.Millisecond), mb(c.written, c.write))
	if c.files == 0 {
		t.Error("no ELF file")
	}
}

func (c *counts) sweep(t *testing.T, path string) {
	b, err := os.ReadFile(path)
	if err != nil || !bytes.HasPrefix(b, []byte(elf.ELFMAG)) {
		return
	}
	if m := elf.Machine(le.Uint16(b[18:])); m != elf.EM_X86_64 && m != elf.EM_AARCH64 || b[4] != 2 {
		return
	}
	start := time.Now()
	f, err := elfpatch.Parse(b)
	if err != nil {
		t.Errorf("%s: %v", path, err)
		return
	}
	for _, s := range f.Sections {
		list, err := f.Relocations(s)
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
		c.relocs += len(list)
	}
	c.parse += time.Since(start)
	start = time.Now()
	out, err := f.Bytes()
	if err != nil {
		t.Errorf("%s: %v", path, err)
		return
	}
	c.write += time.Since(start)
	c.files, c.bytes, c.written = c.files+1, c.bytes+len(b), c.written+len(out)
	c.sections, c.symbols = c.sections+len(f.Sections), c.symbols+len(f.Symbols)
	checkRewrite(t, path)
	if strings.HasSuffix(path, ".ko") {
		c.modules++
		checkModule(t, path, out)
	}
}

// checkModule compares what modinfo says, and what ld -r makes of the module.
func checkModule(t *testing.T, path string, rewritten []byte) {
	dir := t.TempDir()
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for d, b := range map[string][]byte{"old": unsigned(old), "new": rewritten} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, d, filepath.Base(path)), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	base := filepath.Base(path)
	tool := func(d string, name string, args ...string) string {
		cmd := exec.Command(name, args...)
		cmd.Dir = filepath.Join(dir, d)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s %s of %s: %v\n%s", name, strings.Join(args, " "), path, err, out)
		}
		return strings.ReplaceAll(string(out), filepath.Join(dir, d), "")
	}
	if a, b := tool("old", "modinfo", "./"+base), tool("new", "modinfo", "./"+base); a != b {
		t.Errorf("%s: modinfo says other things of the rewritten module: %s", path, firstDifference(a, b))
	}
	var linked [2]*elfpatch.File
	for i, d := range []string{"old", "new"} {
		tool(d, linker(rewritten), "-r", "-o", "linked.o", base)
		linked[i] = testkit.ELF(t, filepath.Join(dir, d, "linked.o"))
	}
	if err := sameModel(linked[0], linked[1]); err != nil {
		t.Errorf("%s: ld -r makes another object of the rewritten module: %v", path, err)
	}
}

// unsigned cuts the signature off a module, which stands behind the ELF file
// and which Bytes does not keep (Linux, include/linux/module_signature.h).
func unsigned(b []byte) []byte {
	const magic = "~Module signature appended~\n"
	const info = 12 // struct module_signature; its last field is the length
	rest, signed := bytes.CutSuffix(b, []byte(magic))
	if !signed || len(rest) < info {
		return b
	}
	size := int(binary.BigEndian.Uint32(rest[len(rest)-4:]))
	return rest[:len(rest)-info-size]
}

func linker(b []byte) string {
	if elf.Machine(le.Uint16(b[18:])) == elf.EM_AARCH64 {
		return "aarch64-linux-gnu-ld"
	}
	return "x86_64-linux-gnu-ld"
}

var indexFile = flag.String("index", "", "measure how long reading the headers and symbols of this file takes")

// TestIndex measures Parse of one large file.
func TestIndex(t *testing.T) {
	if *indexFile == "" {
		t.Skip("a measurement: scripts/sweep-elf --index FILE")
	}
	b, err := os.ReadFile(*indexFile)
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	start := time.Now()
	f := mustParse(t, b)
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	t.Logf("%s: %.0f MB, %d sections, %d symbols: indexed in %v, %.1f MB allocated", filepath.Base(*indexFile),
		float64(len(b))/1e6, len(f.Sections), len(f.Symbols), took.Round(time.Millisecond), float64(after.TotalAlloc-before.TotalAlloc)/1e6)
}
