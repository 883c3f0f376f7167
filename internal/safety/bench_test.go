package safety

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"livepatch/elfpatch/diff"
	"livepatch/elfpatch/kernel"
	"livepatch/internal/testkit"
)

// BenchmarkJudge judges the pair of objects with debug information that
// LIVEPATCH_PAIR names, "before.o=after.o".
func BenchmarkJudge(b *testing.B) {
	before, after, ok := strings.Cut(os.Getenv("LIVEPATCH_PAIR"), "=")
	if !ok {
		b.Skip("LIVEPATCH_PAIR names no pair of objects")
	}
	orig, patched := testkit.ELF(b, before), testkit.ELF(b, after)
	isKernel := kernel.IsObject(orig)
	d, err := diff.Compare(orig, patched, diff.Options{Name: filepath.Base(before), Kernel: isKernel})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		Judge(Pair{Name: filepath.Base(before), Delta: d, Kernel: isKernel})
	}
}
