//go:build linux && (amd64 || arm64)

package process

import (
	"fmt"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// become makes this process the program, once the helper of that number has
// been asked to trace this thread.
func become(l *Launch, req *request, helper int, ask func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	req.PID, req.TID = unix.Getpid(), unix.Gettid()
	// Without Yama there is no such call and no need for it.
	_ = unix.Prctl(unix.PR_SET_PTRACER, uintptr(helper), 0, 0, 0)
	if err := ask(); err != nil {
		return err
	}
	return fmt.Errorf("%w %s: %w", ErrExec, l.Path, unix.Exec(l.Path, l.Args, l.Env))
}

// detached starts a command in a session of its own: what the terminal sends is
// not for it.
func detached(cmd *exec.Cmd) { cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true} }
