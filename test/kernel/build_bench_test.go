package kernel

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// How long livepatch build takes for a patch of one object of a prepared kernel, and
// how much of that is its own: the time in which none of the programs runs that it
// starts (compiler, make, objtool), and its processor time without theirs.
func BenchmarkBuild(b *testing.B) {
	for _, v := range []string{"6.1", "6.12"} {
		b.Run(v, func(b *testing.B) {
			k := fetched(b, v)
			out := filepath.Join(b.TempDir(), "x.lpatch")
			command := func() *exec.Cmd { return k.buildCommand(b, out, []string{casePatch(b, "changed-string", v)}) }
			if said, err := command().CombinedOutput(); err != nil { // prepares, and compiles before the patch
				b.Fatalf("%v\n%s", err, said)
			}
			var sum taken
			for b.Loop() {
				sum.add(measure(b, command()))
			}
			n := float64(b.N)
			b.ReportMetric(sum.alone.Seconds()/n, "own-s")
			b.ReportMetric(sum.own.Seconds()/n, "own-cpu-s")
			b.ReportMetric(sum.children.Seconds()/n, "children-cpu-s")
		})
	}
}

// taken is what a program took.
type taken struct {
	alone         time.Duration // elapsed while it had no child
	own, children time.Duration // of the processor
}

func (t *taken) add(u taken) {
	t.alone += u.alone
	t.own += u.own
	t.children += u.children
}

// measure runs a program and looks every four milliseconds whether it has a child.
func measure(b *testing.B, cmd *exec.Cmd) (t taken) {
	b.Helper()
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	last := time.Now()
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	proc := fmt.Sprintf("/proc/%d", cmd.Process.Pid)
	for state := byte('R'); state != 'Z'; time.Sleep(4 * time.Millisecond) {
		state, t.own, t.children = processorTimes(b, proc)
		now := time.Now()
		if !hasChild(proc) {
			t.alone += now.Sub(last)
		}
		last = now
	}
	if err := cmd.Wait(); err != nil {
		b.Fatalf("%v\n%s", err, &said)
	}
	return t
}

// hasChild reports whether one of the threads of a process has a child.
func hasChild(proc string) bool {
	files, err := filepath.Glob(proc + "/task/*/children")
	for _, f := range files {
		if text, err := os.ReadFile(f); err == nil && len(text) > 0 {
			return true
		}
	}
	return err != nil
}

// processorTimes reads the state of a process and the processor time of itself and of the
// children that it has waited for: proc_pid_stat(5), fields 3 and 14 to 17.
func processorTimes(b *testing.B, proc string) (state byte, own, children time.Duration) {
	b.Helper()
	text, err := os.ReadFile(proc + "/stat")
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := bytes.Cut(text, []byte(") ")) // the name may have spaces
	fields := bytes.Fields(rest)
	if len(fields) < 15 {
		b.Fatalf("%s/stat: %q", proc, text)
	}
	const tick = time.Second / 100 // USER_HZ
	ticks := func(i int) time.Duration {
		n, err := strconv.Atoi(string(fields[i-3]))
		if err != nil {
			b.Fatalf("%s/stat: %v", proc, err)
		}
		return time.Duration(n) * tick
	}
	return fields[0][0], ticks(14) + ticks(15), ticks(16) + ticks(17)
}
