//go:build linux && amd64

package process

import (
	"os/exec"
	"testing"

	"livepatch/internal/testkit"
)

// What it costs to look at a process, and to ask whether it is the same.
func BenchmarkLook(b *testing.B) {
	cmd := exec.Command("/bin/sleep", "1000")
	must(b, cmd.Start())
	b.Cleanup(func() { testkit.End(b, cmd) })
	b.Run("look", func(b *testing.B) {
		for b.Loop() {
			must(b, Look(cmd.Process.Pid, func(*Seen) {}))
		}
	})
	b.Run("identify", func(b *testing.B) {
		for b.Loop() {
			_, err := Identify(cmd.Process.Pid)
			must(b, err)
		}
	})
}
