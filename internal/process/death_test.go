//go:build linux && (amd64 || arm64)

package process

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"livepatch/internal/pack"
)

// TestMain is a loader if the environment says so.
func TestMain(m *testing.M) {
	if os.Getenv("LIVEPATCH_LOADER") != "" {
		if err := load(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// load does what LIVEPATCH_DO says with a package, "apply" if it says nothing, in
// the way of LIVEPATCH_SWITCH, with LIVEPATCH_GUARD while all threads are traced.
// It is killed when the n-th step of the name in LIVEPATCH_DIE_AT is reached.
func load() error {
	name, count, _ := strings.Cut(os.Getenv("LIVEPATCH_DIE_AT"), ":")
	n, _ := strconv.Atoi(count)
	pid, err := strconv.Atoi(os.Getenv("LIVEPATCH_PID"))
	if err != nil {
		return err
	}
	b, err := os.ReadFile(os.Getenv("LIVEPATCH_PACKAGE"))
	if err != nil {
		return err
	}
	pkg, err := pack.Read(b)
	if err != nil {
		return err
	}
	opt := Options{Switch: Switch(os.Getenv("LIVEPATCH_SWITCH")), Guard: os.Getenv("LIVEPATCH_GUARD") != "", Timeout: time.Minute, hook: func(at string) {
		if at != name {
			return
		}
		if n--; n == 0 {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
	}}
	switch os.Getenv("LIVEPATCH_DO") {
	case "revert":
		_, err = Revert(pid, pkg.Manifest.Name, opt)
	case "reclaim":
		opt.MaxPause = time.Minute
		_, err = Reclaim([]int{pid}, pkg.Manifest.Name, opt)
	case "retarget":
		_, err = Retarget([]int{pid}, pkg, opt)
	default:
		pids := []int{pid}
		if second, err := strconv.Atoi(os.Getenv("LIVEPATCH_PID2")); err == nil {
			pids = append(pids, second)
		}
		_, err = Apply(pids, pkg, opt)
	}
	return err
}

// tell asks keeper.c through its signal.
func (r *running) tell() (answer, counter, wrong int) {
	r.t.Helper()
	must(r.t, r.cmd.Process.Signal(unix.SIGUSR1))
	_, err := fmt.Sscan(r.line(), &answer, &counter, &wrong)
	must(r.t, err)
	return answer, counter, wrong
}

func keeper(t *testing.T) (string, *pack.Package) {
	target := compile(t, "keeper", "-Wno-unused-result", "keeper.c", "-lm")
	return target, handMade(t, "fix", target, compile(t, "fix.o", "-c", "-fPIE", "imports_fix.c"), replaced{old: "answer", new: "answer_new"})
}

func TestRegistersSurvive(t *testing.T) {
	target, pkg := keeper(t)
	s := start(t, target)
	for i := range 50 {
		pkg.Manifest.Name = fmt.Sprintf("fix%d", i)
		_, err := Apply([]int{s.pid}, pkg, Options{})
		must(t, err)
		if a, _, wrong := s.tell(); a != 1001 || wrong != 0 {
			t.Fatalf("answer %d, wrong %d", a, wrong)
		}
		_, err = Revert(s.pid, pkg.Manifest.Name, Options{})
		must(t, err)
	}
	if a, n, wrong := s.tell(); a != 2 || n != 50 || wrong != 0 {
		t.Errorf("answer %d, counter %d, wrong %d", a, n, wrong)
	}
}

// The loader is killed at every step of an injected system call. The target
// goes on as if nothing had been, and a second loader does the work.
func TestLoaderDies(t *testing.T) {
	target, pkg := keeper(t)
	steps := []string{"frame:1", "registers:1", "sigreturn:1", "stopped:1"}
	for i := 1; i <= 3; i++ {
		for _, s := range []string{"call", "entry", "exit"} {
			steps = append(steps, fmt.Sprintf("%s:%d", s, i))
		}
	}
	for _, step := range steps {
		t.Run(step, func(t *testing.T) {
			s := start(t, target)
			before := text(t, s.pid)
			killedAt(t, s, pkg, step)
			for range 5 {
				if a, _, wrong := s.tell(); a != 2 || wrong != 0 {
					t.Fatalf("answer %d, wrong %d after the loader's death", a, wrong)
				}
				time.Sleep(2 * time.Millisecond) // it looks at its registers some dozen times
			}
			if text(t, s.pid) != before {
				t.Error("executable pages have changed")
			}
			_, err := Apply([]int{s.pid}, pkg, Options{})
			must(t, err)
			if a, _, wrong := s.tell(); a != 1001 || wrong != 0 {
				t.Errorf("answer %d, wrong %d", a, wrong)
			}
		})
	}
}

// A signal that a thread has stopped to receive is not lost if the loader dies then.
func TestSignalOutlivesLoader(t *testing.T) {
	target, _ := keeper(t)
	s := start(t, target)
	look := func() error {
		p, err := open(s.pid)
		if err != nil {
			return err
		}
		defer p.close()
		p.opt = &Options{}
		th, err := p.seizeThread(s.pid)
		if err != nil {
			return err
		}
		if err := s.cmd.Process.Signal(unix.SIGUSR1); err != nil {
			return err
		}
		ws, err := th.wait(time.Now().Add(time.Minute))
		if err == nil && ws.StopSignal() != unix.SIGUSR1 {
			err = fmt.Errorf("it stopped for %v", ws.StopSignal())
		}
		return err
	}
	stopped := make(chan error)
	var trace func()
	trace = func() {
		runtime.LockOSThread() // for good: the tracer is a thread that ends with this function
		if unix.Gettid() != os.Getpid() {
			stopped <- look()
			return
		}
		defer runtime.UnlockOSThread() // the first thread never ends; another one is taken while this one is held
		next := make(chan bool)
		go func() { trace(); close(next) }()
		<-next
	}
	go trace()
	must(t, <-stopped)
	var answer, counter, wrong int
	_, err := fmt.Sscan(s.line(), &answer, &counter, &wrong)
	must(t, err)
	if answer != 2 || wrong != 0 {
		t.Errorf("answer %d, wrong %d", answer, wrong)
	}
}

// The loader is killed when it has moved threads out of the function that they
// call all the time. They go on.
func TestLoaderDiesAfterMovingThreads(t *testing.T) {
	target, pkg := serverAndFix(t, "-pthread", "server.c")
	s := start(t, target, "16")
	for range 5 {
		killedAt(t, s, pkg, "checked:1")
		if a, _, wrong := s.ask(); a != 2 || wrong != 0 {
			t.Fatalf("answer %d, wrong %d after the loader's death", a, wrong)
		}
	}
	must(t, apply(s, pkg, Options{Timeout: time.Minute})())
	if a, _, wrong := s.ask(); a != 1001 || wrong != 0 {
		t.Errorf("answer %d, wrong %d", a, wrong)
	}
}
