package build

import (
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/testkit"
)

// withoutSymbols is an object whose symbol table is said to be something else:
// it has not even the symbol that every table begins with.
func withoutSymbols(t *testing.T, path string) *elfpatch.File {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	for i := range int(le.Uint16(b[60:])) {
		header := b[le.Uint64(b[40:])+uint64(i)*64:]
		switch elf.SectionType(le.Uint32(header[4:])) {
		case elf.SHT_SYMTAB, elf.SHT_RELA, elf.SHT_GROUP:
			le.PutUint32(header[4:], uint32(elf.SHT_PROGBITS))
		}
	}
	f, err := elfpatch.Parse(b)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return f
}

// Objects without symbols are no obstacle, or are refused; nothing else.
func TestObjectsWithoutSymbols(t *testing.T) {
	dir := filepath.Join("..", "..", "testdata", "binaries", "x86_64-gcc")
	before, err := filepath.Glob(filepath.Join(dir, "*.O2.before.o"))
	if err != nil || len(before) == 0 {
		t.Fatalf("no objects: %v", err)
	}
	target := testkit.ELF(t, filepath.Join(dir, "prog.stripped"))
	for _, orig := range before {
		patched := orig[:len(orig)-len("before.o")] + "after.o"
		if _, err := os.Stat(patched); err != nil {
			continue
		}
		for _, pair := range []Pair{
			{Orig: withoutSymbols(t, orig), Patched: testkit.ELF(t, patched)},
			{Orig: testkit.ELF(t, orig), Patched: withoutSymbols(t, patched)},
			{Orig: withoutSymbols(t, orig), Patched: withoutSymbols(t, patched)},
		} {
			pair.OrigName, pair.PatchedName = "before.o", "after.o"
			_, err := Create(Inputs{Name: "fix", Version: "test", Targets: []Target{{Name: "prog", File: target, Pairs: []Pair{pair}}}})
			if err == nil {
				t.Errorf("%s: a package was made", filepath.Base(orig))
			}
		}
	}
}
