//go:build linux && (amd64 || arm64)

package process

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"testing"
	"time"

	"livepatch/internal/live"
	"livepatch/internal/pack"
	"livepatch/internal/refusal"
	"livepatch/manifest"
	"livepatch/trampoline"
)

// switching builds the target of switching.c and its objects.
func switching(t *testing.T, flags ...string) (target, before, after string) {
	t.Helper()
	object := func(name string, more ...string) string {
		return compile(t, name, slices.Concat([]string{"-c", "-fPIE"}, flags, more, []string{"switching.c"})...)
	}
	before, after = object("before.o"), object("after.o", "-DFIXED")
	return compile(t, "switching", "-pthread", before), before, after
}

// turn tells the target which side it will be switched to.
func (r *running) turn(side int) (wrong int) {
	r.t.Helper()
	if _, err := fmt.Fprintf(r.in, "%d\n", side); err != nil {
		r.t.Fatal(err)
	}
	var now, calls int
	if _, err := fmt.Sscan(r.line(), &now, &calls, &wrong); err != nil {
		r.t.Fatal(err)
	}
	return wrong
}

// Three functions of a program are patched and reverted under load, by every
// dispatch, at entries that the compiler prepared and at plain ones.
func TestDispatch(t *testing.T) {
	for _, way := range trampoline.Dispatches {
		for _, entries := range []string{"", patchable} {
			if way == trampoline.Slot && entries == "" {
				continue
			}
			t.Run(fmt.Sprintf("%s/%s", way, entries), func(t *testing.T) {
				flags := []string{"-DREST=50"}
				if entries != "" {
					flags = append(flags, entries)
				}
				target, before, after := switching(t, flags...)
				pkg := dispatched(t, way, "fix", target, before, after)
				if d := pkg.Manifest.Targets[0].Dispatch(); d != string(way) && (d != "" || way != trampoline.Direct) {
					t.Fatalf("dispatch %q", d)
				}
				lifeOfSwitching(t, start(t, target, "4"), pkg, SwitchStop)
			})
		}
	}
}

// The same while threads run.
func TestDispatchInt3(t *testing.T) {
	// By shared one function after the other is switched: see TestSlotBeneathOthers.
	for _, way := range []trampoline.Dispatch{trampoline.Gated, trampoline.Slot} {
		t.Run(string(way), func(t *testing.T) {
			target, before, after := switching(t, "-DREST=50", "-falign-functions=64", patchable)
			lifeOfSwitching(t, start(t, target, "4"), dispatched(t, way, "fix", target, before, after), SwitchInt3)
		})
	}
}

func lifeOfSwitching(t *testing.T, s *running, pkg *pack.Package, how Switch) {
	t.Helper()
	pages := text(t, s.pid)
	slot := pkg.Manifest.Targets[0].Dispatch() == manifest.DispatchSlot
	opt := Options{Timeout: time.Minute, Switch: how}
	want := func(side int) {
		t.Helper()
		_, calls, _ := s.ask()
		time.Sleep(20 * time.Millisecond)
		if now, n, wrong := s.ask(); now != side || n <= calls || wrong != 0 {
			t.Fatalf("side %d, %d calls after %d, %d wrong; want side %d", now, n, calls, wrong, side)
		}
	}
	want(0)
	must(t, Verify(s.pid, pkg, Options{}))
	for range 3 {
		s.turn(1)
		res, err := Apply([]int{s.pid}, pkg, opt)
		must(t, err)
		want(1)
		if im := res.Processes[0].Images[0]; !slot {
			journalOf(t, pkg, im)
		} else if last := im.Journal[len(im.Journal)-1]; last.Old != "00" || last.New != "01" {
			t.Errorf("the last write is %+v", last)
		}
		if list := reports(t, s.pid); len(list) != 1 || list[0].State != "applied" || list[0].Foreign != 0 || list[0].Written != list[0].Writes {
			t.Fatalf("status %+v", list)
		}
		s.turn(0)
		_, err = Remove([]int{s.pid}, Removal{Name: "fix", ClearSites: true}, opt)
		must(t, err)
		want(0)
		if text(t, s.pid) != pages {
			t.Fatal("executable pages differ after revert")
		}
	}
}

func reports(t *testing.T, pid int) []live.Report {
	t.Helper()
	r, err := Status(pid)
	must(t, err)
	return r.Patches
}

// journalOf compares what was written with the manifest: its writes, and the
// byte that switches, last.
func journalOf(t *testing.T, pkg *pack.Package, im Image) {
	t.Helper()
	target := &pkg.Manifest.Targets[0]
	writes := len(target.Writes)
	if target.Version() != "" {
		last := im.Journal[len(im.Journal)-1]
		if last.Old != "00" || last.New != "01" || last.Function != "patch fix" || last.Address < im.Base || last.Address >= im.Base+im.Size {
			t.Errorf("the last write is %+v", last)
		}
		writes++
	}
	if len(im.Journal) != writes {
		t.Fatalf("%d writes, not %d", len(im.Journal), writes)
	}
	for i, w := range target.Writes {
		if j := im.Journal[i]; j.Address != w.Address+im.Bias || j.Length != w.Length || j.Old != w.Expected.String() {
			t.Errorf("write %d is %+v, the manifest says %+v", i, j, w)
		}
	}
}

// The gate is removed by retargeting to the same patch made direct: no call
// reaches an old function meanwhile, and the old patch's entries are gone.
func TestGateIsRemoved(t *testing.T) {
	for _, way := range []trampoline.Dispatch{trampoline.Gated, trampoline.Slot} {
		t.Run(string(way), func(t *testing.T) {
			target, before, after := switching(t, "-DREST=50", patchable)
			s := start(t, target, "4")
			opt := Options{Timeout: time.Minute}
			s.turn(1)
			_, err := Apply([]int{s.pid}, dispatched(t, way, "fix", target, before, after), opt)
			must(t, err)
			s.ask()
			pkg := dispatched(t, trampoline.Direct, "direct", target, before, after)
			_, err = Retarget([]int{s.pid}, pkg, opt)
			must(t, err)
			time.Sleep(20 * time.Millisecond)
			if now, _, wrong := s.ask(); now != 1 || wrong != 0 {
				t.Errorf("side %d, %d wrong", now, wrong)
			}
			r := recordNamed(t, s.pid, "direct")
			mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", s.pid))
			must(t, err)
			defer mem.Close()
			for _, f := range r.Functions {
				to, ok := trampoline.Follow(machine, f.Old, readerOf(mem))
				if !ok || to != f.New {
					t.Errorf("%s leads to %#x, not %#x", f.Name, to, f.New)
				}
			}
			// And back to the gate, which is open before anything leads to it.
			_, err = Retarget([]int{s.pid}, dispatched(t, way, "again", target, before, after), opt)
			must(t, err)
			if now, _, wrong := s.ask(); now != 1 || wrong != 0 {
				t.Errorf("side %d, %d wrong", now, wrong)
			}
		})
	}
}

func readerOf(mem io.ReaderAt) func(addr uint64, n int) []byte {
	return func(addr uint64, n int) []byte {
		b := make([]byte, n)
		got, _ := mem.ReadAt(b, int64(addr))
		return b[:got]
	}
}

// A function that never returns cannot be replaced, but what it calls next can:
// its own later calls would reach the replacement.
func TestDispatchOfBusyFunction(t *testing.T) {
	target, before, after := switching(t, "-DREST=50", "-DSTAYS=0", patchable)
	for _, way := range trampoline.Dispatches {
		t.Run(string(way), func(t *testing.T) {
			s := start(t, target, "2")
			s.turn(1)
			_, err := Apply([]int{s.pid}, dispatched(t, way, "fix", target, before, after), Options{Timeout: 2 * time.Second})
			var busy *BusyError
			if way.Switched() && err != nil || !way.Switched() && !errors.As(err, &busy) {
				t.Fatalf("error %v", err)
			}
			if now, _, wrong := s.ask(); (now == 1) != way.Switched() || wrong != 0 {
				t.Errorf("side %d, %d wrong", now, wrong)
			}
		})
	}
}

// A loader that is stopped between any two writes leaves functions that are all
// old or all new where a byte switches them.
func TestDispatchIsAtomic(t *testing.T) {
	for _, way := range []trampoline.Dispatch{trampoline.Gated, trampoline.Slot} {
		t.Run(string(way), func(t *testing.T) {
			target, before, after := switching(t, patchable)
			pkg := dispatched(t, way, "fix", target, before, after)
			s := start(t, target)
			mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", s.pid))
			must(t, err)
			defer mem.Close()
			var reached [][]bool // by write: which functions lead to their replacements
			opt := Options{Timeout: time.Minute}
			var record *live.Record
			opt.hook = func(name string) {
				if name == "begun" || name == "written" {
					record = recordNamed(t, s.pid, "fix")
					reached = append(reached, leadsToNew(t, &pkg.Manifest.Targets[0], record, mem))
				}
			}
			_, err = Apply([]int{s.pid}, pkg, opt)
			must(t, err)
			for i, list := range reached {
				for _, isNew := range list {
					if isNew != (i == len(reached)-1) {
						t.Errorf("after %d of %d writes: %v", i, len(reached)-1, list)
						break
					}
				}
			}
			n := len(record.Writes)
			if record.Hosts() {
				n++ // the byte of its column
			}
			if len(reached) != n+1 {
				t.Errorf("looked %d times at %d writes", len(reached), n)
			}
		})
	}
}

func recordNamed(t *testing.T, pid int, name string) *live.Record {
	t.Helper()
	p, err := open(pid)
	must(t, err)
	defer p.close()
	for _, r := range p.patches.Records {
		if r.Name == name {
			return r
		}
	}
	t.Fatalf("no record of %s", name)
	return nil
}

// leadsToNew tells of each function whether a call would reach its replacement
// now, as memory has it: the entry is redirected and the byte is set.
func leadsToNew(t *testing.T, target *manifest.Target, r *live.Record, mem io.ReaderAt) (list []bool) {
	t.Helper()
	at := r.Index
	for _, w := range r.Writes {
		if w.Function == live.Whole {
			at = w.Addr
		}
	}
	b := []byte{0}
	_, err := mem.ReadAt(b, int64(at))
	must(t, err)
	set := b[0] == 1
	for i := range target.Functions {
		f := &target.Functions[i]
		_, _, ok := trampoline.FollowDispatch(machine, trampoline.Dispatch(f.Dispatch), r.Bias+f.Site.Address, readerOf(mem))
		list = append(list, ok && set)
	}
	return list
}

// A package whose pieces lead elsewhere is refused before anything is mapped.
func TestDispatchOfDamagedPackage(t *testing.T) {
	for _, way := range []trampoline.Dispatch{trampoline.Gated, trampoline.Shared, trampoline.Slot} {
		t.Run(string(way), func(t *testing.T) {
			target, before, after := switching(t, patchable)
			pkg := dispatched(t, way, "fix", target, before, after)
			m := &pkg.Manifest.Targets[0]
			m.Functions[0].Replacement, m.Functions[1].Replacement = m.Functions[1].Replacement, m.Functions[0].Replacement
			m.Functions[0].NewSize, m.Functions[1].NewSize = m.Functions[1].NewSize, m.Functions[0].NewSize
			s := start(t, target)
			refused(t, s, refusal.PackageDamaged, apply(s, pkg, Options{}))
		})
	}
}
