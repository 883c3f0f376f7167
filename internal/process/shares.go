//go:build linux && (amd64 || arm64)

package process

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"livepatch/internal/live"
)

// A process that is not a thread of the target and has the same memory
// (clone(2) with CLONE_VM alone) is not stopped with it. The kernel compares the
// memory of two processes by kcmp(2), which may be left out of a kernel, be
// forbidden by a seccomp filter, and takes the permission to trace both.

// shared notes all patches if another process has the same memory, or if that
// cannot be told.
func (x *reclaiming) shared() error {
	all, err := All()
	if err != nil {
		return err
	}
	if _, err := sameMemory(x.p.pid, x.p.pid); err != nil {
		x.unshared("whether another process has the same memory cannot be told: kcmp: %v", err)
		return nil
	}
	size, err := memorySize(x.p.pid)
	if err != nil {
		return x.p.gone(err)
	}
	for _, pid := range all {
		if pid == x.p.pid {
			continue
		}
		same, err := sameMemory(x.p.pid, pid)
		switch {
		case errors.Is(err, unix.ESRCH):
		case err != nil && !otherSize(pid, size):
			x.unshared("whether process %d has the same memory cannot be told: kcmp: %v", pid, err)
			return nil
		case err == nil && same:
			for _, r := range x.free() {
				x.keep(r, live.StaysThread, "process %d has the same memory", pid)
			}
		}
	}
	return nil
}

// unshared notes all patches for want of knowledge.
func (x *reclaiming) unshared(format string, args ...any) {
	for _, r := range x.free() {
		x.keep(r, live.StaysUnread, format, args...)
	}
}

// sameMemory asks the kernel whether two processes have the same memory.
func sameMemory(a, b int) (bool, error) {
	const memory = 1 // KCMP_VM
	r, _, e := unix.Syscall6(unix.SYS_KCMP, uintptr(a), uintptr(b), memory, 0, 0, 0)
	if e != 0 {
		return false, e
	}
	return r == 0, nil
}

// memorySize is the size of a process's memory as /proc/PID/statm has it.
func memorySize(pid int) (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	size, _, _ := bytes.Cut(b, []byte(" "))
	return string(size), err
}

// otherSize reports whether the memory of a process is of another size, which
// everybody may read: then it is another memory. So it is if the process has ended.
func otherSize(pid int, size string) bool {
	have, err := memorySize(pid)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH)
	}
	return have != size
}
