//go:build linux && (amd64 || arm64)

package process

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"livepatch/internal/pack"
	"livepatch/internal/refusal"
	"livepatch/internal/testkit"
)

// server builds a target and a package for it.
func serverAndFix(t *testing.T, args ...string) (target string, pkg *pack.Package) {
	t.Helper()
	target = compile(t, "server", args...)
	return target, handMade(t, "fix", target, compile(t, "fix.o", "-c", "-fPIE", "server_fix.c"), replaced{old: "answer", new: "answer_new"})
}

// refused expects a refusal with a code, and an unchanged target.
func refused(t *testing.T, s *running, code refusal.Code, do func() error) {
	t.Helper()
	before := text(t, s.pid)
	err := do()
	wantCode(t, err, code)
	t.Log(err)
	if StateOf(err) != Unchanged {
		t.Errorf("state %q", StateOf(err))
	}
	if text(t, s.pid) != before {
		t.Error("executable pages have changed")
	}
	if list, err := Status(s.pid); err != nil || len(list.Patches) != 0 {
		t.Errorf("status %v, %v", list, err)
	}
}

func apply(s *running, pkg *pack.Package, opt Options) func() error {
	return func() error {
		_, err := Apply([]int{s.pid}, pkg, opt)
		return err
	}
}

func TestWrongBuild(t *testing.T) {
	_, pkg := serverAndFix(t, "-pthread", "server.c")
	s := start(t, compile(t, "server", "-pthread", "-DREST=77", "server.c"))
	refused(t, s, refusal.WrongTarget, apply(s, pkg, Options{}))
	if a, _, _ := s.ask(); a != 2 {
		t.Errorf("answer %d", a)
	}
}

func TestBreakpointAtSite(t *testing.T) {
	target, pkg := serverAndFix(t, "-pthread", "server.c")
	s := start(t, target)
	p, err := open(s.pid)
	must(t, err)
	defer p.close()
	im, err := p.findImage(&pkg.Manifest.Targets[0])
	must(t, err)
	site := im.Bias + pkg.Manifest.Targets[0].Writes[0].Address
	must(t, p.writeMem(breakpointCode(), site, nil))
	refused(t, s, refusal.SiteChanged, apply(s, pkg, Options{}))
}

func TestAlreadyTraced(t *testing.T) {
	target, pkg := serverAndFix(t, "-pthread", "server.c")
	s := start(t, target)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	th, err := (&proc{pid: s.pid}).seize(s.pid)
	must(t, err)
	refused(t, s, refusal.AlreadyTraced, apply(s, pkg, Options{}))
	must(t, th.detach())
}

// without runs a function on a thread that lacks a capability.
func without(t *testing.T, capability uint, do func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var old, less [2]unix.CapUserData
	must(t, unix.Capget(&h, &old[0]))
	less = old
	less[capability/32].Effective &^= 1 << (capability % 32)
	must(t, unix.Capset(&h, &less[0]))
	defer func() { must(t, unix.Capset(&h, &old[0])) }()
	do()
}

func TestStrictSeccomp(t *testing.T) {
	target, pkg := serverAndFix(t, "strict.c")
	s := start(t, target)
	without(t, unix.CAP_SYS_ADMIN, func() {
		refused(t, s, refusal.Seccomp, apply(s, pkg, Options{}))
	})
	if a, _, _ := s.ask(); a != 2 {
		t.Fatalf("answer %d", a)
	}
	if why := cannotSuspendSeccomp(); why != "" {
		t.Skipf("patching it takes privilege: %s", why)
	}
	_, err := Apply([]int{s.pid}, pkg, Options{})
	must(t, err)
	if a, _, _ := s.ask(); a != 1001 {
		t.Errorf("answer %d", a)
	}
}

func TestNoPermission(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("a process of another user takes root to start")
	}
	target, pkg := serverAndFix(t, "-pthread", "server.c")
	s := start(t, target)
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its user
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); e != 0 {
			done <- e
			return
		}
		_, err := Apply([]int{s.pid}, pkg, Options{})
		done <- err
	}()
	err := <-done
	refused(t, s, refusal.NoPermission, func() error { return err })
}

func TestNeverOffTheStack(t *testing.T) {
	target := compile(t, "stuck", "-pthread", "stuck.c")
	pkg := handMade(t, "fix", target, compile(t, "fix.o", "-c", "-fPIE", "server_fix.c"), replaced{old: "answer", new: "answer_new"})
	s := start(t, target)
	before := text(t, s.pid)
	_, err := Apply([]int{s.pid}, pkg, Options{Timeout: 2 * time.Second})
	var busy *BusyError
	if !errors.As(err, &busy) || StateOf(err) != Unchanged || len(busy.Holders) != 1 {
		t.Fatalf("error %v", err)
	}
	h := busy.Holders[0]
	if h.Function != "answer" || h.Offset == 0 || h.Thread == s.pid || h.Name != "stuck thread" || h.Found != InFrame || h.Frame != 1 {
		t.Errorf("holder %+v", h)
	}
	want := fmt.Sprintf("thread %d (stuck thread) of process %d is in answer+%#x, frame %d of its stack, after %d tries", h.Thread, s.pid, h.Offset, h.Frame, busy.Attempts)
	if err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
	t.Log(err)
	if text(t, s.pid) != before {
		t.Error("executable pages have changed")
	}
	if list, err := Status(s.pid); err != nil || len(list.Patches) != 0 {
		t.Errorf("status %v, %v: the memory is still there", list, err)
	}
	if a, _, _ := s.ask(); a != 2 {
		t.Errorf("answer %d", a)
	}
}

func TestMaxPause(t *testing.T) {
	target, pkg := serverAndFix(t, "-pthread", "-DREST=100", "server.c")
	s := start(t, target, "16")
	before := text(t, s.pid)
	_, err := Apply([]int{s.pid}, pkg, Options{MaxPause: time.Nanosecond, Timeout: 2 * time.Second})
	var busy *BusyError
	if !errors.As(err, &busy) || StateOf(err) != Unchanged || busy.Attempts < 2 {
		t.Fatalf("error %v", err)
	}
	t.Log(err)
	if text(t, s.pid) != before {
		t.Error("executable pages have changed")
	}
	if list, err := Status(s.pid); err != nil || len(list.Patches) != 0 {
		t.Errorf("status %v, %v: the memory is still there", list, err)
	}
}

func TestClaims(t *testing.T) {
	target, pkg := serverAndFix(t, "-pthread", "server.c")
	other := handMade(t, "other", target, compile(t, "fix.o", "-c", "-fPIE", "server_fix.c"), replaced{old: "answer", new: "answer_new"})
	s := start(t, target)
	_, err := Revert(s.pid, "fix", Options{})
	wantCode(t, err, refusal.NotApplied)
	_, err = Apply([]int{s.pid}, pkg, Options{})
	must(t, err)
	_, err = Apply([]int{s.pid}, pkg, Options{})
	wantCode(t, err, refusal.AlreadyApplied)
	_, err = Apply([]int{s.pid}, other, Options{})
	wantCode(t, err, refusal.FunctionClaimed)
	_, err = Revert(s.pid, "other", Options{})
	wantCode(t, err, refusal.NotApplied)
	_, err = Revert(s.pid, "fix", Options{})
	must(t, err)
	_, err = Revert(s.pid, "fix", Options{})
	wantCode(t, err, refusal.NotApplied)
	_, err = Apply([]int{s.pid}, other, Options{})
	must(t, err)
	if a, _, _ := s.ask(); a != 1001 {
		t.Errorf("answer %d", a)
	}
}

func wantCode(t *testing.T, err error, code refusal.Code) {
	t.Helper()
	list := refusal.Of(err)
	if list == nil || list[0].Code != code {
		t.Fatalf("error %v, want a refusal [%s]", err, code)
	}
}

func TestCoroutines(t *testing.T) {
	target := compile(t, "coroutine", "coroutine.c")
	pkg := handMade(t, "fix", target, compile(t, "fix.o", "-c", "-fPIE", "server_fix.c"), replaced{old: "answer", new: "answer_new"})
	s := start(t, target)
	refused(t, s, refusal.Coroutines, apply(s, pkg, Options{}))
	// A frame of answer() rests on the other stack.
	var busy *BusyError
	_, err := Apply([]int{s.pid}, pkg, Options{ScanMemory: true, Timeout: 200 * time.Millisecond})
	if !errors.As(err, &busy) {
		t.Fatalf("error %v", err)
	}
	t.Log(err)
}

func TestSignalStack(t *testing.T) {
	target := compile(t, "altstack", "altstack.c")
	pkg := handMade(t, "fix", target, compile(t, "fix.o", "-c", "-fPIE", "server_fix.c"), replaced{old: "answer", new: "answer_new"})
	s := start(t, target)
	before := text(t, s.pid)
	_, err := Apply([]int{s.pid}, pkg, Options{})
	wantCode(t, err, refusal.ForeignStack)
	if text(t, s.pid) != before || StateOf(err) != Unchanged {
		t.Error("executable pages have changed")
	}
	_, err = Apply([]int{s.pid}, pkg, Options{DryRun: true})
	wantCode(t, err, refusal.ForeignStack)
}

func TestGone(t *testing.T) {
	target, pkg := serverAndFix(t, "-pthread", "server.c")
	s := start(t, target)
	testkit.End(t, s.cmd)
	_, err := Apply([]int{s.pid}, pkg, Options{})
	if want := fmt.Sprintf("process %d", s.pid); err == nil || len(err.Error()) < len(want) || err.Error()[:len(want)] != want {
		t.Errorf("error %v", err)
	}
}

func TestKernelThread(t *testing.T) {
	const kthreadd = 2
	if s, err := os.ReadFile("/proc/2/comm"); err != nil || string(s) != "kthreadd\n" {
		t.Skip("no kernel threads are to be seen here, as in a container")
	}
	if os.Getuid() != 0 {
		t.Skip("only root may look at a kernel thread")
	}
	_, err := Status(kthreadd)
	wantCode(t, err, refusal.Unsupported)
}
