//go:build unix

package compile

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

// lockFile waits until nobody else has the file locked, and locks it until it
// is closed.
func lockFile(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// replaceProcess runs a program instead of this one.
func replaceProcess(path string, args []string) error {
	return syscall.Exec(path, args, os.Environ())
}

// ownGroup makes a program the head of a group of processes that ends as a
// whole: a compiler driver has children.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
