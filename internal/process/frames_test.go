//go:build linux && (amd64 || arm64)

package process

import (
	"errors"
	"io"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"livepatch/internal/live"
	"livepatch/internal/pack"
	"livepatch/internal/unwind"
)

// deep builds the target of depth.c and a package for it.
func deep(t *testing.T, link ...string) (string, *pack.Package) {
	t.Helper()
	target := compile(t, "depth", append(link, "-pthread", "depth.c")...)
	return target, handMade(t, "fix", target, compile(t, "fix.o", "-c", "-fPIE", "server_fix.c"), replaced{old: "answer", new: "answer_new"})
}

// A return address of a call that is over keeps no function busy, where the
// stack tells that it is one.
func TestStaleReturnAddress(t *testing.T) {
	target, pkg := deep(t)
	for _, way := range []string{"stale", "stale-signal"} {
		t.Run(way, func(t *testing.T) {
			s := start(t, target, way)
			wantWord(t, s, "answer", true)
			res, err := Apply([]int{s.pid}, pkg, Options{Timeout: time.Minute})
			must(t, err)
			if a, _, _ := s.ask(); a != 1001 || res.Attempts < 2 {
				t.Errorf("answer %d after %d tries", a, res.Attempts)
			}
			_, err = Revert(s.pid, "fix", Options{Timeout: time.Minute})
			must(t, err)
			if a, _, _ := s.ask(); a != 2 {
				t.Errorf("answer %d", a)
			}
		})
	}
}

// wantWord makes sure that words alone say that a function is in use, or not.
func wantWord(t *testing.T, s *running, function string, want bool) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p := stopped(t, s.pid)
	defer p.close()
	defer p.release()
	fn := symbolOf(t, p, function)
	c := checker{p: p, ranges: live.NewRanges([]live.Range{fn})}
	err := c.threads()
	var busy *BusyError
	if found := errors.As(err, &busy); found != want || err != nil && !found {
		t.Fatalf("by words alone: %v", err)
	}
}

// stopped opens a process and stops it.
func stopped(t *testing.T, pid int) *proc {
	t.Helper()
	p, err := open(pid)
	must(t, err)
	p.opt = &Options{}
	must(t, p.stop(time.Now().Add(10*time.Second)))
	for _, th := range p.threads {
		must(t, th.getRegs())
	}
	return p
}

func symbolOf(t *testing.T, p *proc, name string) live.Range {
	t.Helper()
	for _, s := range p.allSymbols(p.main()) {
		if s.name == name {
			return live.Range{Start: s.addr, End: s.addr + s.size, Name: name}
		}
	}
	t.Fatalf("no %s", name)
	return live.Range{}
}

// A frame keeps its function busy, whatever lies between it and the thread, and
// so does a word where nothing better is known.
func TestFramesBlock(t *testing.T) {
	target, pkg := deep(t)
	for _, tc := range []struct {
		way   string
		found Place
		doubt string
	}{
		{"frame", InFrame, ""},
		{"signal", InFrame, ""},
		{"spin", AtPC, ""},
		{"bare", InStack, "cannot be unwound"},
		{"inside", InStack, "is not above its own"},
		{"stale-bare", InStack, "cannot be unwound"},
		{"stale-spin", InStack, "may be described wrongly"},
	} {
		t.Run(tc.way, func(t *testing.T) {
			s := start(t, target, tc.way)
			before := text(t, s.pid)
			_, err := Apply([]int{s.pid}, pkg, Options{Timeout: 3 * time.Second})
			var busy *BusyError
			if !errors.As(err, &busy) || StateOf(err) != Unchanged || len(busy.Holders) != 1 {
				t.Fatalf("error %v", err)
			}
			t.Log(err)
			if h := busy.Holders[0]; h.Function != "answer" || h.Found != tc.found || !strings.Contains(h.Doubt, tc.doubt) || tc.doubt == "" && h.Doubt != "" {
				t.Errorf("holder %+v", h)
			}
			if tc.found == InFrame && busy.Holders[0].Frame < 2 {
				t.Errorf("frame %d", busy.Holders[0].Frame)
			}
			if text(t, s.pid) != before {
				t.Error("executable pages have changed")
			}
		})
	}
}

// The frames of a thread are those that it sees itself.
func TestFramesAreThoseOfBacktrace(t *testing.T) {
	target, _ := deep(t)
	for _, way := range []string{"frame", "signal"} {
		t.Run(way, func(t *testing.T) {
			s := start(t, target, way)
			_, err := io.WriteString(s.in, "t\n")
			must(t, err)
			var want []uint64
			for _, w := range strings.Fields(s.line()) {
				v, err := strconv.ParseUint(w, 10, 64)
				must(t, err)
				want = append(want, v)
			}
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			p := stopped(t, s.pid)
			defer p.close()
			defer p.release()
			p.readFrames()
			u := &unwind.Unwinder{Machine: machine, Mem: p.mem, Signed: p.anyThread().signedBits()}
			for _, f := range p.frames {
				u.Tables = append(u.Tables, f.table)
			}
			for _, th := range p.threads {
				c := checker{p: p}
				low, high, err := c.stack(th)
				must(t, err)
				frames, err := u.Walk(unwind.NewRegisters(th.regs.pc(), th.regs.dwarf()...), low, high)
				must(t, err)
				var have []uint64
				for _, f := range frames {
					have = append(have, f.PC)
				}
				// wait_here called backtrace from another place than pause.
				if th.tid != s.pid && !slices.Equal(have[len(have)-len(want)+1:], want[1:]) {
					t.Errorf("frames %x, backtrace %x", have, want)
				}
				t.Logf("thread %d: %d frames", th.tid, len(frames))
			}
		})
	}
}
