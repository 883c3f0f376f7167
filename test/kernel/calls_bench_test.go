package kernel

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"livepatch/internal/testkit/vm"
)

// ways are how a kernel is patched, with the options of stub for each.
var ways = map[string][]string{
	"klp": {"--flavour", "klp"}, "direct": {"--flavour", "direct"}, "shared": {"--flavour", "direct", "--dispatch", "shared"},
}

// BenchmarkPatchedCall measures a system call that looks a constant up (0, the
// highest priority of SCHED_NORMAL), unpatched and patched by code that returns it,
// in one machine for each kernel. An emulator counts instructions, not what they cost a
// processor.
func BenchmarkPatchedCall(b *testing.B) {
	for _, k := range []struct {
		name, prefix, number string
		args, ways           []string
	}{
		{"6.1", "__x64_sys_", "146", []string{"6.1"}, []string{"klp", "direct", "shared"}},
		{"6.12", "__x64_sys_", "146", []string{"6.12"}, []string{"klp", "direct", "shared"}},
		{"arm64", "__arm64_sys_", "125", []string{"--arch", "arm64", "6.12"}, []string{"direct", "shared"}},
	} {
		b.Run(k.name, func(b *testing.B) {
			t := &target{vm.Fetched(b, k.args...), k.name}
			dir := b.TempDir()
			c := vm.Config{Kernel: t.Kernel, CPUs: 1, Timeout: 20 * time.Minute, Limit: 5 * time.Minute, Files: crossBuilt(b, dir, t.Arch)}
			call := "/bin/probe calls " + k.number + " 1000"
			do := func(name, script string) { c.Steps = append(c.Steps, vm.Step{Name: name, Script: script}) }
			do("unpatched", call)
			for _, way := range k.ways {
				file := filepath.Join(dir, way+".lpatch")
				args := append([]string{"--name", "by-" + way, "--return", "0", "--config", t.Path("config"), "--symvers", t.Path("headers/Module.symvers")}, ways[way]...)
				if code, said := t.stub(b, file, append(args, k.prefix+"sched_get_priority_max")...); code != 0 {
					b.Fatalf("%s: exit %d:\n%s", way, code, said)
				}
				c.Files = append(c.Files, vm.File{Name: "/" + way + ".lpatch", From: file})
				do("", fmt.Sprintf("livepatch apply /%s.lpatch --kernel >/tmp/out 2>&1 || cat /tmp/out", way))
				do(way, call)
				do("", fmt.Sprintf("livepatch revert by-%s --kernel >/tmp/out 2>&1 || cat /tmp/out", way))
			}
			do("reverted", call)
			for b.Loop() {
				report(b, c)
			}
		})
	}
}

// report runs the machine once and reports what it measured.
func report(b *testing.B, c vm.Config) {
	r, err := vm.Run(context.Background(), c)
	if err != nil {
		b.Fatal(err)
	}
	for _, s := range r.Steps {
		ns, err := strconv.ParseFloat(strings.TrimSpace(s.Output), 64)
		if s.Exit != 0 || err != nil && strings.TrimSpace(s.Output) != "" {
			b.Fatalf("%s: exit %d: %s", s.Name, s.Exit, s.Output)
		}
		if s.Name != "" {
			b.ReportMetric(ns, s.Name+"-ns/call")
		}
	}
}
