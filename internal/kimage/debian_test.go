package kimage_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"livepatch/internal/kimage"
	"livepatch/internal/testkit/vm"
)

// kernels are those of Debian that tests are run on, as scripts/kernel takes
// them.
var kernels = []struct {
	name string
	args []string
}{
	{"6.1", []string{"6.1"}},
	{"6.12", []string{"6.12"}},
	{"6.12-arm64", []string{"--arch", "arm64", "6.12"}},
}

// What the image holds is what the packages of the same kernel say of it.
func TestDebianKernels(t *testing.T) {
	for _, c := range kernels {
		t.Run(c.name, func(t *testing.T) {
			dir := vm.Fetched(t, c.args...)
			k := parseKernel(t, dir)
			if k.Release != dir.Release {
				t.Errorf("release %q, want %q", k.Release, dir.Release)
			}
			if !strings.HasPrefix(k.Vermagic, k.Release+" SMP ") || len(k.BuildID) != 20 {
				t.Errorf("vermagic %q, build-id %x", k.Vermagic, k.BuildID)
			}
			checkExports(t, k, dir)
			checkSymbols(t, k)
			a, err := kimage.ABIFromBTF(k.BTF, k.Machine)
			if err != nil {
				t.Fatal(err)
			}
			if s, err := a.Require("module", "name", "init", "exit"); err != nil || s.Members["name"].Offset != 24 {
				t.Errorf("struct module: %+v, %v", s, err)
			}
		})
	}
}

func parseKernel(t testing.TB, dir *vm.Kernel) *kimage.Kernel {
	t.Helper()
	b, err := os.ReadFile(dir.Path("vmlinuz"))
	if err != nil {
		t.Fatal(err)
	}
	k, err := kimage.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// checkExports compares the table of exports with Module.symvers.
func checkExports(t *testing.T, k *kimage.Kernel, dir *vm.Kernel) {
	t.Helper()
	got, err := k.Exports()
	if err != nil {
		t.Fatal(err)
	}
	want := symvers(t, dir)
	n := 0
	for name, e := range want {
		if e.Module != "vmlinux" {
			continue
		}
		n++
		g := got[name]
		if at := k.Named(name); len(at) == 1 && k.Symbols[at[0]].Addr != g.Addr {
			t.Errorf("%s is exported at %#x, not where the symbol is", name, g.Addr)
		}
		if g.Addr = 0; g != e {
			t.Errorf("%+v, Module.symvers says %+v", g, e)
		}
	}
	if n != len(got) || n < 5000 {
		t.Errorf("%d exports, %d in Module.symvers", len(got), n)
	}
}

func symvers(t *testing.T, dir *vm.Kernel) map[string]kimage.Export {
	t.Helper()
	b, err := os.ReadFile(dir.Path("headers/Module.symvers"))
	if err != nil {
		t.Fatal(err)
	}
	out, err := kimage.ParseSymvers(b)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// checkSymbols compares positions with a count of our own, and the symbol table
// that was made.
func checkSymbols(t *testing.T, k *kimage.Kernel) {
	t.Helper()
	seen := map[string]int{}
	for i, s := range k.Symbols {
		seen[s.Name]++
		if p := k.Sympos(i); p != seen[s.Name] && (p != 0 || len(k.Named(s.Name)) != 1) {
			t.Fatalf("%s: symbol %d is at position %d, not %d", s.Name, i, p, seen[s.Name])
		}
		e := k.File.Symbols[i+1]
		if e.Name != s.Name || e.Value != s.Addr {
			t.Fatalf("symbol %+v became %+v", s, e)
		}
	}
	if len(k.Symbols) < 50000 {
		t.Errorf("%d symbols", len(k.Symbols))
	}
}

// With symbols and debug information, vmlinux says the same as vmlinuz.
func TestDebianDebugKernel(t *testing.T) {
	dir := vm.Fetched(t, "--dbg", "6.12")
	b, err := os.ReadFile(dir.Path("dbg/vmlinux"))
	if err != nil {
		t.Fatal(err)
	}
	k, err := kimage.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	plain := parseKernel(t, dir)
	if len(k.Symbols) != len(plain.Symbols) || !bytes.Equal(k.BuildID, plain.BuildID) || k.Banner != plain.Banner {
		t.Fatalf("%d symbols, build-id %x; in vmlinuz %d, %x", len(k.Symbols), k.BuildID, len(plain.Symbols), plain.BuildID)
	}
	type place struct {
		name string
		addr uint64
	}
	linked := map[place]bool{}
	for _, s := range k.File.Symbols {
		linked[place{s.Name, s.Value}] = true
	}
	for i, s := range k.Symbols {
		if s != plain.Symbols[i] {
			t.Fatalf("symbol %d is %+v, in vmlinuz %+v", i, s, plain.Symbols[i])
		}
		if !linked[place{s.Name, s.Addr}] {
			t.Fatalf("%+v is not in the symbol table of vmlinux", s)
		}
	}
}

// Every 17th module can be laid out, and exports what Module.symvers says.
func TestDebianModules(t *testing.T) {
	for _, c := range kernels {
		t.Run(c.name, func(t *testing.T) {
			dir := vm.Fetched(t, c.args...)
			want := symvers(t, dir)
			n := 0
			for i, path := range modules(t, dir) {
				if i%17 != 0 {
					continue
				}
				b, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				m, err := kimage.ParseModule(b)
				if err != nil {
					t.Errorf("%s: %v", path, err)
					continue
				}
				n++
				got, err := m.Exports()
				if err != nil {
					t.Errorf("%s: %v", path, err)
				}
				for name, e := range got {
					if e.Addr = 0; e != want[name] {
						t.Errorf("%s: %+v, Module.symvers says %+v", path, e, want[name])
					}
				}
				for name, crc := range m.Versions {
					if e := want[name]; e.CRC != crc {
						t.Errorf("%s: imports %s with checksum %#x, Module.symvers says %#x", path, name, crc, e.CRC)
					}
				}
				if !strings.HasPrefix(m.Vermagic, dir.Release+" ") || len(m.BuildID) == 0 {
					t.Errorf("%s: vermagic %q, build-id %x", path, m.Vermagic, m.BuildID)
				}
			}
			if n < 30 {
				t.Errorf("only %d modules", n)
			}
		})
	}
}

func modules(t testing.TB, dir *vm.Kernel) []string {
	t.Helper()
	var out []string
	root, err := filepath.EvalSymlinks(dir.Path("modules"))
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.Contains(d.Name(), ".ko") {
			out = append(out, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func BenchmarkParse(b *testing.B) {
	for _, c := range kernels {
		b.Run(c.name, func(b *testing.B) {
			dir := vm.Fetched(b, c.args...)
			raw, err := os.ReadFile(dir.Path("vmlinuz"))
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if _, err := kimage.Parse(raw); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
