//go:build linux && (amd64 || arm64)

package process

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"livepatch/internal/pack"
	"livepatch/internal/refusal"
	"livepatch/trampoline"
)

// The loader is traced from outside and killed at its n-th system call, whatever
// that is. The target runs on, every function old or new, every thread with its
// own registers; and another loader brings it into order.

// way is a way to redirect and to write that the loader is killed in.
type way struct {
	name     string
	dispatch trampoline.Dispatch
	env      []string // for the loader that is killed
}

func ways() (list []way) {
	for _, d := range trampoline.Dispatches {
		list = append(list, way{name: string(d) + "-stop", dispatch: d})
	}
	if os.Getenv("LIVEPATCH_SLOW") != "" { // TestInt3LoaderDies and TestSlotLoaderDies do it at some steps
		for _, d := range trampoline.Dispatches {
			list = append(list, way{name: string(d) + "-int3", dispatch: d, env: []string{"LIVEPATCH_SWITCH=int3"}})
		}
		for _, d := range []trampoline.Dispatch{trampoline.Direct, trampoline.Slot} {
			list = append(list, way{name: string(d) + "-guard", dispatch: d, env: []string{"LIVEPATCH_SWITCH=int3", "LIVEPATCH_GUARD=1"}})
		}
	}
	return list
}

// deed is what the loader does when it is killed.
type deed struct {
	name          string
	before, after string // conditions of both versions: those applied
}

func deeds() []deed {
	return []deed{{"apply", "", "fix1"}, {"retarget", "fix1", "fix2"}, {"revert", "fix1", ""}}
}

func TestLoaderKilledAtEverySystemCall(t *testing.T) {
	object := func(version int) string {
		return compile(t, "steady.o", "-c", "-fPIE", patchable, fmt.Sprintf("-DVERSION=%d", version), "steady.c")
	}
	before, one, two := object(0), object(1), object(2)
	target := compile(t, "steady", "-pthread", before)
	for _, w := range ways() {
		versions := [2]*pack.Package{
			dispatched(t, w.dispatch, "fix1", target, before, one), dispatched(t, w.dispatch, "fix2", target, before, two),
		}
		for _, d := range deeds() {
			t.Run(w.name+"/"+d.name, func(t *testing.T) {
				c := &crash{t: t, s: start(t, target), w: w, d: d, versions: versions, outcomes: map[string]int{}}
				c.run()
			})
		}
	}
}

// crash is a series of deaths in one target.
type crash struct {
	t        *testing.T
	s        *running
	w        way
	d        deed
	versions [2]*pack.Package
	outcomes map[string]int
	pages    string // of the unpatched target
	kept     string // and with sites that stay; empty if none do
	at       killAt
	lost     int // mappings of loaders that were killed before they wrote a record
}

// killAt says when a loader is killed: at the n-th entry to a system call, of
// those with a number if that is not negative.
type killAt struct {
	nr int64
	n  int
}

func (c *crash) run() {
	c.pages = text(c.t, c.s.pid)
	c.reset(c.d.before)
	// Once without being killed, to know how far it is.
	calls, err := c.load(killAt{})
	must(c.t, err)
	c.expect(c.d.after)
	if c.w.dispatch == trampoline.Slot {
		c.reset("")
		c.kept = text(c.t, c.s.pid)
	}
	points := c.points(calls)
	for i, at := range points {
		c.at = at
		if c.kept != "" && i%2 == 0 { // begin with the text, or with the records
			c.clear()
		}
		c.reset(c.d.before)
		_, err := c.load(at)
		if err != nil && !errors.Is(err, errKilled) {
			c.t.Fatalf("killed at %+v: %v", at, err)
		}
		c.afterDeath(at, Remedy(i%3))
		if c.t.Failed() {
			c.t.Fatalf("killed at %+v", at)
		}
	}
	c.t.Logf("%d deaths: %v", len(points), c.outcomes)
	want := []string{"interrupted", c.d.before, c.d.after}
	for _, w := range want {
		if c.outcomes[w] == 0 {
			c.t.Errorf("no death left the target %q: %v", w, slices.Collect(maps.Keys(c.outcomes)))
		}
	}
}

// points are where the loader is killed, given how many calls of each number it
// makes. It acts on the target by two of them, ptrace and writes: a death at another
// one leaves what a death at the next of these leaves. LIVEPATCH_SLOW takes each of
// these, of ptrace up to 200, and some of all, LIVEPATCH_SLOW=all each of all. Otherwise it is some of all
// and each write; and ways other than the plain one, which differ in the writes, are
// seen at some of those.
func (c *crash) points(calls map[int64]int) (list []killAt) {
	total := 0
	for _, n := range calls {
		total += n
	}
	some := func(nr int64, count, stride int) {
		for n := 1; n <= count; n += max(1, stride) {
			list = append(list, killAt{nr, n})
		}
	}
	const any = -1
	writes := calls[unix.SYS_PWRITE64]
	switch slow := os.Getenv("LIVEPATCH_SLOW"); {
	case slow == "all":
		some(any, total, 1)
	case slow != "":
		some(any, total, total/30)
		some(unix.SYS_PTRACE, calls[unix.SYS_PTRACE], calls[unix.SYS_PTRACE]/100)
		some(unix.SYS_PWRITE64, writes, 1)
	case c.w.dispatch == trampoline.Direct:
		some(any, total, total/6)
		some(unix.SYS_PWRITE64, writes, 1)
	default:
		some(any, 1, 1)
		some(unix.SYS_PWRITE64, writes, 3)
	}
	return append(list, killAt{unix.SYS_EXIT_GROUP, 1})
}

var errKilled = errors.New("killed")

// clear takes sites away that stay.
func (c *crash) clear() {
	c.t.Helper()
	if _, err := Remove([]int{c.s.pid}, Removal{All: true, ClearSites: true}, patient); len(refusal.Of(err)) == 0 { // there may be none
		must(c.t, err)
	}
	if text(c.t, c.s.pid) != c.pages {
		c.t.Fatal("executable pages are not what they were")
	}
}

// load runs a loader and kills it at a point. It returns how many system calls
// of each number it entered.
func (c *crash) load(at killAt) (map[int64]int, error) {
	pkg := c.versions[0]
	if c.d.name == "retarget" {
		pkg = c.versions[1]
	}
	cmd := loader(c.t, c.s, pkg, append(c.w.env, "LIVEPATCH_DO="+c.d.name)...)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	null, err := os.Open(os.DevNull)
	must(c.t, err)
	defer null.Close()
	out, in, err := os.Pipe()
	must(c.t, err)
	defer out.Close()
	pid, err := syscall.ForkExec(cmd.Path, cmd.Args, &syscall.ProcAttr{
		Env: cmd.Env, Files: []uintptr{null.Fd(), in.Fd(), in.Fd()}, Sys: &syscall.SysProcAttr{Ptrace: true},
	})
	must(c.t, err)
	in.Close()
	calls, err := trace(pid, at)
	if err != nil && !errors.Is(err, errKilled) {
		text, _ := io.ReadAll(out)
		err = fmt.Errorf("%w: %s", err, text)
	}
	return calls, err
}

// trace follows a process that waits to be traced, with all its threads, to its
// end, or kills it. It waits for children of this OS thread only.
func trace(pid int, at killAt) (calls map[int64]int, err error) {
	const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_EXITKILL
	calls = map[int64]int{}
	entered := map[int]bool{}
	left, first := at.n, true
	for {
		var ws unix.WaitStatus
		tid, err := unix.Wait4(-1, &ws, unix.WALL|unix.WNOTHREAD, nil)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return calls, fmt.Errorf("wait for the loader: %w", err)
		case tid == pid && ws.Exited() && ws.ExitStatus() == 0:
			return calls, nil
		case tid == pid && ws.Signaled() && ws.Signal() == unix.SIGKILL && at.n > 0 && left <= 0:
			return calls, errKilled
		case tid == pid && (ws.Exited() || ws.Signaled()):
			return calls, fmt.Errorf("the loader ended with status %#x", ws)
		case !ws.Stopped():
			continue
		}
		signal := 0
		switch s := ws.StopSignal(); {
		case first:
			first = false
			if err := unix.PtraceSetOptions(tid, options); err != nil {
				return calls, err
			}
		case s == unix.SIGTRAP|traceSyscall:
			if entered[tid] = !entered[tid]; !entered[tid] {
				break
			}
			nr, err := (&thread{tid: tid}).callNumber()
			if err != nil {
				continue // it is dying
			}
			calls[nr]++
			if at.nr < 0 || at.nr == nr {
				if left--; left == 0 {
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

// patient is for what is done between deaths: threads are in the functions all the time.
var patient = Options{Timeout: time.Minute}

// reset brings the target to a state in which one patch is applied, or none.
func (c *crash) reset(want string) {
	c.t.Helper()
	have, opt := c.applied(), patient
	switch {
	case have == want:
	case want == "":
		_, err := Revert(c.s.pid, have, opt)
		must(c.t, err)
	case have == "":
		must(c.t, apply(c.s, c.version(want), opt)())
	default:
		_, err := Retarget([]int{c.s.pid}, c.version(want), opt)
		must(c.t, err)
	}
	c.expect(want)
}

func (c *crash) version(name string) *pack.Package {
	for _, v := range c.versions {
		if v.Manifest.Name == name {
			return v
		}
	}
	c.t.Fatalf("no version %q", name)
	return nil
}

// applied is the name of the patch that is applied, "interrupted" in a change
// that was not ended.
func (c *crash) applied() string {
	c.t.Helper()
	status, err := Status(c.s.pid)
	must(c.t, err)
	name := ""
	for _, r := range status.Patches {
		switch {
		case r.State == "interrupted":
			return r.State
		case r.State == "applied" && name != "" || r.Foreign > 0:
			c.t.Fatalf("status %+v", status)
		case r.State == "applied":
			name = r.Name
		}
	}
	return name
}

// bit is what the target tells of the results of a version.
func bit(name string) int {
	return map[string]int{"": 1, "fix1": 2, "fix2": 4}[name]
}

// results asks which results there were since the last question.
func (c *crash) results() (a, b int) {
	c.t.Helper()
	_, err := io.WriteString(c.s.in, "?\n")
	must(c.t, err)
	var calls, wrong int
	_, err = fmt.Sscan(c.s.line(), &a, &b, &calls, &wrong)
	must(c.t, err)
	if wrong != 0 {
		c.t.Fatalf("%d times something was not what it was", wrong)
	}
	return a, b
}

// expect makes sure that the target is wholly at a version, that nothing traces
// it, and that it has run on.
func (c *crash) expect(name string) {
	c.t.Helper()
	if have := c.applied(); have != name {
		c.t.Fatalf("%q is applied, not %q", have, name)
	}
	if now := text(c.t, c.s.pid); name == "" && now != c.pages && (c.kept != "" && now != c.kept || c.w.dispatch != trampoline.Slot) {
		c.t.Fatal("executable pages are not what they were")
	}
	c.results()
	if a, b := c.results(); a != bit(name) || b != bit(name) {
		c.t.Fatalf("results %b and %b at version %q", a, b, name)
	}
}

// left makes sure that the target lives and that nothing holds its threads.
func (r *running) left() {
	r.t.Helper()
	tids, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", r.pid))
	if err != nil {
		r.t.Fatalf("the target has ended: %s", r.ended())
	}
	for _, tid := range tids {
		st, err := readStatus(fmt.Sprintf("/proc/%d/task/%s/status", r.pid, tid.Name()))
		must(r.t, err)
		if st.tracer != 0 || strings.ContainsRune("tT", rune(st.state)) {
			r.t.Fatalf("thread %s is in state %c, traced by %d", tid.Name(), st.state, st.tracer)
		}
	}
}

// afterDeath looks at what a loader has left, and ends it.
func (c *crash) afterDeath(at killAt, remedy Remedy) {
	c.t.Helper()
	c.s.left()
	// Since it was reset: never anything but the version before and after.
	allowed := bit(c.d.before) | bit(c.d.after)
	a, b := c.results()
	if (a|b)&^allowed != 0 {
		c.t.Fatalf("results %b and %b on the way from %q to %q", a, b, c.d.before, c.d.after)
	}
	have := c.applied()
	c.outcomes[have]++
	c.results()
	if a, b := c.results(); a&(a-1) != 0 || b&(b-1) != 0 {
		c.t.Fatalf("results %b and %b: a function is more than one version", a, b)
	}
	if have != "interrupted" {
		c.expect(have)
	}
	left := have
	res, err := Repair([]int{c.s.pid}, remedy, patient)
	if err != nil {
		c.t.Fatalf("killed at %+v, %q, remedy %d: %v", at, have, remedy, err)
	}
	switch did := res.Processes[0].Did; {
	case have != "interrupted" && did != DidNothing && did != DidRetire:
		c.t.Fatalf("%q was repaired: %+v", have, res)
	case did == DidFinish:
		left = c.d.after
	case did == DidRollBack:
		left = c.d.before
	}
	if have == "interrupted" && (remedy == Finish && left != c.d.after || remedy == RollBack && left != c.d.before) {
		c.t.Fatalf("remedy %d: %+v", remedy, res)
	}
	c.expect(left)
}
