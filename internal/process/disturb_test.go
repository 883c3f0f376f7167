//go:build linux && (amd64 || arm64)

package process

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"livepatch/internal/pack"
	"livepatch/internal/testkit"
)

func disturbed(t *testing.T, source string) (string, *pack.Package) {
	target := compile(t, strings.TrimSuffix(source, ".c"), "-pthread", source)
	return target, handMade(t, "fix", target, compile(t, "fix.o", "-c", "-fPIE", "server_fix.c"), replaced{old: "answer", new: "answer_new"})
}

// Children are all old or all new, a child from before stays what it was, and
// spawning (the parent stands still in vfork) is no obstacle.
func TestForksAndSpawns(t *testing.T) {
	target, pkg := disturbed(t, "forker.c")
	s := start(t, target)
	var a, olds, news, wrong, spawns int
	tell := func() {
		t.Helper()
		_, err := io.WriteString(s.in, "?\n")
		must(t, err)
		_, err = fmt.Sscan(s.line(), &a, &olds, &news, &wrong, &spawns)
		must(t, err)
	}
	// until waits for children of the present version and for a spawned one.
	until := func(count *int) {
		t.Helper()
		tell()
		want, spawned := *count+2, spawns+2
		for deadline := time.Now().Add(10 * time.Second); *count < want || spawns < spawned; tell() {
			if time.Now().After(deadline) {
				t.Fatalf("%d old, %d new, %d spawned", olds, news, spawns)
			}
			time.Sleep(time.Millisecond)
		}
	}
	for range 10 {
		_, err := Apply([]int{s.pid}, pkg, Options{Timeout: time.Minute})
		must(t, err)
		until(&news)
		if a != 1001 {
			t.Fatalf("answer %d", a)
		}
		_, err = io.WriteString(s.in, "c\n")
		must(t, err)
		if line := s.line(); line != "2 0 0" {
			t.Fatalf("the first child answers %q", line)
		}
		_, err = Revert(s.pid, "fix", Options{Timeout: time.Minute})
		must(t, err)
		until(&olds)
		if a != 2 || wrong != 0 {
			t.Fatalf("answer %d, %d children went wrong", a, wrong)
		}
	}
	t.Logf("%d old, %d new, %d spawned", olds, news, spawns)
}

// twoFunctions is a package with two writes.
func twoFunctions(t *testing.T) (string, *pack.Package) {
	t.Helper()
	target := compile(t, "two", "-pthread", "two.c")
	return target, handMade(t, "fix", target, compile(t, "fix.o", "-c", "-fPIE", "two_fix.c"),
		replaced{old: "answer", new: "answer_new"}, replaced{old: "second", new: "second_new"})
}

// A write fails after its first byte: what was written before is undone while
// everything stands.
func TestRollBack(t *testing.T) {
	target, pkg := twoFunctions(t)
	for i := range 2 {
		s := start(t, target)
		pages := text(t, s.pid)
		n := 0
		fault := func(uint64) bool { n++; return n == i+1 }
		_, err := Apply([]int{s.pid}, pkg, Options{fault: fault})
		if !errors.Is(err, errFault) || StateOf(err) != RolledBack {
			t.Fatalf("error %v, %s", err, StateOf(err))
		}
		if text(t, s.pid) != pages {
			t.Error("executable pages have changed")
		}
		if list, err := Status(s.pid); err != nil || len(list.Patches) != 0 {
			t.Errorf("status %v, %v: the memory is still there", list, err)
		}
		if a, b, _ := s.ask(); a != 2 || b != 3 {
			t.Errorf("answers %d, %d", a, b)
		}
		// A revert that fails leaves the patch applied.
		_, err = Apply([]int{s.pid}, pkg, Options{})
		must(t, err)
		pages, n = text(t, s.pid), 0
		_, err = Revert(s.pid, "fix", Options{fault: fault})
		if !errors.Is(err, errFault) || StateOf(err) != RolledBack {
			t.Fatalf("error %v, %s", err, StateOf(err))
		}
		if text(t, s.pid) != pages {
			t.Error("executable pages have changed")
		}
		if list, err := Status(s.pid); err != nil || len(list.Patches) != 1 || list.Patches[0].Condition() != "applied" {
			t.Errorf("status %+v, %v", list, err)
		}
		if a, b, _ := s.ask(); a != 1001 || b != 2001 {
			t.Errorf("answers %d, %d", a, b)
		}
	}
}

// ends expects an error with certain words, soon.
func ends(t *testing.T, words string, do func() error) {
	t.Helper()
	begin := time.Now()
	err := do()
	if err == nil || !strings.Contains(err.Error(), words) || strings.Contains(err.Error(), "\n") {
		t.Errorf("error %q, want %q", err, words)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestTargetEnds(t *testing.T) {
	target, pkg := twoFunctions(t)
	for _, step := range []string{"frame", "registers", "entry", "exit", "sigreturn", "mapped", "stopped", "written"} {
		t.Run(step, func(t *testing.T) {
			s := start(t, target)
			opt := Options{Timeout: 2 * time.Second, hook: func(at string) {
				if at == step {
					_ = unix.Kill(s.pid, unix.SIGKILL)
					awaitEnd(t, s.pid)
				}
			}}
			ends(t, fmt.Sprintf("process %d has ended", s.pid), apply(s, pkg, opt))
		})
	}
}

// Looking for threads that have ended takes no notice of one that has stopped
// away from who waits for it. If it did, the target would stand still.
func TestReapLeavesStops(t *testing.T) {
	target, _ := serverAndFix(t, "-pthread", "server.c")
	s := start(t, target, "4")
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p, err := open(s.pid)
	must(t, err)
	defer p.close()
	defer p.release()
	tids, err := p.tids()
	must(t, err)
	for _, tid := range tids {
		th, err := p.seizeThread(tid)
		must(t, err)
		p.threads = append(p.threads, th)
		must(t, th.interrupt())
	}
	for _, th := range p.threads {
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			st, err := p.threadStatus(th.tid)
			must(t, err)
			if st.state == 't' {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("thread %d is in state %c", th.tid, st.state)
			}
		}
	}
	p.reap()
	for _, th := range p.threads {
		must(t, th.waitStop(time.Now().Add(2*time.Second)))
	}
}

// A thread that is seized and has ended keeps its process in being until the
// tracer has taken note. Whatever happened to a thread while it was held, release
// does that: who started the target gets to know its end while the tracer lives.
func TestDeadThreadsAreSettled(t *testing.T) {
	target, _ := serverAndFix(t, "-pthread", "server.c")
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for _, forgotten := range []bool{false, true} {
		s := start(t, target, "32")
		p, err := open(s.pid)
		must(t, err)
		must(t, p.stop(time.Now().Add(10*time.Second)))
		must(t, s.cmd.Process.Kill())
		for _, th := range slices.Clone(p.threads) {
			if forgotten { // as if it had not been there when it was looked for
				p.drop(th)
			}
		}
		p.release()
		p.close()
		if len(p.seized) != 0 {
			t.Errorf("%d threads are owed something", len(p.seized))
		}
		testkit.Await(t, s.cmd)
	}
}

// Threads that live are let go too if nobody remembers that they are held.
func TestLivingThreadsAreSettled(t *testing.T) {
	target, pkg := serverAndFix(t, "-pthread", "server.c")
	s := start(t, target, "8")
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p, err := open(s.pid)
	must(t, err)
	must(t, p.stop(time.Now().Add(10*time.Second)))
	for i, th := range slices.Clone(p.threads) {
		if i%2 == 0 {
			must(t, th.resume(unix.PTRACE_CONT, 0))
		}
		p.drop(th)
	}
	p.release()
	p.close()
	_, err = Apply([]int{s.pid}, pkg, Options{Timeout: time.Minute})
	must(t, err)
	if a, _, wrong := s.ask(); a != 1001 || wrong != 0 {
		t.Errorf("answer %d, wrong %d", a, wrong)
	}
}

// awaitEnd waits until a process has no memory any more.
func awaitEnd(t *testing.T, pid int) {
	for range 5000 {
		if p := (&proc{pid: pid}); !p.lives() { // the first thread may end before the others
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Error("it does not end")
}

func TestTargetStartsAnotherProgram(t *testing.T) {
	target, pkg := disturbed(t, "changing.c")
	s := start(t, target)
	again := func(at string) {
		if at != "mapped" {
			return
		}
		if _, err := io.WriteString(s.in, "!\n"); err != nil {
			t.Error(err)
		}
		if line := s.line(); line != "ready" {
			t.Errorf("it says %q", line)
		}
	}
	ends(t, "it has started another program", apply(s, pkg, Options{hook: again}))
	if a, _, _ := s.ask(); a != 2 {
		t.Errorf("answer %d", a)
	}
	_, err := Apply([]int{s.pid}, pkg, Options{})
	must(t, err)
	if a, _, _ := s.ask(); a != 1001 {
		t.Errorf("answer %d", a)
	}
}

// A target that becomes another program all the time is patched, or it is
// said what happened; it goes on in any case.
func TestTargetStartsProgramsAllTheTime(t *testing.T) {
	target, pkg := disturbed(t, "changing.c")
	s := start(t, target, "again")
	for _, way := range []Switch{SwitchStop, SwitchInt3} {
		applied := 0
		for range 40 {
			_, err := Apply([]int{s.pid}, pkg, Options{Timeout: 300 * time.Millisecond, Switch: way})
			switch state := StateOf(err); {
			case err == nil:
				applied++
			case state == Unchanged, state == RolledBack && way == SwitchInt3:
				t.Log(err)
			default:
				t.Errorf("%s: %v", state, err)
			}
		}
		t.Logf("%s: applied %d times", way, applied)
	}
	// The first thread is dead for a moment each time.
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		st, err := readStatus(fmt.Sprintf("/proc/%d/status", s.pid))
		must(t, err)
		if st.state != 'Z' && st.tracer == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the target is in state %c, traced by %d", st.state, st.tracer)
		}
	}
	// It still starts programs: its random addresses change.
	aux := func() string {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/auxv", s.pid)) // not there for a moment
		return string(b)
	}
	before := aux()
	for deadline := time.Now().Add(5 * time.Second); aux() == before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the target does nothing any more")
		}
	}
}

// A thread that is given up does not make the call later that it was to make, and
// has its registers, wherever it was.
func TestLateCallIsNotMade(t *testing.T) {
	target, _ := keeper(t)
	s := start(t, target)
	runtime.LockOSThread() // who traces is a thread
	defer runtime.UnlockOSThread()
	p, err := open(s.pid)
	must(t, err)
	defer p.close()
	give := func(do func(c *injection) error) {
		t.Helper()
		err := p.withThread(time.Now().Add(time.Minute), &Options{}, func(c *injection) error { return errors.Join(do(c), errLate) })
		var busy *BusyError
		if !errors.As(err, &busy) {
			t.Fatalf("error %v", err)
		}
		for range 3 {
			if a, _, wrong := s.tell(); a != 2 || wrong != 0 {
				t.Fatalf("answer %d, wrong %d", a, wrong)
			}
		}
	}
	prepare := func(c *injection, nr uint64, args ...uint64) error {
		r := c.registers(nr, args...)
		return c.t.setRegs(&r)
	}
	give(func(c *injection) error { return prepare(c, unix.SYS_MUNMAP, p.main().Base, 1<<20) })
	for range 20 { // it is somewhere on its way
		give(func(c *injection) error {
			return errors.Join(prepare(c, unix.SYS_GETPPID), c.t.resume(unix.PTRACE_SYSCALL, 0))
		})
	}
}
