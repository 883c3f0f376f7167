//go:build linux && (amd64 || arm64)

package process

import (
	"errors"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// errGone is returned when a thread ends while it is traced.
var errGone = errors.New("thread has ended")

// errLate is returned when a thread does not stop in time.
var errLate = errors.New("thread did not stop in time")

const (
	ptraceGetRseq  = 0x420f
	traceSyscall   = 0x80 // PTRACE_O_TRACESYSGOOD sets this bit in SIGTRAP
	stopPoll       = 50 * time.Microsecond
	spinsBefore    = 50
	looksAfter     = 200 // polls
	seizeOptions   = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACEEXEC
	suspendSeccomp = unix.PTRACE_O_SUSPEND_SECCOMP
)

// ptrace makes one request. All requests come from one OS thread, to which the
// caller is locked: the kernel takes only the tracer's own thread for it.
func ptrace(request, tid int, addr uintptr, data unsafe.Pointer) error {
	return ptraceWord(request, tid, addr, uintptr(data))
}

func ptraceWord(request, tid int, addr, data uintptr) error {
	if _, _, e := unix.RawSyscall6(unix.SYS_PTRACE, uintptr(request), uintptr(tid), addr, data, 0, 0); e != 0 {
		if e == unix.ESRCH {
			return errGone
		}
		return e
	}
	return nil
}

// A thread is one that is seized.
type thread struct {
	p       *proc
	tid     int
	stopped bool
	kept    bool // by whoever seized it: not let go here
	grouped bool // by job control
	guarded bool // traced until there are no breakpoints
	signal  int  // to deliver when it is let go: it stopped to receive this
	regs    registers
	ran     time.Time // when a visit last saw it run
}

// seize makes this OS thread the tracer of a thread. While the process starts
// another program, the kernel lets nobody in, and the start waits for notice of
// the ends of those that are seized already: another OS thread gives it.
func (p *proc) seize(tid int) (*thread, error) {
	const soon = 20 * time.Millisecond
	done, ended := make(chan bool), make(chan bool)
	help := time.AfterFunc(soon, func() {
		defer close(ended)
		for {
			p.reap()
			select {
			case <-done:
				return
			case <-time.After(soon / 4):
			}
		}
	})
	_, _, e := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(tid), 0, p.options, 0, 0)
	if !help.Stop() {
		close(done)
		<-ended
	}
	switch e {
	case 0:
		p.seizing(tid)
		return &thread{p: p, tid: tid}, nil
	case unix.ESRCH:
		return nil, errGone
	}
	return nil, e
}

// seizing remembers that this process traces a thread, until the thread is let go
// or seen to end.
func (p *proc) seizing(tid int) {
	if p.seized == nil {
		p.seized = map[int]bool{}
	}
	p.seized[tid] = true
}

// interrupt asks the thread to stop.
func (t *thread) interrupt() error {
	if t.kept && t.stopped {
		return nil
	}
	return ptraceWord(unix.PTRACE_INTERRUPT, t.tid, 0, 0)
}

// wait waits for the thread's next stop until the deadline.
func (t *thread) wait(deadline time.Time) (unix.WaitStatus, error) {
	for spins := 0; ; spins++ {
		ws, got, err := nextStop(t.tid)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, errGone
		case got && (ws.Exited() || ws.Signaled()):
			delete(t.p.seized, t.tid)
			return ws, errGone
		case got && int(ws)>>16 == unix.PTRACE_EVENT_CLONE:
			if err := t.starts(); err != nil {
				return 0, err
			}
			continue
		case got:
			return ws, nil
		}
		if time.Now().After(deadline) {
			return 0, errLate
		}
		if spins < spinsBefore {
			unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
			continue
		}
		t.p.attendAll()
		if spins%looksAfter == 0 {
			t.p.reap()
			if !t.held() {
				return 0, errGone
			}
		}
		ts := unix.NsecToTimespec(int64(stopPoll))
		unix.Nanosleep(&ts, nil)
	}
}

// nextStop returns what wait4(2) would tell of a traced thread, without waiting. A
// stop to receive a signal is not taken by that: when its tracer dies, the kernel lets
// the thread receive what no wait has taken, and a signal that is lost may be that of
// a breakpoint, behind which the thread would go on.
func nextStop(tid int) (ws unix.WaitStatus, got bool, err error) {
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PID, tid, &info, unix.WEXITED|unix.WSTOPPED|unix.WNOHANG|unix.WNOWAIT|unix.WALL, nil); err != nil || info.Signo == 0 {
		return 0, false, err
	}
	const trapped, status = 4, 6 // CLD_TRAPPED; the word of si_status
	code := (*[status + 1]int32)(unsafe.Pointer(&info))[status]
	if ws = unix.WaitStatus(code<<8 | 0x7f); info.Code == trapped && receives(tid, ws) {
		return ws, true, nil
	}
	n, err := unix.Wait4(tid, &ws, unix.WNOHANG|unix.WALL, nil)
	return ws, n == tid, err
}

// receives reports whether a thread has stopped to receive a signal: not for an event
// or a system call, and not for the trap of a step.
func receives(tid int, ws unix.WaitStatus) bool {
	s := ws.StopSignal()
	return int(ws)>>16 == 0 && s != unix.SIGTRAP|traceSyscall && !(s == unix.SIGTRAP && (&thread{tid: tid}).stepped())
}

// held reports whether the thread is one that we trace and that can stop. If it
// is the first one and another has started a program, the number is that one's,
// and if the process is our own child, waiting for it would never end.
func (t *thread) held() bool {
	s, err := readStatus(fmt.Sprintf("/proc/%d/status", t.tid))
	return err == nil && s.tracer == unix.Gettid() && s.state != 'Z' && s.state != 'X'
}

// waitStop waits until an interrupted thread stands still: at the interruption,
// in a group stop, or about to receive a signal, which is then kept for later.
func (t *thread) waitStop(deadline time.Time) error {
	if t.kept && t.stopped {
		return nil
	}
	ws, err := t.wait(deadline)
	if err != nil {
		return err
	}
	t.stopped = true
	switch {
	case int(ws)>>16 == unix.PTRACE_EVENT_EXEC:
		return errExec
	case int(ws)>>16 == unix.PTRACE_EVENT_STOP:
		t.grouped = ws.StopSignal() != unix.SIGTRAP
	case ws.StopSignal() == unix.SIGTRAP|traceSyscall:
	default:
		t.signal = int(ws.StopSignal())
	}
	return nil
}

// resume lets the thread run on, to its next system call stop if request is
// PTRACE_SYSCALL.
func (t *thread) resume(request, signal int) error {
	t.stopped = false
	return ptraceWord(request, t.tid, 0, uintptr(signal))
}

// detach lets the thread go. One that runs is stopped first, for only a stopped
// thread can be let go.
func (t *thread) detach() error {
	if !t.stopped {
		if err := t.interrupt(); err != nil {
			return err
		}
		// Late, it may stand still all the same.
		if err := t.waitStop(time.Now().Add(time.Minute)); err != nil && err != errExec && err != errLate {
			return err
		}
	}
	switch {
	case t.kept:
		return nil
	case t.guarded:
		return t.goOn()
	}
	t.stopped = false
	err := ptraceWord(unix.PTRACE_DETACH, t.tid, 0, uintptr(t.signal))
	if err == nil {
		delete(t.p.seized, t.tid)
	}
	return err
}

func (t *thread) sigmask() (uint64, error) {
	var mask uint64
	if err := ptrace(unix.PTRACE_GETSIGMASK, t.tid, 8, unsafe.Pointer(&mask)); err != nil {
		return 0, fmt.Errorf("read signal mask of thread %d: %w", t.tid, err)
	}
	return mask, nil
}

func (t *thread) setSigmask(mask uint64) error {
	if err := ptrace(unix.PTRACE_SETSIGMASK, t.tid, 8, unsafe.Pointer(&mask)); err != nil {
		return fmt.Errorf("set signal mask of thread %d: %w", t.tid, err)
	}
	return nil
}

// rseqArea returns the address of the thread's struct rseq, 0 if it has none.
func (t *thread) rseqArea() uint64 {
	var c struct {
		pointer          uint64
		size, sig, flags uint32
		_                uint32
	}
	if ptrace(ptraceGetRseq, t.tid, unsafe.Sizeof(c), unsafe.Pointer(&c)) != nil {
		return 0
	}
	return c.pointer
}

// siginfo is the start of siginfo_t, which has 128 bytes.
type siginfo struct {
	signo, errno, code int32
	_                  [116]byte
}

// poke writes words through ptrace, for kernels that do not let /proc/PID/mem
// write what the process itself may not.
func (t *thread) poke(addr uint64, b []byte) error {
	_, err := unix.PtracePokeData(t.tid, uintptr(addr), b)
	return err
}
