package image

import (
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"testing"

	"livepatch/internal/kimage"
	"livepatch/internal/testkit/vm"
)

func TestOpenDebianKernel(t *testing.T) {
	dir := vm.Fetched(t, "6.12")
	path := dir.Path("vmlinuz")
	k, err := OpenKernel(path)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if k.Release != dir.Release || k.Path != path {
		t.Errorf("release %q from %s", k.Release, k.Path)
	}
	if kind, err := KindOf(path); err != nil || kind != kimage.KernelImage {
		t.Errorf("vmlinuz is a %v, %v", kind, err)
	}
	modules, err := filepath.Glob(filepath.Join(dir.Path("modules"), "kernel", "fs", "xfs", "xfs.ko*"))
	if err != nil || len(modules) != 1 {
		t.Fatalf("modules %v, %v", modules, err)
	}
	if kind, err := KindOf(modules[0]); err != nil || kind != kimage.KernelModule {
		t.Errorf("%s is a %v, %v", modules[0], kind, err)
	}
	m, err := OpenModule(modules[0])
	if err != nil || m.Name != "xfs" {
		t.Fatalf("%v, %v", m, err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

// Opening a kernel of several hundred MB: what it takes of time and memory.
func BenchmarkOpenDebugKernel(b *testing.B) {
	path := vm.Fetched(b, "--dbg", "6.12").Path("dbg/vmlinux")
	fi, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	var before, after runtime.MemStats
	for b.Loop() {
		debug.FreeOSMemory()
		runtime.ReadMemStats(&before)
		k, err := OpenKernel(path)
		if err != nil {
			b.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		k.Close()
	}
	b.ReportMetric(float64(fi.Size())/1e6, "file-MB")
	b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/1e6, "allocated-MB")
	b.ReportMetric(float64(after.HeapInuse)/1e6, "heap-MB")
}
