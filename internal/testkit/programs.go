package testkit

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// patience bounds every wait for a program: far longer than one takes on a busy
// machine, far shorter than what go test allows all tests of a package.
const patience = time.Minute

// End kills a program that the test has started and waits for its end, but not
// for ever: a thread that somebody still traces keeps a dead process in being.
func End(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	if err := Kill(cmd); err != nil {
		t.Error(err)
	}
}

// Kill does what End does, where there is no test.
func Kill(cmd *exec.Cmd) error {
	if cmd.ProcessState != nil {
		return nil
	}
	_ = cmd.Process.Kill()
	return await(cmd, patience)
}

// Await waits for a program to end by itself.
func Await(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	if err := await(cmd, patience); err != nil {
		t.Error(err)
	}
}

func await(cmd *exec.Cmd, limit time.Duration) error {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	select {
	case <-ended:
		return nil
	case <-time.After(limit):
		return fmt.Errorf("%s, process %d, has not ended after %v:%s", filepath.Base(cmd.Path), cmd.Process.Pid, limit, threads(cmd.Process.Pid))
	}
}

// threads says what the threads of a process do, where the system tells.
func threads(pid int) string {
	list, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	text := ""
	for _, name := range list {
		b, _ := os.ReadFile(name)
		text += "\n\tthread " + filepath.Base(filepath.Dir(name))
		for _, line := range strings.Split(string(b), "\n") {
			if strings.HasPrefix(line, "State:") || strings.HasPrefix(line, "TracerPid:") {
				text += ", " + strings.Join(strings.Fields(line), " ")
			}
		}
	}
	return text
}

// Bound kills a program unless the function that it returns is called soon, so
// that who reads from it sees the end of its output instead of waiting.
func Bound(cmd *exec.Cmd) (done func()) {
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	return func() { timer.Stop() }
}
