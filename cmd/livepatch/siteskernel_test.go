package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"livepatch/elfpatch"
	"livepatch/fentry"
	"livepatch/internal/image"
	"livepatch/internal/testkit/vm"
)

// patchableSites returns the sites of a file by the address that ftrace knows.
func patchableSites(t *testing.T, path string) (*fentry.Report, map[uint64]*fentry.Row) {
	t.Helper()
	r := sitesJSON(t, path).Images[0]
	by := map[uint64]*fentry.Row{}
	for i := range r.Functions {
		if f := &r.Functions[i]; f.Verdict == fentry.Yes {
			by[*f.Ftrace] = f
		}
	}
	return r, by
}

// The image of a distribution, whose symbols are its kallsyms, has the sites of
// the file with symbols and debug information that it was made from.
func TestSitesOfStrippedKernel(t *testing.T) {
	dir := vm.Script(t, "kernel", "--cached", "--dbg", "6.12")
	whole, want := patchableSites(t, filepath.Join(dir, "dbg", "vmlinux"))
	bare, got := patchableSites(t, filepath.Join(dir, "vmlinuz"))
	if whole.Type != "kernel" || bare.Type != "kernel" || len(want) < 10000 {
		t.Fatalf("types %s and %s, %d sites", whole.Type, bare.Type, len(want))
	}
	for at, f := range want {
		g := got[at]
		if g == nil || g.Addr != f.Addr || g.Name != f.Name && !slices.Contains(g.Aliases, f.Name) {
			t.Errorf("%s at %#x: %+v in the stripped image", f.Name, at, g)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d sites in the stripped image, %d in the other", len(got), len(want))
	}
	for i, table := range whole.Tables {
		if table.Problem != "" || table.Stride == 0 || table.Entries == 0 {
			t.Errorf("%+v", table)
		}
		other := bare.Tables[i]
		if other.Section != table.Section || other.Entries != table.Entries || other.Stride != table.Stride {
			t.Errorf("%+v in the stripped image, %+v in the other", other, table)
		}
	}
}

// A module that was laid out as if it were loaded has the sites of its file.
func TestSitesOfLinkedModule(t *testing.T) {
	k, err := vm.Open(vm.Script(t, "kernel", "--cached", "6.12"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := image.OpenModule(kernelModule(t, k, "xfs"))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	said := func(f *elfpatch.File) map[string]int {
		list, err := fentry.Find(f, fentry.Options{Tables: true})
		if err != nil {
			t.Fatal(err)
		}
		by := map[string]int{}
		for _, fn := range list {
			s := fmt.Sprintf("%s %s %d %s %s +%d", fn.Section, fn.Name, fn.Size, fn.Kind, fn.Verdict, fn.Site-fn.Addr)
			for _, e := range fn.Entries {
				s += fmt.Sprintf(" %s %d", e.Table, len(e.At))
			}
			by[s]++
		}
		return by
	}
	if d := cmp.Diff(said(m.File), said(m.Linked)); d != "" {
		t.Errorf("as it is, and laid out (-file +linked):\n%s", d)
	}
}

// What a running kernel says: the functions that it can trace, and those that
// kprobes refuse. nokaslr keeps it at its addresses.
const askKernel = `mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null
modprobe xfs && modprobe nf_tables && modprobe btrfs || exit 1
cd /sys/kernel/tracing
if [ -e available_filter_functions_addrs ]; then cat available_filter_functions_addrs; else cat available_filter_functions; fi
echo END
cat /sys/kernel/debug/kprobes/blacklist`

func TestSitesOfBootedKernels(t *testing.T) {
	if testing.Short() {
		t.Skip("boots kernels")
	}
	for _, args := range [][]string{{"6.12"}, {"6.1"}, {"--arch", "arm64", "6.12"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			k := vm.Fetched(t, args...)
			res, err := vm.Run(context.Background(), vm.Config{
				Kernel: k, Append: "nokaslr", Modules: []string{"xfs", "nf_tables", "btrfs"},
				Steps:   []vm.Step{{Name: "ask", Script: askKernel}},
				Timeout: 20 * time.Minute, Limit: 15 * time.Minute, // it prints 40,000 lines
			})
			if err != nil || res.Steps[0].Exit != 0 {
				t.Fatalf("%v\n%s", err, res.Console)
			}
			traced, refused, _ := strings.Cut(res.Steps[0].Output, "END\n")
			r, _ := patchableSites(t, k.Path("vmlinuz"))
			said := readTraced(traced)
			compareTraced(t, "vmlinux", r, said[""])
			compareRefused(t, r, refused)
			delete(said, "")
			if len(said) < 4 {
				t.Errorf("%d modules loaded", len(said))
			}
			for module, lines := range said {
				compareTraced(t, module, sitesJSON(t, kernelModule(t, k, module)).Images[0], lines)
			}
		})
	}
}

func kernelModule(t *testing.T, k *vm.Kernel, name string) string {
	t.Helper()
	var all []string
	for dir, depth := k.Path("modules/kernel"), 0; depth < 7; depth++ {
		dir = filepath.Join(dir, "*")
		list, _ := filepath.Glob(dir + ".ko*")
		all = append(all, list...)
	}
	for _, path := range all {
		base, _, _ := strings.Cut(filepath.Base(path), ".")
		if strings.ReplaceAll(base, "-", "_") == name {
			return path
		}
	}
	t.Fatalf("no module %s", name)
	return ""
}

// traceable is one function of available_filter_functions. The address is 0
// where the kernel does not tell it.
type traceable struct {
	addr uint64
	name string
}

func readTraced(text string) map[string][]traceable {
	by := map[string][]traceable{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		var a traceable
		if n, err := strconv.ParseUint(f[0], 16, 64); err == nil && len(f) > 1 && len(f[0]) == 16 {
			a.addr, f = n, f[1:]
		}
		a.name = f[0]
		if strings.HasPrefix(a.name, "__ftrace_invalid_address__") {
			continue // code of an overridden weak function
		}
		module := ""
		if len(f) > 1 {
			module = strings.Trim(f[1], "[]")
		}
		by[module] = append(by[module], a)
	}
	return by
}

// compareTraced reports every function that only one side has. Modules are
// loaded anywhere, so their addresses are not compared.
func compareTraced(t *testing.T, what string, r *fentry.Report, said []traceable) {
	t.Helper()
	have := map[string]int{}
	names := map[string]string{} // by alias
	for i := range r.Functions {
		f := &r.Functions[i]
		if f.Verdict != fentry.Yes {
			continue
		}
		key := func(name string) string {
			if r.Type == "kernel" && said[0].addr != 0 {
				return fmt.Sprintf("%#x %s", *f.Ftrace, name)
			}
			return name
		}
		have[key(f.Name)]++
		for _, alias := range f.Aliases {
			names[key(alias)] = key(f.Name)
		}
	}
	for _, a := range said {
		key := a.name
		if r.Type == "kernel" && a.addr != 0 {
			key = fmt.Sprintf("%#x %s", a.addr, a.name)
		}
		if main, ok := names[key]; ok && have[key] == 0 {
			key = main
		}
		have[key]--
	}
	for key, n := range have {
		if n != 0 {
			t.Errorf("%s: %s: %+d here beside the running kernel", what, key, n)
		}
	}
	t.Logf("%s: %d functions can be traced", what, len(said))
}

// compareRefused compares the functions that kprobes refuse. Lines are
// "0xSTART-0xEND\tNAME".
func compareRefused(t *testing.T, r *fentry.Report, text string) {
	t.Helper()
	said := map[uint64]bool{}
	for line := range strings.Lines(text) {
		var from, to uint64
		if _, err := fmt.Sscanf(line, "0x%x-0x%x", &from, &to); err != nil {
			continue
		}
		for i := range r.Functions {
			if a := r.Functions[i].Addr; from <= a && a < to {
				said[a] = true
			}
		}
	}
	for i := range r.Functions {
		if f := &r.Functions[i]; f.KprobeBlacklisted != said[f.Addr] {
			t.Errorf("%s: kprobes refuse it: %t here, %t in the running kernel", f.Name, f.KprobeBlacklisted, said[f.Addr])
		}
	}
	t.Logf("kprobes refuse %d functions", len(said))
}
