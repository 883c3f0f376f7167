//go:build linux

package test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// How long sites takes for a kernel with debug information, and how much memory, beside
// objdump, which disassembles the same file. Built and run as users do it.
func BenchmarkSites(b *testing.B) {
	out, err := exec.Command("../scripts/kernel", "--cached", "--dbg", "6.12").Output()
	if err != nil {
		b.Skip("run scripts/kernel --dbg 6.12")
	}
	dir := strings.TrimSpace(string(out))
	program := filepath.Join(b.TempDir(), "livepatch")
	if out, err := exec.Command("go", "build", "-o", program, "../cmd/livepatch").CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	vmlinux := filepath.Join(dir, "dbg", "vmlinux")
	for _, bm := range []struct {
		name string
		args []string
	}{
		{"vmlinux/json", []string{program, "sites", "--json", vmlinux}},
		{"vmlinux/text", []string{program, "sites", "--tables", vmlinux}},
		{"vmlinux/objdump", []string{"objdump", "-d", vmlinux}},
		{"vmlinuz/json", []string{program, "sites", "--json", filepath.Join(dir, "vmlinuz")}},
	} {
		b.Run(bm.name, func(b *testing.B) {
			peak, cpu, runs := int64(0), time.Duration(0), 0
			for b.Loop() {
				cmd := exec.Command(bm.args[0], bm.args[1:]...) // its output goes nowhere
				if err := cmd.Run(); err != nil {
					b.Fatal(err)
				}
				peak = max(peak, cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
				cpu += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
				runs++
			}
			b.ReportMetric(cpu.Seconds()/float64(runs), "cpu-s")
			b.ReportMetric(float64(peak)/1024, "peak-MB")
		})
	}
}
