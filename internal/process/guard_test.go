//go:build linux && amd64

package process

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func guardOptions(sync Sync) Options {
	opt := int3Options(sync)
	opt.Guard = true
	return opt
}

// Threads that block SIGTRAP half of the time meet breakpoints. Without a tracer the
// first one to do so ends the process.
func TestGuardUnderFire(t *testing.T) {
	rounds := 4 // of 120 places each
	if os.Getenv("LIVEPATCH_SLOW") != "" {
		rounds = 10_000 / 120
	}
	target, pkgOf := fire(t)
	pkg := pkgOf(upTo(60)...)
	for _, sync := range []Sync{SyncInterrupt, SyncMembarrier} {
		t.Run(string(sync), func(t *testing.T) {
			s := start(t, target, "3", "toggling")
			underFire(t, s, pkg, guardOptions(sync), rounds)
			leftAlone(t, s)
		})
	}
}

// leftAlone makes sure that nothing of the change is left: no action of SIGTRAP, no
// handler, no tracer of any thread.
func leftAlone(t *testing.T, s *running) {
	t.Helper()
	noHandlers(t, s)
	p := &proc{pid: s.pid}
	tids, err := p.tids()
	must(t, err)
	for _, tid := range tids {
		if st, err := p.threadStatus(tid); err == nil && (st.tracer != 0 || st.caught&trapBit != 0) {
			t.Errorf("thread %d: traced by %d, catches %#x", tid, st.tracer, st.caught)
		}
	}
}

// The loader dies at its steps, also when it has sent a thread on that is still about
// to receive the signal of the breakpoint.
func TestGuardLoaderDies(t *testing.T) {
	target, pkgOf := fire(t)
	loaderDies(t, target, pkgOf(upTo(3)...), []string{"sent:1", "begun:1", "round 1:1", "sent:3", "written:5", "synchronised 2:1", "round 3:1", "committed:1", "drained:1"},
		"LIVEPATCH_GUARD=1")
}

func TestGuardTargetEnds(t *testing.T) {
	target, pkgOf := fire(t)
	for _, step := range []string{"begun", "round 1", "synchronised 1", "round 2", "round 3", "committed"} {
		s := start(t, target, "3", "toggling")
		opt := guardOptions("")
		opt.hook = func(at string) {
			if at == step {
				_ = unix.Kill(s.pid, unix.SIGKILL)
				awaitEnd(t, s.pid)
			}
		}
		if _, err := Apply([]int{s.pid}, pkgOf(0, 1), opt); !errors.Is(err, errEnded) {
			t.Errorf("%s: %v", step, err)
		}
	}
}

// A process that is stopped by job control stays stopped, and goes on afterwards. If a
// thread was stopped inside the bytes that change, it is busy until then.
func TestGuardOfStopped(t *testing.T) {
	target, pkgOf := fire(t)
	for _, step := range []string{"handlers", "begun", "synchronised 1", "round 2"} {
		s := start(t, target, "2")
		pkg, opt := pkgOf(upTo(5)...), guardOptions("")
		opt.Timeout = 3 * time.Second
		opt.hook = func(at string) {
			if at == step {
				must(t, unix.Kill(s.pid, unix.SIGSTOP))
			}
		}
		busy := apply(s, pkg, opt)()
		if busy != nil && !errors.As(busy, new(*BusyError)) {
			t.Fatal(busy)
		}
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) { // it has to be scheduled to stop again
			st, err := readStatus(fmt.Sprintf("/proc/%d/status", s.pid))
			must(t, err)
			if st.state == 'T' && st.tracer == 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: state %c, traced by %d", step, st.state, st.tracer)
			}
		}
		must(t, unix.Kill(s.pid, unix.SIGCONT))
		s.serves()
		if busy != nil {
			must(t, apply(s, pkg, guardOptions(""))())
		}
		must(t, revert(s, "fix", guardOptions(""))()) // and the handler, if it had to stay
		leftAlone(t, s)
	}
}

// Threads that are started and end all the time are traced, too. On a busy machine the
// loader may not keep up with them; then nothing is changed.
func TestGuardInThreadStorm(t *testing.T) {
	target := compile(t, "storm", "-pthread", "storm.c")
	pkg := handMade(t, "fix", target, compile(t, "fix.o", "-c", "-fPIE", "server_fix.c"), replaced{old: "answer", new: "answer_new"})
	s := start(t, target)
	opt := guardOptions("")
	opt.Timeout = 5 * time.Second
	change := func(do func() error) {
		t.Helper()
		for range 20 {
			err := do()
			if err == nil {
				return
			}
			if state := StateOf(err); !errors.As(err, new(*BusyError)) || state != Unchanged && state != RolledBack {
				t.Fatalf("%v (%s)", err, state)
			}
			t.Log(err)
		}
		t.Fatal("it is always busy")
	}
	for range 3 {
		change(apply(s, pkg, opt))
		if a, _, wrong := s.ask(); a != 1001 || wrong != 0 {
			t.Errorf("answer %d, %d wrong", a, wrong)
		}
		change(revert(s, "fix", opt))
		if a, _, wrong := s.ask(); a != 2 || wrong != 0 {
			t.Errorf("answer %d, %d wrong", a, wrong)
		}
	}
	time.Sleep(10 * time.Millisecond)
	leftAlone(t, s)
}
