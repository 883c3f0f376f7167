package kernel

import (
	"context"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"livepatch/internal/testkit/vm"
)

// BenchmarkPatchedCall measures a system call that looks a constant up (0, the
// highest priority of SCHED_NORMAL), unpatched and patched by code that returns it,
// in one machine for each kernel. An emulator counts instructions, not what they
// cost a processor.
func BenchmarkPatchedCall(b *testing.B) {
	for _, k := range []struct {
		name, function, number string
		args, flavours         []string
	}{
		{"6.1", "__x64_sys_sched_get_priority_max", "146", []string{"6.1"}, []string{"klp", "direct"}},
		{"6.12", "__x64_sys_sched_get_priority_max", "146", []string{"6.12"}, []string{"klp", "direct"}},
		{"arm64", "__arm64_sys_sched_get_priority_max", "125", []string{"--arch", "arm64", "6.12"}, []string{"direct"}},
	} {
		b.Run(k.name, func(b *testing.B) {
			t := &target{vm.Fetched(b, k.args...), k.name}
			dir := b.TempDir()
			c := vm.Config{Kernel: t.Kernel, CPUs: 1, Timeout: 10 * time.Minute, Limit: 5 * time.Minute, Files: crossBuilt(b, dir, t.Arch)}
			call := "/bin/probe calls " + k.number + " 1000"
			c.Steps = append(c.Steps, vm.Step{Name: "unpatched", Script: call})
			for _, flavour := range k.flavours {
				file := filepath.Join(dir, flavour+".lpatch")
				if code, said := t.stub(b, file, "--name", flavour, "--flavour", flavour, "--return", "0", "--config", t.Path("config"),
					"--symvers", t.Path("headers/Module.symvers"), k.function); code != 0 {
					b.Fatalf("%s: exit %d:\n%s", flavour, code, said)
				}
				c.Files = append(c.Files, vm.File{Name: "/" + flavour + ".lpatch", From: file})
				c.Steps = append(c.Steps,
					vm.Step{Name: "", Script: "livepatch apply /" + flavour + ".lpatch --kernel >/tmp/out 2>&1 || cat /tmp/out"},
					vm.Step{Name: flavour, Script: call},
					vm.Step{Name: "", Script: "livepatch revert " + flavour + " --kernel >/tmp/out 2>&1 || cat /tmp/out"})
			}
			c.Steps = append(c.Steps, vm.Step{Name: "reverted", Script: call})
			for b.Loop() {
				r, err := vm.Run(context.Background(), c)
				if err != nil {
					b.Fatal(err)
				}
				for _, s := range r.Steps {
					if s.Exit != 0 {
						b.Fatalf("%s: exit %d: %s", s.Name, s.Exit, s.Output)
					}
					if ns, err := strconv.ParseFloat(strings.TrimSpace(s.Output), 64); s.Name != "" && err == nil {
						b.ReportMetric(ns, s.Name+"-ns/call")
					}
				}
			}
		})
	}
}
