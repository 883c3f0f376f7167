package modcheck

import (
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"livepatch/internal/check"
	"livepatch/internal/kimage"
)

// The tests of the command line use modules of these tests. UPDATE_GOLDEN=1
// makes the files anew.
func TestFixtures(t *testing.T) {
	set := x86Set(t)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		writeFixtures(t, set)
	}
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	symbols, err := kimage.ParseKallsyms(read("kallsyms"))
	if err != nil {
		t.Fatal(err)
	}
	exports, err := kimage.ParseSymvers(read("Module.symvers"))
	if err != nil {
		t.Fatal(err)
	}
	widget, err := kimage.ParseModule(read("widget.ko"))
	if err != nil {
		t.Fatal(err)
	}
	small := Set{Symbols: symbols, Exports: exports, Modules: []*kimage.Module{widget}}
	for _, s := range []Set{set, small} {
		if r := Check(read("fix.ko"), s); r.Count(check.Refused) > 0 {
			t.Errorf("fix.ko:\n%s", reportText(r))
		}
		if r := Check(read("damaged.ko"), s); r.Count(check.Refused) != 3 {
			t.Errorf("damaged.ko:\n%s", reportText(r))
		}
	}
}

func writeFixtures(t *testing.T, set Set) {
	t.Helper()
	write := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join("testdata", name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("fix.ko", fileOf(t, livepatch(t, elf.EM_X86_64, "static-x86.S")))
	write("damaged.ko", fileOf(t, livepatch(t, elf.EM_X86_64, "static-x86.S",
		edit{".asciz \"widget_turn\"", ".asciz \"widget_torn\""}, edit{"k_version 0x33333333", "k_version 0x33333334"}, edit{"\t.short 17, 2305\n", "\t.short 17, 2305, 0\n"})))
	write("widget.ko", assemble(t, elf.EM_X86_64, source(t, "module-x86.S")))
	var b strings.Builder
	for _, s := range set.Kernel.Symbols {
		fmt.Fprintf(&b, "%016x %c %s\n", s.Addr, s.Type, s.Name)
	}
	write("kallsyms", []byte(b.String()))
	b.Reset()
	var names []string
	for name := range set.Exports {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		e := set.Exports[name]
		kind := "EXPORT_SYMBOL"
		if e.GPL {
			kind = "EXPORT_SYMBOL_GPL"
		}
		fmt.Fprintf(&b, "0x%08x\t%s\t%s\t%s\t%s\n", e.CRC, name, e.Module, kind, e.Namespace)
	}
	write("Module.symvers", []byte(b.String()))
}
