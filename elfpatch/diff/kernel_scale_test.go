package diff

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"livepatch/elfpatch"
	"livepatch/internal/testkit"
)

// mergedObjects links the kernel objects that can stand beside each other into
// one, before and after, and returns it with its parts.
func mergedObjects(t testing.TB, most int) (merged [2]*elfpatch.File, parts [][2]*elfpatch.File) {
	t.Helper()
	ld := testkit.Tool(t, "ld")
	if runtime.GOARCH != "amd64" {
		t.Skip("the linker of this machine is not one for x86-64")
	}
	taken := map[string]bool{}
	var paths [2][]string
	for _, tc := range kernelCases(t) {
		if filepath.Base(filepath.Dir(tc.base)) != "x86_64" || len(parts) == most || tc.exit == "2" {
			continue
		}
		a, b := tc.files(t)
		clash := false
		for _, f := range []*elfpatch.File{a, b} {
			for _, s := range f.Symbols {
				clash = clash || s.Bind != 0 && s.Section > 0 && taken[s.Name]
			}
		}
		if clash || a.Section(".debug_info") != nil {
			continue
		}
		for _, f := range []*elfpatch.File{a, b} {
			for _, s := range f.Symbols {
				taken[s.Name] = taken[s.Name] || s.Bind != 0 && s.Section > 0
			}
		}
		parts = append(parts, [2]*elfpatch.File{a, b})
		after := tc.base + ".PATCHED.o"
		if _, err := os.Stat(after); err != nil {
			after = tc.base + ".PATCHED.FAIL.o"
		}
		paths[0], paths[1] = append(paths[0], tc.base+".ORIG.o"), append(paths[1], after)
	}
	dir := t.TempDir()
	for i, name := range []string{"before.o", "after.o"} {
		out := filepath.Join(dir, name)
		run(t, "", ld, append([]string{"-r", "-o", out}, paths[i]...)...)
		merged[i] = testkit.ELF(t, out)
	}
	return merged, parts
}

func kernelCompare(t testing.TB, a, b *elfpatch.File) *Delta {
	d, err := Compare(a, b, Options{Kernel: true})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// An object linked from many says what the many say, and takes as much memory.
func TestMergedObjects(t *testing.T) {
	merged, parts := mergedObjects(t, 21)
	allocated := func(f func()) float64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		return float64(after.TotalAlloc - before.TotalAlloc)
	}
	var want []string
	sum := 0.0
	for _, p := range parts {
		sum += allocated(func() {
			for _, f := range kernelCompare(t, p[0], p[1]).Funcs {
				if f.Status != Same && f.Parent == 0 {
					want = append(want, string(f.Status)+" "+stem(f.Name))
				}
			}
		})
	}
	var got []string
	one := allocated(func() {
		for _, f := range kernelCompare(t, merged[0], merged[1]).Funcs {
			if f.Status != Same && f.Parent == 0 {
				got = append(got, string(f.Status)+" "+stem(f.Name))
			}
		}
	})
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("%d objects together: %q\nby themselves: %q", len(parts), got, want)
	}
	if one > 1.5*sum {
		t.Errorf("%d objects together take %.0f bytes, by themselves %.0f", len(parts), one, sum)
	}
	size := 0
	for _, f := range merged {
		for _, sec := range f.Sections {
			size += len(sec.Data)
		}
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	d := kernelCompare(t, merged[0], merged[1])
	runtime.GC()
	runtime.ReadMemStats(&after)
	if live := float64(after.HeapAlloc) - float64(before.HeapAlloc); live > 3*float64(size) {
		t.Errorf("the comparison of objects of %d bytes holds %.0f", size, live)
	}
	runtime.KeepAlive(d)
	if os.Getenv("LIVEPATCH_SLOW") == "" {
		return
	}
	best := func(f func()) time.Duration {
		d := time.Hour
		for range 7 {
			start := time.Now()
			f()
			d = min(d, time.Since(start))
		}
		return d
	}
	var apart time.Duration
	for _, p := range parts {
		apart += best(func() { kernelCompare(t, p[0], p[1]) })
	}
	if together := best(func() { kernelCompare(t, merged[0], merged[1]) }); float64(together) > 1.5*float64(apart) {
		t.Errorf("%d objects together take %v, by themselves %v", len(parts), together, apart)
	}
}

func BenchmarkKernelMerged(b *testing.B) {
	merged, parts := mergedObjects(b, 21)
	b.Run("together", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			kernelCompare(b, merged[0], merged[1])
		}
	})
	b.Run("apart", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			for _, p := range parts {
				kernelCompare(b, p[0], p[1])
			}
		}
	})
}
