package elfpatch_test

import (
	"bytes"
	"debug/elf"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"livepatch/elfpatch"
)

// sampleFiles are ELF files that this machine or the tree happens to have.
func sampleFiles(t testing.TB) []string {
	all := []string{
		"/bin/ls", "/lib/x86_64-linux-gnu/libc.so.6", "/usr/lib/x86_64-linux-gnu/libcrypto.so.3", "/usr/bin/redis-check-rdb",
		"/usr/lib/x86_64-linux-gnu/crt1.o", "/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
		"/usr/aarch64-linux-gnu/lib/libc.so.6", "/usr/aarch64-linux-gnu/lib/crt1.o", "/usr/aarch64-linux-gnu/lib/libstdc++.so.6",
	}
	debug, _ := filepath.Glob("/usr/lib/debug/.build-id/*/*.debug")
	tree, _ := filepath.Glob("../testdata/binaries/*/*")
	all = append(append(all, debug[:min(len(debug), 20)]...), tree...)
	var found []string
	for _, p := range all {
		b, err := os.ReadFile(p)
		if err == nil && bytes.HasPrefix(b, []byte(elf.ELFMAG)) {
			found = append(found, p)
		}
	}
	return found
}

// TestAgainstDebugELF compares what is read with the standard library.
func TestAgainstDebugELF(t *testing.T) {
	vectors, _ := filepath.Glob("../../shared/vectors/object-pairs/*/*.o")
	for _, path := range append(sampleFiles(t), vectors...) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		f := mustParse(t, b)
		std, err := elf.NewFile(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		compareSections(t, path, f, std)
		compareSymbols(t, path, f, std)
		compareDynamic(t, path, f, std)
		if len(f.Segments) > 0 && !strings.HasSuffix(path, ".debug") {
			sectionless := mustParse(t, withoutSections(b))
			compareDynamic(t, path+" without section headers", sectionless, std)
		}
	}
}

func compareSections(t *testing.T, path string, f *elfpatch.File, std *elf.File) {
	if len(f.Sections) != len(std.Sections) || len(f.Segments) != len(std.Progs) {
		t.Fatalf("%s: %d sections, %d segments, want %d, %d", path, len(f.Sections), len(f.Segments), len(std.Sections), len(std.Progs))
	}
	for i, want := range std.Sections {
		got := f.Sections[i]
		if got.Name != want.Name || got.Type != want.Type || got.Flags != want.Flags || got.Addr != want.Addr ||
			got.Size != want.FileSize || got.Link != want.Link || got.Info != want.Info || got.EntSize != want.Entsize || got.Index != i {
			t.Errorf("%s: section %d: %+v, want %+v", path, i, *got, want.SectionHeader)
		}
	}
	for i, p := range std.Progs {
		want := elfpatch.Segment{Type: p.Type, Flags: p.Flags, Offset: p.Off, VAddr: p.Vaddr, PAddr: p.Paddr, FileSize: p.Filesz, MemSize: p.Memsz, Align: p.Align}
		if f.Segments[i] != want {
			t.Errorf("%s: segment %d: %+v, want %+v", path, i, f.Segments[i], want)
		}
	}
}

func sameSymbol(got elfpatch.Symbol, want elf.Symbol) bool {
	section := int(want.Section)
	if want.Section >= elf.SHN_LORESERVE {
		section -= 0x10000
	}
	return got == elfpatch.Symbol{
		Name: want.Name, Type: elf.ST_TYPE(want.Info), Bind: elf.ST_BIND(want.Info), Other: want.Other,
		Section: section, Value: want.Value, Size: want.Size,
	}
}

func compareSymbols(t *testing.T, path string, f *elfpatch.File, std *elf.File) {
	want, err := std.Symbols()
	if err != nil {
		if len(f.Symbols) > 1 {
			t.Errorf("%s: %d symbols, debug/elf says %v", path, len(f.Symbols), err)
		}
		return
	}
	if len(f.Symbols) != len(want)+1 {
		t.Fatalf("%s: %d symbols, want %d and the null one", path, len(f.Symbols), len(want))
	}
	for i := range want {
		if !sameSymbol(f.Symbols[i+1], want[i]) {
			t.Errorf("%s: symbol %d: %+v, want %+v", path, i+1, f.Symbols[i+1], want[i])
		}
	}
}

func compareDynamic(t *testing.T, path string, f *elfpatch.File, std *elf.File) {
	got, err := f.DynSymbols()
	if err != nil {
		t.Errorf("%s: %v", path, err)
	}
	want, err := std.DynamicSymbols()
	if err != nil || len(got) == 0 {
		if len(got) != 0 {
			t.Errorf("%s: %d dynamic symbols, debug/elf says %v", path, len(got), err)
		}
		return
	}
	if len(got) != len(want)+1 {
		t.Fatalf("%s: %d dynamic symbols, want %d and the null one", path, len(got), len(want))
	}
	for i, w := range want {
		g := got[i+1]
		// The standard library names the library of a version that is
		// undefined, and reports local versions with a name too.
		if !sameSymbol(g.Symbol, w) || g.Version != w.Version || g.Hidden != w.VersionIndex.IsHidden() ||
			g.Section == 0 && g.Library != w.Library {
			t.Errorf("%s: dynamic symbol %d: %+v, want %+v", path, i+1, g, w)
		}
	}
	d, err := f.Dynamic()
	if err != nil {
		t.Errorf("%s: %v", path, err)
		return
	}
	needed, _ := std.ImportedLibraries()
	if len(needed) != len(d.Needed) {
		t.Errorf("%s: needs %v, want %v", path, d.Needed, needed)
	}
}
