//go:build linux && (amd64 || arm64)

package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"livepatch/internal/pack"
	"livepatch/internal/refusal"
)

// applyAndRevert goes once through the life of a patch of a server.
func applyAndRevert(t *testing.T, target, payload string, threads int) {
	pkg := handMade(t, "fix", target, payload, replaced{old: "answer", new: "answer_new"})
	s := start(t, target, strconv.Itoa(threads))
	before := text(t, s.pid)
	if a, _, _ := s.ask(); a != 2 {
		t.Fatalf("answer is %d before", a)
	}
	res, err := Apply([]int{s.pid}, pkg, Options{Timeout: time.Minute})
	must(t, err)
	t.Logf("applied: %d threads, %d tries, pause %+v", res.Processes[0].Threads, res.Attempts, res.Pause)
	journalMatches(t, pkg, res.Processes[0].Images[0])
	a, n, _ := s.ask()
	if a != 1001 {
		t.Fatalf("answer is %d after", a)
	}
	wantCondition(t, s, "applied")
	res, err = Revert(s.pid, "fix", Options{Timeout: time.Minute})
	must(t, err)
	t.Logf("reverted: %d tries, pause %+v", res.Attempts, res.Pause)
	a, n2, wrong := s.ask()
	if a != 2 || n2 <= n || wrong != 0 {
		t.Fatalf("answer is %d after revert, counter %d after %d, %d wrong", a, n2, n, wrong)
	}
	if text(t, s.pid) != before {
		t.Error("executable pages differ after revert")
	}
}

func TestOneThread(t *testing.T) {
	applyAndRevert(t, compile(t, "server", "-pthread", "server.c"), compile(t, "fix.o", "-c", "-fPIE", "server_fix.c"), 0)
}

func TestThreadsUnderLoad(t *testing.T) {
	payload := compile(t, "fix.o", "-c", "-fPIE", "server_fix.c")
	for _, n := range []int{16, 128} {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			applyAndRevert(t, compile(t, "server", "-pthread", "-DREST=200", "server.c"), payload, n)
		})
	}
}

func TestStatic(t *testing.T) {
	applyAndRevert(t, compile(t, "server", "-static", "-pthread", "-DREST=100", "server.c"), compile(t, "fix.o", "-c", "-fno-pie", "server_fix.c"), 4)
}

func TestFixedAddress(t *testing.T) {
	applyAndRevert(t, compile(t, "server", "-no-pie", "-pthread", "-DREST=100", "server.c"), compile(t, "fix.o", "-c", "-fno-pie", "server_fix.c"), 4)
}

func TestTightLoop(t *testing.T) {
	applyAndRevert(t, compile(t, "server", "-pthread", "server.c"), compile(t, "fix.o", "-c", "-fPIE", "server_fix.c"), 2)
}

// use applies and reverts a patch of answer() in a target.
func use(t *testing.T, target string, pkg *pack.Package, image string, args ...string) {
	t.Helper()
	s := start(t, target, args...)
	before := text(t, s.pid)
	res, err := Apply([]int{s.pid}, pkg, Options{Timeout: time.Minute})
	must(t, err)
	if im := res.Processes[0].Images[0]; im.Target != image {
		t.Errorf("patched %s", im.Target)
	}
	a, n, _ := s.ask()
	if a != 1001 {
		t.Fatalf("answer is %d after", a)
	}
	_, err = Revert(s.pid, "fix", Options{Timeout: time.Minute})
	must(t, err)
	if a, n2, wrong := s.ask(); a != 2 || n2 <= n || wrong != 0 {
		t.Fatalf("answer is %d after revert, counter %d after %d, %d wrong", a, n2, n, wrong)
	}
	if text(t, s.pid) != before {
		t.Error("executable pages differ after revert")
	}
}

func TestLibraryInTwoProcesses(t *testing.T) {
	lib := compile(t, "libanswer.so", "-shared", "-fPIC", "libanswer.c")
	dir := filepath.Dir(lib)
	user := compile(t, "user", "-L"+dir, "-Wl,-rpath,"+dir, "libuser.c", "-lanswer")
	pkg := handMade(t, "fix", lib, compile(t, "fix.o", "-c", "-fPIC", "server_fix.c"), replaced{old: "answer", new: "answer_new"})
	one, two, three := start(t, user), start(t, user), start(t, user)
	res, err := Apply([]int{one.pid, two.pid}, pkg, Options{})
	must(t, err)
	t.Logf("pause %+v", res.Pause)
	for _, im := range []Image{res.Processes[0].Images[0], res.Processes[1].Images[0]} {
		journalMatches(t, pkg, im)
	}
	want := func(s *running, answer int) {
		t.Helper()
		if a, _, _ := s.ask(); a != answer {
			t.Errorf("answer %d, want %d", a, answer)
		}
	}
	want(one, 1001)
	want(two, 1001)
	want(three, 2)
	// All or none: one of them has the patch already.
	_, err = Apply([]int{two.pid, three.pid}, pkg, Options{})
	wantCode(t, err, refusal.AlreadyApplied)
	want(three, 2)
	must(t, os.Remove(lib)) // what counts is memory
	_, err = Remove([]int{one.pid, two.pid}, Removal{Name: "fix"}, Options{})
	must(t, err)
	want(one, 2)
	want(two, 2)
	_, err = Apply([]int{three.pid}, pkg, Options{})
	must(t, err)
	want(three, 1001)
}

func TestCPlusPlus(t *testing.T) {
	target := compile(t, "cxx", "-pthread", "cxx.cc")
	use(t, target, handMade(t, "fix", target, compile(t, "fix.o", "-c", "-fPIE", "server_fix.c"), replaced{old: "answer", new: "answer_new"}), "cxx")
}

func TestThreadStorm(t *testing.T) {
	target := compile(t, "storm", "-pthread", "storm.c")
	pkg := handMade(t, "fix", target, compile(t, "fix.o", "-c", "-fPIE", "server_fix.c"), replaced{old: "answer", new: "answer_new"})
	for range 5 {
		use(t, target, pkg, "storm")
	}
}

func TestBareProgram(t *testing.T) {
	target := compile(t, "bare", "-static", "-nostdlib", "-fno-stack-protector", "-Wl,--build-id", "bare.c")
	pkg := handMade(t, "fix", target, compile(t, "fix.o", "-c", "-fno-pie", "server_fix.c"), replaced{old: "answer", new: "answer_new"})
	s := start(t, target)
	p, err := open(s.pid)
	must(t, err)
	defer p.close()
	if g, err := p.findGadgets(); err != nil || (g.slack == 0) != vdsoCalls {
		t.Fatalf("gadgets %+v, %v: the program was to have none", g, err)
	}
	use(t, target, pkg, "bare")
}

func TestImports(t *testing.T) {
	target := compile(t, "server", "-pthread", "-DREST=100", "server.c")
	use(t, target, handMade(t, "fix", target, compile(t, "fix.o", "-c", "-fPIE", "imports_fix.c"), replaced{old: "answer", new: "answer_new"}), "server", "4")
}

func TestSleeper(t *testing.T) {
	target := compile(t, "sleeper", "sleeper.c")
	pkg := handMade(t, "fix", target, compile(t, "fix.o", "-c", "-fPIE", "server_fix.c"), replaced{old: "answer", new: "answer_new"})
	s := start(t, target)
	res, err := Apply([]int{s.pid}, pkg, Options{})
	must(t, err)
	t.Logf("%d tries, pause %+v", res.Attempts, res.Pause)
	for i := 0; ; i++ {
		var a, n, cut int
		_, err := fmt.Sscan(s.line(), &a, &n, &cut)
		must(t, err)
		if cut != 0 {
			t.Fatalf("%d sleeps were cut short", cut)
		}
		if a == 1001 {
			break
		}
		if i == 10 {
			t.Fatalf("answer %d", a)
		}
	}
}

// Nothing is cut short when all threads sleep for longer than the time-out.
func TestAllWait(t *testing.T) {
	target := compile(t, "sleepers", "-pthread", "sleepers.c")
	pkg := handMade(t, "fix", target, compile(t, "fix.o", "-c", "-fPIE", "server_fix.c"), replaced{old: "answer", new: "answer_new"})
	s := start(t, target)
	pages := text(t, s.pid)
	p, err := open(s.pid)
	must(t, err)
	defer p.close()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		tids, err := p.tids()
		must(t, err)
		if len(tids) == 4 && !slices.ContainsFunc(tids, func(tid int) bool { return p.rank(tid) != rankLate }) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("they do not all sleep")
		}
	}
	_, err = Apply([]int{s.pid}, pkg, Options{Timeout: 300 * time.Millisecond})
	var busy *BusyError
	if !errors.As(err, &busy) || busy.Reason != allWait || StateOf(err) != Unchanged {
		t.Fatalf("error %v", err)
	}
	t.Log(err)
	if text(t, s.pid) != pages {
		t.Error("executable pages have changed")
	}
	if list, err := Status(s.pid); err != nil || len(list.Patches) != 0 {
		t.Errorf("status %v, %v", list, err)
	}
	// A signal ends the sleep of one; that one will do.
	done, ended := make(chan bool), make(chan bool)
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			case <-time.After(100 * time.Millisecond):
				_ = unix.Kill(s.pid, unix.SIGUSR1)
			}
		}
	}()
	_, err = Apply([]int{s.pid}, pkg, Options{Timeout: 20 * time.Second})
	close(done)
	<-ended
	must(t, err)
	a, _, cut := s.tell()
	for i := 0; i < 200 && a != 1001; i++ { // it has told more than once
		a, _, cut = s.tell()
	}
	if a != 1001 || cut >= 100 {
		t.Errorf("answer %d, %d sleeps were cut short", a, cut)
	}
}

func TestStoppedByJobControl(t *testing.T) {
	target, pkg := serverAndFix(t, "-pthread", "-DREST=100", "server.c")
	s := start(t, target, "4")
	must(t, s.cmd.Process.Signal(unix.SIGSTOP))
	awaitState(t, s.pid, 'T')
	_, err := Apply([]int{s.pid}, pkg, Options{})
	must(t, err)
	awaitState(t, s.pid, 'T')
	must(t, s.cmd.Process.Signal(unix.SIGCONT))
	if a, _, wrong := s.ask(); a != 1001 || wrong != 0 {
		t.Errorf("answer %d, %d wrong", a, wrong)
	}
}

// awaitState waits until a process is in a state.
func awaitState(t *testing.T, pid int, state byte) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		s, err := readStatus(fmt.Sprintf("/proc/%d/status", pid))
		must(t, err)
		if s.state == state {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process is in state %c, not %c", s.state, state)
		}
	}
}

func TestDryRun(t *testing.T) {
	target, pkg := serverAndFix(t, "-pthread", "-DREST=100", "server.c")
	s := start(t, target, "4")
	before, maps := text(t, s.pid), readFile(t, fmt.Sprintf("/proc/%d/maps", s.pid))
	res, err := Apply([]int{s.pid}, pkg, Options{DryRun: true})
	must(t, err)
	if !res.DryRun || len(res.Processes[0].Images[0].Journal) != 0 || res.Processes[0].Images[0].Base != 0 {
		t.Errorf("result %+v", res)
	}
	must(t, Verify(s.pid, pkg, Options{}))
	if text(t, s.pid) != before || string(readFile(t, fmt.Sprintf("/proc/%d/maps", s.pid))) != string(maps) {
		t.Error("the process has changed")
	}
}

func TestPoller(t *testing.T) {
	target := compile(t, "poller", "poller.c")
	use(t, target, handMade(t, "fix", target, compile(t, "fix.o", "-c", "-fPIE", "server_fix.c"), replaced{old: "answer", new: "answer_new"}), "poller")
}
