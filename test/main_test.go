//go:build linux && amd64

package test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"livepatch/internal/pack"
	"livepatch/internal/process"
	"livepatch/internal/refusal"
	"livepatch/internal/testkit"
)

// roleVar makes the test binary play another program: "trace PID" or "apply
// PID PACKAGE". It says one line and ends when its standard input does.
const roleVar = "LIVEPATCH_TEST_ROLE"

func TestMain(m *testing.M) {
	role := strings.Fields(os.Getenv(roleVar))
	if len(role) == 0 {
		code := m.Run()
		if builtIn != "" {
			os.RemoveAll(builtIn)
		}
		os.Exit(code)
	}
	if err := play(role); err != nil {
		fmt.Println(err)
	}
	io.Copy(io.Discard, os.Stdin)
}

func play(role []string) error {
	pid, err := strconv.Atoi(role[1])
	if err != nil {
		return err
	}
	if role[0] == "trace" {
		runtime.LockOSThread() // the tracer is a thread; it keeps the main one
		if err := unix.PtraceSeize(pid); err != nil {
			return fmt.Errorf("trace %d: %w", pid, err)
		}
		fmt.Println("traced")
		return nil
	}
	b, err := os.ReadFile(role[2])
	if err != nil {
		return err
	}
	pkg, err := pack.Read(b)
	if err != nil {
		return err
	}
	if _, err := process.Apply([]int{pid}, pkg, process.Options{}); err != nil {
		fmt.Printf("%s, %s\n", codes(err), process.StateOf(err))
		return nil
	}
	fmt.Println("patched")
	return nil
}

// anotherProgram is a copy of this one: a process that runs the very file is
// taken for another loader, which will be done soon.
func anotherProgram(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "tracer")
	if err := os.WriteFile(path, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// codes are the refusal codes of an error, or its text.
func codes(err error) string {
	list := refusal.Of(err)
	if list == nil {
		return err.Error()
	}
	var s []string
	for _, r := range list {
		s = append(s, string(r.Code))
	}
	return strings.Join(s, " ")
}

// startRole runs the test binary in a role and returns its first line. Without
// privilege it lacks CAP_SYS_ADMIN, which suspending seccomp needs.
func startRole(t *testing.T, privileged bool, role ...string) string {
	t.Helper()
	exe := "/proc/self/exe"
	if role[0] == "trace" {
		exe = anotherProgram(t)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), roleVar+"="+strings.Join(role, " "))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan error)
	go func() {
		// A thread that gave the capability up must not come back.
		runtime.LockOSThread()
		const capSysAdmin = 21
		if !privileged && os.Geteuid() == 0 {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, capSysAdmin, 0, 0, 0); err != nil {
				started <- err
				return
			}
		}
		started <- cmd.Start()
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		testkit.Await(t, cmd)
	})
	defer testkit.Bound(cmd)()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("%v: %v", role, err)
	}
	return strings.TrimSpace(line)
}
