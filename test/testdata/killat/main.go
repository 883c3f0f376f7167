// Command killat runs a loader and kills it when it begins its Nth write to another
// process, by ptrace or by pwrite64: killat N PROGRAM ARGUMENT…. With 0 nothing is
// killed. The last line says how many writes there were. It works on every machine
// that has PTRACE_GET_SYSCALL_INFO (Linux 5.3).
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: killat N PROGRAM ARGUMENT…")
		os.Exit(2)
	}
	n, err := strconv.Atoi(os.Args[1])
	if err == nil {
		err = run(n, os.Args[2:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "killat:", err)
		os.Exit(1)
	}
}

func run(n int, argv []string) error {
	runtime.LockOSThread()
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	pid, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Ptrace: true},
	})
	if err != nil {
		return err
	}
	writes, end, err := follow(pid, n)
	if err != nil {
		return err
	}
	killed := end.Signaled() && end.Signal() == unix.SIGKILL
	fmt.Printf("killat: %d writes, killed %t\n", writes, killed)
	if !killed && end.ExitStatus() != 0 {
		return fmt.Errorf("%s: exit %d", path, end.ExitStatus())
	}
	return nil
}

// follow traces a process and its threads to the end of the process.
func follow(pid, n int) (writes int, end unix.WaitStatus, err error) {
	const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_EXITKILL
	const stopped = 0x80 // of PTRACE_O_TRACESYSGOOD
	first := true
	for {
		var ws unix.WaitStatus
		tid, err := unix.Wait4(-1, &ws, unix.WALL, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return writes, ws, fmt.Errorf("wait: %w", err)
		case tid == pid && (ws.Exited() || ws.Signaled()):
			return writes, ws, nil
		case !ws.Stopped():
			continue
		}
		signal := 0
		switch s := ws.StopSignal(); {
		case first:
			first = false
			if err := unix.PtraceSetOptions(tid, options); err != nil {
				return writes, ws, err
			}
		case s == unix.SIGTRAP|stopped:
			if writesTo(tid) {
				if writes++; writes == n {
					_ = unix.Kill(pid, unix.SIGKILL)
				}
			}
		case int(ws)>>16 != 0, s == unix.SIGSTOP: // events, and the first stop of a thread
		default:
			signal = int(s)
		}
		_ = unix.PtraceSyscall(tid, signal) // one that was killed is gone
	}
}

// writesTo reports whether a thread is at the entry to a system call that writes
// to another process.
func writesTo(tid int) bool {
	var info struct { // struct ptrace_syscall_info of include/uapi/linux/ptrace.h, its entry
		op       uint8
		_        [3]uint8
		_        uint32
		_, _, nr uint64
		args     [6]uint64
		_        uint64
	}
	const entry, getInfo = 1, 0x420e
	_, _, e := unix.Syscall6(unix.SYS_PTRACE, getInfo, uintptr(tid), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
	if e != 0 || info.op != entry {
		return false
	}
	return info.nr == unix.SYS_PWRITE64 || info.nr == unix.SYS_PTRACE && (info.args[0] == unix.PTRACE_POKETEXT || info.args[0] == unix.PTRACE_POKEDATA)
}
