package build

import (
	"bufio"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"livepatch/elfpatch"
	"livepatch/internal/compile"
	"livepatch/internal/image"
	"livepatch/internal/kimage"
	"livepatch/internal/kmod"
	"livepatch/internal/testkit/vm"
)

// A kernelBench is a Debian kernel and the pairs of objects that
// scripts/kernel-objects made of a case of test/kernel.
type kernelBench struct {
	*vm.Kernel
	symvers map[string]kimage.Export
	config  kmod.Config
	objtool *compile.Objtool
}

func openKernelBench(b *testing.B, series string) *kernelBench {
	b.Helper()
	k := &kernelBench{Kernel: vm.Fetched(b, "--source", series)}
	var err error
	if k.symvers, err = kimage.ParseSymvers(k.read(b, "headers/Module.symvers")); err != nil {
		b.Fatal(err)
	}
	k.config = kmod.ParseConfig(k.read(b, "headers/.config"))
	if kmod.NeedsObjtool(k.config) {
		if k.objtool, err = compile.OpenObjtool(k.Path("objtool")); err != nil {
			b.Fatal(err)
		}
	}
	return k
}

func (k *kernelBench) read(b *testing.B, name string) []byte {
	b.Helper()
	data, err := os.ReadFile(k.Path(name))
	if err != nil {
		b.Fatal(err)
	}
	return data
}

// pairs reads the pairs of objects of vmlinux of one case, once for each object.
func (k *kernelBench) pairs(b *testing.B, series string, names ...string) (out []Pair) {
	b.Helper()
	dirs := map[string]string{}
	for line := range strings.Lines(vm.Script(b, "kernel-objects", "--cached", "--kernel", series, "--cases")) {
		if f := strings.Fields(line); len(f) == 2 {
			dirs[f[0]] = f[1]
		}
	}
	for _, dir := range names {
		dir = dirs[dir]
		list, err := os.Open(filepath.Join(dir, "pairs"))
		if err != nil {
			b.Fatal(err)
		}
		defer list.Close()
		for s := bufio.NewScanner(list); s.Scan(); {
			f := strings.Fields(s.Text())
			if len(f) != 2 || f[1] != "vmlinux" {
				continue
			}
			name := filepath.Base(f[0])
			if slices.ContainsFunc(out, func(p Pair) bool { return p.OrigName == name }) {
				continue
			}
			p := Pair{OrigName: name, PatchedName: name}
			p.Orig = parseFile(b, filepath.Join(dir, "before", f[0]))
			p.Patched = parseFile(b, filepath.Join(dir, "after", f[0]))
			out = append(out, p)
		}
	}
	return out
}

func parseFile(b *testing.B, path string) *elfpatch.File {
	b.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	f, err := elfpatch.Parse(data)
	if err != nil {
		b.Fatal(err)
	}
	return f
}

// benchKernelCreate makes packages of the pairs and reports the median of each
// step, in milliseconds.
func benchKernelCreate(b *testing.B, k *kernelBench, pairs []Pair) {
	took := map[string][]float64{}
	for b.Loop() {
		start := time.Now()
		lap := func(step string, err error) {
			if err != nil {
				b.Fatalf("%s: %v", step, err)
			}
			took[step] = append(took[step], float64(time.Since(start).Microseconds())/1000)
			start = time.Now()
		}
		img, err := image.OpenKernel(k.Path("vmlinuz"))
		lap("open", err)
		in := &Kernel{Image: img.Kernel, Symvers: k.symvers, Versions: kmod.BasicVersions}
		var tool time.Duration
		if k.objtool != nil {
			in.Objtool = func(object []byte) ([]byte, error) {
				start := time.Now()
				defer func() { tool += time.Since(start) }()
				return k.objtool.Run(object, kmod.ObjtoolArgs(k.config))
			}
		}
		s, err := newKernelSteps(Inputs{Name: "bench", Version: "test", Kernel: in,
			Targets: []Target{{Name: "vmlinuz", File: img.File, Pairs: pairs}}})
		lap("set-up", err)
		lap("compare", s.each((*kernelTarget).compare))
		lap("prove", s.each((*kernelTarget).prove))
		lap("find", s.each((*kernelTarget).find))
		lap("cut", s.cut())
		if err := s.refusals.Err(); err != nil {
			b.Fatal(err)
		}
		err = s.merge()
		start = start.Add(tool)
		lap("merge", err)
		took["objtool"] = append(took["objtool"], float64(tool.Microseconds())/1000)
		lap("emit", s.emit())
		lap("check", s.check())
		_, err = s.describe()
		lap("describe", err)
		img.Close()
	}
	for step, all := range took {
		slices.Sort(all)
		b.ReportMetric(all[len(all)/2], step+"-ms")
	}
	functions := 0
	for _, p := range pairs {
		for _, sym := range p.Orig.Symbols {
			if sym.Type == elf.STT_FUNC && sym.Section > 0 {
				functions++
			}
		}
	}
	b.ReportMetric(float64(functions), "functions")
}

// How long create takes for one pair of objects of a real kernel, by step.
func BenchmarkKernelCreate(b *testing.B) {
	for _, series := range []string{"6.1", "6.12"} {
		for _, name := range []string{"bug-table", "static-local", "special-static"} {
			b.Run(series+"/"+name, func(b *testing.B) {
				k := openKernelBench(b, series)
				benchKernelCreate(b, k, k.pairs(b, series, name))
			})
		}
	}
}

// How create grows with the number of pairs.
func BenchmarkKernelCreatePairs(b *testing.B) {
	all := []string{"bug-table", "static-local", "special-static", "exception-table", "function-pointer", "alternatives", "jump-label", "callbacks"}
	for _, n := range []int{1, 2, 4, 8} {
		b.Run(fmt.Sprintf("6.12/pairs=%d", n), func(b *testing.B) {
			k := openKernelBench(b, "6.12")
			pairs := k.pairs(b, "6.12", all...)
			if len(pairs) < n {
				b.Fatalf("%d pairs", len(pairs))
			}
			benchKernelCreate(b, k, pairs[:n])
		})
	}
}

// Emission beside kbuild: the same code, as the module of create and linked by the
// kernel's own build for modules against the headers package.
func BenchmarkKernelEmit(b *testing.B) {
	for _, series := range []string{"6.1", "6.12"} {
		b.Run(series+"/livepatch", func(b *testing.B) {
			k := openKernelBench(b, series)
			s := emitted(b, k, series)
			for b.Loop() {
				err := s.merge()
				if err == nil {
					err = s.emit()
				}
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(s.module))/1024, "module-KB")
		})
		b.Run(series+"/kbuild", func(b *testing.B) {
			k := openKernelBench(b, series)
			s := emitted(b, k, series)
			dir, headers := b.TempDir(), k.moduleHeaders(b)
			code, err := s.merged.Object.Bytes()
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				for name, data := range map[string][]byte{
					"code.o_shipped": code,
					"main.c":         []byte("#include <linux/module.h>\nstatic int __init start(void) { return 0; }\nmodule_init(start);\nMODULE_LICENSE(\"GPL\");\nMODULE_DESCRIPTION(\"peer\");\n"),
					"Makefile":       []byte("obj-m := peer.o\npeer-y := main.o code.o\n"),
					".code.o.cmd":    nil,
				} {
					if err := os.WriteFile(filepath.Join(dir, name), data, 0o666); err != nil {
						b.Fatal(err)
					}
				}
				cmd := exec.Command("make", "-s", "-C", headers, "M="+dir, "KBUILD_MODPOST_WARN=1", "modules")
				if out, err := cmd.CombinedOutput(); err != nil {
					b.Fatalf("%v\n%s", err, out)
				}
				if _, err := os.Stat(filepath.Join(dir, "peer.ko")); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				os.RemoveAll(dir)
				os.Mkdir(dir, 0o777)
				b.StartTimer()
			}
		})
	}
}

func emitted(b *testing.B, k *kernelBench, series string) *kernelSteps {
	b.Helper()
	b.StopTimer()
	defer b.StartTimer()
	img, err := image.OpenKernel(k.Path("vmlinuz"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { img.Close() })
	in := &Kernel{Image: img.Kernel, Symvers: k.symvers, Versions: kmod.BasicVersions}
	if k.objtool != nil {
		in.Objtool = func(object []byte) ([]byte, error) { return k.objtool.Run(object, kmod.ObjtoolArgs(k.config)) }
	}
	s, err := newKernelSteps(Inputs{Name: "bench", Version: "test", Kernel: in,
		Targets: []Target{{Name: "vmlinuz", File: img.File, Pairs: k.pairs(b, series, "bug-table")}}})
	if err == nil {
		err = s.each((*kernelTarget).compare)
	}
	if err == nil {
		err = s.each((*kernelTarget).prove)
	}
	if err == nil {
		err = s.each((*kernelTarget).find)
	}
	if err == nil {
		err = s.cut()
	}
	if err == nil {
		err = s.refusals.Err()
	}
	if err == nil {
		err = s.merge()
	}
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// moduleHeaders makes a directory in which modules can be built against the headers
// package without installing it: its makefiles name others by their installed paths.
func (k *kernelBench) moduleHeaders(b *testing.B) string {
	b.Helper()
	dir := b.TempDir()
	entries, err := os.ReadDir(k.Path("headers"))
	if err != nil {
		b.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() == "vmlinux" {
			continue // only there for type information, which create's modules have none of
		}
		if err := os.Symlink(filepath.Join(k.Path("headers"), e.Name()), filepath.Join(dir, e.Name())); err != nil {
			b.Fatal(err)
		}
	}
	packages, err := filepath.EvalSymlinks(k.Path("headers"))
	if err != nil {
		b.Fatal(err)
	}
	packages = strings.TrimSuffix(packages, "/usr/src/"+filepath.Base(packages))
	for _, name := range []string{"Makefile", ".kernelvariables"} {
		text := strings.ReplaceAll(string(k.read(b, "headers/"+name)), " /usr/", " "+packages+"/usr/")
		if err := errors.Join(os.Remove(filepath.Join(dir, name)), os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666)); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}
