package match

import (
	"os"
	"path/filepath"
	"testing"

	"livepatch/elfpatch"
	imagefile "livepatch/internal/image"
	"livepatch/internal/testkit"
	"livepatch/internal/testkit/vm"
)

// BenchmarkKernel is an object of Debian's kernel, all functions, against vmlinux
// with debug information: reading the target, and each object after it.
func BenchmarkKernel(b *testing.B) {
	dir := vm.Fetched(b, "--source", "--dbg", "6.12")
	img, err := imagefile.Open(dir.Path("dbg/vmlinux"))
	if err != nil {
		b.Fatal(err)
	}
	defer img.Close()
	b.Run("target", func(b *testing.B) {
		for b.Loop() {
			if _, err := NewTarget(img.File, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	target, err := NewTarget(img.File, nil)
	if err != nil {
		b.Fatal(err)
	}
	for _, name := range []string{"fs/proc/uptime.o", "fs/proc/base.o"} {
		path := dir.Path(filepath.Join("before", name))
		if _, err := os.Stat(path); err != nil {
			continue // no case touches it
		}
		obj := testkit.ELF(b, path)
		funcs := objectFunctions(obj, func(string) []int { return []int{0} })
		b.Run(filepath.Base(name), func(b *testing.B) { survey(b, target, obj, funcs) })
	}
}

func survey(b *testing.B, target *Target, obj *elfpatch.File, funcs []int) {
	for b.Loop() {
		s, err := target.Survey(obj, funcs, Options{})
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(s.Proof.Funcs)), "proven")
	}
}
