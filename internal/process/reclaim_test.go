//go:build linux && (amd64 || arm64)

package process

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"livepatch/internal/live"
	"livepatch/internal/pack"
	"livepatch/internal/refusal"
	"livepatch/internal/resolve"
	"livepatch/trampoline"
)

// leaving builds the target of reclaim.c and a package for it.
func leavingTarget(t *testing.T, flags ...string) (string, *pack.Package) {
	t.Helper()
	target := compile(t, "reclaim", "-pthread", patchable, "reclaim.c")
	fix := compile(t, "fix.o", append(flags, "-c", "-fPIE", "reclaim_fix.c")...)
	return target, handMade(t, "fix", target, fix, replaced{old: "answer", new: "answer_new"})
}

func (r *running) send(command string) (answer int) {
	r.t.Helper()
	_, err := io.WriteString(r.in, command+"\n")
	must(r.t, err)
	_, err = fmt.Sscan(r.line(), &answer)
	must(r.t, err)
	return answer
}

// anonymous are the executable mappings of no file.
func anonymous(t *testing.T, pid int) (n int) {
	t.Helper()
	maps, err := resolve.ParseMaps(readFile(t, fmt.Sprintf("/proc/%d/maps", pid)))
	must(t, err)
	for _, m := range maps {
		if m.Exec && m.Path == "" {
			n++
		}
	}
	return n
}

// reclaimed expects what becomes of the memory of the only patch: unmapped, or the
// reason why not, which status tells, too.
func reclaimed(t *testing.T, s *running, why live.Stay) ReclaimedPatch {
	t.Helper()
	res, err := Reclaim([]int{s.pid}, "fix", Options{Timeout: time.Minute, MaxPause: time.Minute})
	must(t, err)
	if len(res.Processes) != 1 || len(res.Processes[0].Patches) != 1 {
		t.Fatalf("%+v", res)
	}
	p := res.Processes[0].Patches[0]
	t.Logf("pause %v: %+v", res.Pause, p)
	st, err := Status(s.pid)
	must(t, err)
	switch {
	case why == live.NotTried && (!p.Unmapped || p.Reason != "" || len(st.Patches) != 0 || anonymous(t, s.pid) != 0):
		t.Errorf("%+v, status %+v, %d mappings", p, st, anonymous(t, s.pid))
	case why != live.NotTried && (p.Unmapped || p.Reason == "" || len(st.Patches) != 1 || anonymous(t, s.pid) != 1):
		t.Errorf("%+v, status %+v", p, st)
	case why != live.NotTried:
		if have := st.Patches[0].Retired; have == nil || have.Reason != why.String() || have.Bytes != p.Bytes || p.Bytes == 0 {
			t.Errorf("retired %+v, want %v", have, why)
		}
	}
	return p
}

func TestReclaim(t *testing.T) {
	target, pkg := leavingTarget(t)
	s := start(t, target)
	for range 2 {
		_, err := Apply([]int{s.pid}, pkg, Options{Timeout: time.Minute})
		must(t, err)
		_, err = Reclaim([]int{s.pid}, "fix", Options{})
		wantCode(t, err, refusal.NotApplied) // it is in force
		if a := s.send("?"); a != 1001 {
			t.Errorf("answer %d", a)
		}
		_, err = Revert(s.pid, "fix", Options{Timeout: time.Minute})
		must(t, err)
		st, err := Status(s.pid)
		must(t, err)
		if r := st.Patches[0].Retired; r == nil || r.Reason != live.NotTried.String() || r.Bytes != st.Patches[0].Size {
			t.Errorf("retired %+v", r)
		}
		s.send("?") // writes over what is left on the stack
		res, err := Reclaim([]int{s.pid}, "", Options{Timeout: time.Minute, MaxPause: time.Minute, DryRun: true})
		must(t, err)
		if p := res.Processes[0].Patches[0]; !p.Unmapped || anonymous(t, s.pid) != 1 {
			t.Errorf("dry run: %+v", p)
		}
		reclaimed(t, s, live.NotTried)
		if a := s.send("?"); a != 2 {
			t.Errorf("answer %d", a)
		}
	}
}

// An address in memory, and a thread that is still in the patch, keep it.
func TestReclaimHeld(t *testing.T) {
	target, pkg := leavingTarget(t)
	s := start(t, target)
	_, err := Apply([]int{s.pid}, pkg, Options{Timeout: time.Minute})
	must(t, err)
	s.send("k")
	s.send("w")
	_, err = Revert(s.pid, "fix", Options{Timeout: time.Minute, Switch: SwitchInt3})
	must(t, err)
	if p := reclaimed(t, s, live.StaysThread); !strings.Contains(p.Reason, "returns to it") {
		t.Errorf("reason %s", p.Reason)
	}
	s.send("g")
	reclaimed(t, s, live.StaysMemory)
	s.send("c")
	reclaimed(t, s, live.NotTried)
	if a := s.send("?"); a != 2 {
		t.Errorf("answer %d", a)
	}
}

// A process that has the same memory keeps it, and so does a kernel that does not
// tell whether there is one.
func TestReclaimShared(t *testing.T) {
	target, pkg := leavingTarget(t)
	s := start(t, target)
	_, err := Apply([]int{s.pid}, pkg, Options{Timeout: time.Minute})
	must(t, err)
	_, err = Revert(s.pid, "fix", Options{Timeout: time.Minute})
	must(t, err)
	s.send("v")
	if p := reclaimed(t, s, live.StaysThread); !strings.Contains(p.Reason, "has the same memory") {
		t.Errorf("reason %s", p.Reason)
	}
	s.send("e")
	for _, e := range []unix.Errno{unix.ENOSYS, unix.EPERM} {
		withoutCall(t, unix.SYS_KCMP, e, func() {
			want := "whether another process has the same memory cannot be told: kcmp: " + e.Error()
			if p := reclaimed(t, s, live.StaysUnread); p.Reason != want {
				t.Errorf("reason %q, want %q", p.Reason, want)
			}
		})
	}
	reclaimed(t, s, live.NotTried)
}

// A process that may not be compared has another memory if that has another size.
func TestOtherSize(t *testing.T) {
	size, err := memorySize(os.Getpid())
	must(t, err)
	if otherSize(os.Getpid(), size) || !otherSize(os.Getpid(), size+"0") || !otherSize(1<<30, size) {
		t.Errorf("of size %s", size)
	}
}

// withoutCall runs do where a seccomp filter makes a system call fail.
func withoutCall(t *testing.T, nr uint32, e unix.Errno, do func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its filter
		var err error
		defer func() { done <- err }()
		code := []unix.SockFilter{
			{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // seccomp_data.nr
			{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: nr, Jf: 1},
			{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(e)},
			{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		}
		err = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
		if err == nil {
			err = unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]})), 0, 0)
		}
		if err == nil {
			do()
		}
	}()
	must(t, <-done)
}

// Patches that use addresses of their own stay for good.
func TestReclaimTaken(t *testing.T) {
	for _, flag := range []string{"-DTAKEN", "-DVARIABLE"} {
		t.Run(flag, func(t *testing.T) {
			target, pkg := leavingTarget(t, flag)
			s := start(t, target)
			_, err := Apply([]int{s.pid}, pkg, Options{Timeout: time.Minute})
			must(t, err)
			_, err = Revert(s.pid, "fix", Options{Timeout: time.Minute})
			must(t, err)
			reclaimed(t, s, live.StaysTaken)
			_, err = Apply([]int{s.pid}, pkg, Options{Timeout: time.Minute}) // it is used again
			must(t, err)
			if a, n := s.send("?"), anonymous(t, s.pid); a != 1001 || n != 1 {
				t.Errorf("answer %d, %d mappings", a, n)
			}
		})
	}
}

// A loader that dies before it unmaps leaves memory that nobody will use, and the
// next one unmaps it.
func TestReclaimKilled(t *testing.T) {
	target, pkg := leavingTarget(t)
	s := start(t, target)
	_, err := Apply([]int{s.pid}, pkg, Options{Timeout: time.Minute})
	must(t, err)
	_, err = Revert(s.pid, "fix", Options{Timeout: time.Minute})
	must(t, err)
	s.send("?")
	func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer func() { _ = recover() }()
		_, err := Reclaim([]int{s.pid}, "fix", Options{Timeout: time.Minute, MaxPause: time.Minute, hook: func(step string) {
			if step == "unused" {
				panic("dead")
			}
		}})
		t.Errorf("it did not come to that: %v", err)
	}()
	st, err := Status(s.pid)
	must(t, err)
	if r := st.Patches[0].Retired; r == nil || !strings.Contains(r.Reason, "killed") {
		t.Fatalf("retired %+v", r)
	}
	// It is not used again: another loader may unmap it at any time.
	_, err = Apply([]int{s.pid}, pkg, Options{Timeout: time.Minute})
	must(t, err)
	if n := anonymous(t, s.pid); n != 2 {
		t.Errorf("%d mappings", n)
	}
	_, err = Reclaim([]int{s.pid}, "", Options{Timeout: time.Minute, MaxPause: time.Minute})
	must(t, err)
	if a, n := s.send("?"), anonymous(t, s.pid); a != 1001 || n != 1 {
		t.Errorf("answer %d, %d mappings", a, n)
	}
}

// An unwinder that knows a patch forgets it first.
func TestReclaimUnwinder(t *testing.T) {
	target, pkg := throwing(t, trampoline.Direct, nil, "-fPIE")
	s := start(t, target, "2")
	_, err := Apply([]int{s.pid}, pkg, Options{Timeout: time.Minute})
	must(t, err)
	s.sides(thrownNew)
	_, err = Revert(s.pid, "fix", Options{Timeout: time.Minute})
	must(t, err)
	s.sides(thrownOld)
	reclaimedSoon(t, s, 0)
	s.sides(thrownOld)
}

// reclaimedSoon expects that the memory of all patches goes. Threads that throw all
// the time may still have an address of it on their stacks, which the next call
// writes over.
func reclaimedSoon(t *testing.T, s *running, lost int) {
	t.Helper()
	for range 50 {
		res, err := Reclaim([]int{s.pid}, "", Options{Timeout: time.Minute, MaxPause: time.Minute})
		must(t, err)
		kept := slices.ContainsFunc(res.Processes[0].Patches, func(p ReclaimedPatch) bool { return !p.Unmapped })
		if st, err := Status(s.pid); err != nil || !kept && (len(st.Patches) != 0 || anonymous(t, s.pid) != lost) {
			t.Fatalf("status %+v, %v, %d mappings", st, err, anonymous(t, s.pid))
		}
		if !kept {
			return
		}
		t.Logf("%+v", res)
		time.Sleep(20 * time.Millisecond)
	}
	t.Error("the memory stays mapped")
}

// The loader is killed at the steps by which it takes memory away that an unwinder
// knows. The target runs on, and another loader comes to the same end.
func TestLoaderDiesReclaiming(t *testing.T) {
	target, pkg := throwing(t, trampoline.Direct, nil, "-fPIE")
	s := start(t, target, "2")
	for _, step := range []string{"proven:1", "telling:1", "run:1", "told:1", "proven:2", "unused:1", "call:1", "entry:1", "exit:1", "unmapped:1", "sigreturn:2"} {
		t.Run(step, func(t *testing.T) {
			killed := false
			for try := 0; !killed && try < 20; try++ { // it is not where something keeps the memory by chance
				_, err := Apply([]int{s.pid}, pkg, Options{Timeout: time.Minute})
				must(t, err)
				s.sides(thrownNew)
				_, err = Revert(s.pid, "fix", Options{Timeout: time.Minute})
				must(t, err)
				s.sides(thrownOld)
				cmd := loader(t, s, pkg, "LIVEPATCH_DO=reclaim", "LIVEPATCH_DIE_AT="+step)
				out, err := cmd.CombinedOutput()
				ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
				killed = ok && ws.Signaled()
				if !killed {
					must(t, err)
					t.Logf("not killed: %s", out)
				}
			}
			if !killed {
				t.Fatal("it did not come to that")
			}
			s.sides(thrownOld)
			// The thread makes the call that it is about to make, even if nobody waits for it.
			about := slices.Contains([]string{"call:1", "entry:1"}, step)
			gone := slices.Contains([]string{"exit:1", "unmapped:1", "sigreturn:2"}, step)
			if n := anonymous(t, s.pid); !about && (n == 0) != gone {
				t.Errorf("%d mappings", n)
			}
			reclaimedSoon(t, s, 0)
			s.sides(thrownOld)
		})
	}
}
