//go:build linux && (amd64 || arm64)

package process

import (
	"fmt"
	"io"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"livepatch/internal/pack"
	"livepatch/internal/refusal"
	"livepatch/trampoline"
)

// steady is steady.c with patches of it that give results of their own.
type steady struct {
	target  string
	objects []string
}

func steadyTarget(t *testing.T, versions int, flags ...string) *steady {
	t.Helper()
	x := &steady{}
	for v := range versions {
		args := slices.Concat([]string{"-c", "-fPIE", patchable, "-falign-functions=64", fmt.Sprintf("-DVERSION=%d", v)}, flags, []string{"steady.c"})
		x.objects = append(x.objects, compile(t, "steady.o", args...))
	}
	x.target = compile(t, "steady", "-pthread", x.objects[0])
	return x
}

func (x *steady) pkg(t *testing.T, way trampoline.Dispatch, version int) *pack.Package {
	t.Helper()
	return dispatched(t, way, fmt.Sprintf("fix%d", version), x.target, x.objects[0], x.objects[version])
}

// wantVersion makes sure that all threads get the results of one version, and
// that since the last question nobody has got those of any but the given ones.
func (r *running) wantVersion(version int, since ...int) {
	r.t.Helper()
	c := &crash{t: r.t.(*testing.T), s: r}
	allowed := 1 << version
	for _, v := range since {
		allowed |= 1 << v
	}
	if a, b := c.results(); (a|b)&^allowed != 0 {
		r.t.Fatalf("results %b and %b; allowed %b", a, b, allowed)
	}
	if a, b := c.results(); a != 1<<version || b != 1<<version {
		r.t.Fatalf("results %b and %b, want those of version %d", a, b, version)
	}
}

// Once a process has sites with records its text is not written any more, however
// often patches come, go and take each other's place; by either way to write.
func TestSlotTextStays(t *testing.T) {
	for _, how := range slotSwitches {
		t.Run(string(how), func(t *testing.T) {
			x := steadyTarget(t, 4)
			s := start(t, x.target, "3")
			opt := Options{Timeout: time.Minute, Switch: how}
			original := text(t, s.pid)
			one, two, three := x.pkg(t, trampoline.Slot, 1), x.pkg(t, trampoline.Slot, 2), x.pkg(t, trampoline.Slot, 3)
			must(t, apply(s, one, opt)())
			s.wantVersion(1, 0)
			pages := text(t, s.pid)
			if pages == original {
				t.Fatal("no site was written")
			}
			now := 1
			to := func(version int, err error) {
				t.Helper()
				must(t, err)
				s.wantVersion(version, now)
				now = version
				if text(t, s.pid) != pages {
					t.Fatal("the text was written")
				}
			}
			retarget := func(pkg *pack.Package) error {
				_, err := Retarget([]int{s.pid}, pkg, opt)
				return err
			}
			for range 4 {
				to(2, retarget(two))
				to(3, retarget(three))
				to(0, revert(s, "fix3", opt)())
				to(2, apply(s, two, opt)())
				to(1, retarget(one))
				to(0, revert(s, "fix1", opt)())
				to(1, apply(s, one, opt)())
			}
			res, err := Retarget([]int{s.pid}, two, opt)
			to(2, err)
			if !slices.Equal(res.Applied, []string{"fix2"}) || !slices.Equal(res.Reverted, []string{"fix1"}) || how == SwitchInt3 && res.Sync != "" {
				t.Errorf("%+v", res)
			}
			wantConditions(t, s, map[string]string{"fix1": "reverted, its sites stay", "fix2": "applied", "fix3": "reverted"})
			_, err = Remove([]int{s.pid}, Removal{Name: "fix1", ClearSites: true}, opt)
			wantCode(t, err, refusal.BuiltUpon)
			_, err = Remove([]int{s.pid}, Removal{All: true, ClearSites: true}, opt)
			must(t, err)
			s.wantVersion(0, 2)
			if text(t, s.pid) != original {
				t.Error("the text is not the original's")
			}
			wantConditions(t, s, map[string]string{"fix1": "reverted", "fix2": "reverted", "fix3": "reverted"})
		})
	}
}

func wantConditions(t *testing.T, s *running, want map[string]string) {
	t.Helper()
	for _, r := range reports(t, s.pid) {
		if have := r.Condition(); have != want[r.Name] {
			t.Errorf("%s is %q, not %q", r.Name, have, want[r.Name])
		}
	}
}

// A redirect of another kind over one that stays: it goes and comes back, calls
// reach one of both at any time.
func TestSlotBeneathOthers(t *testing.T) {
	x := steadyTarget(t, 3)
	for _, way := range []trampoline.Dispatch{trampoline.Direct, trampoline.Gated, trampoline.Shared} {
		for _, how := range slotSwitches {
			t.Run(fmt.Sprintf("%s/%s", way, how), func(t *testing.T) {
				s := start(t, x.target, "3")
				opt := Options{Timeout: time.Minute, Switch: how}
				original := text(t, s.pid)
				must(t, apply(s, x.pkg(t, trampoline.Slot, 1), opt)())
				s.wantVersion(1, 0)
				for range 2 {
					_, err := Retarget([]int{s.pid}, x.pkg(t, way, 2), opt)
					must(t, err)
					s.wantVersion(2, 1)
					_, err = Retarget([]int{s.pid}, x.pkg(t, trampoline.Slot, 1), opt)
					must(t, err)
					s.wantVersion(1, 2)
				}
				_, err := Retarget([]int{s.pid}, x.pkg(t, way, 2), opt)
				must(t, err)
				must(t, revert(s, "fix2", opt)())
				s.wantVersion(0, 1, 2)
				_, err = Remove([]int{s.pid}, Removal{Name: "fix1", ClearSites: true}, opt)
				must(t, err)
				if text(t, s.pid) != original {
					t.Error("the text is not the original's")
				}
			})
		}
	}
}

// The loader dies while it retargets by records, or puts the first ones in place.
func TestSlotLoaderDies(t *testing.T) {
	x := steadyTarget(t, 3)
	one, two := x.pkg(t, trampoline.Slot, 1), x.pkg(t, trampoline.Slot, 2)
	for i, step := range []string{"begun:1", "written:1", "committed:1"} {
		for _, how := range []string{"stop", "int3"} {
			t.Run(step+how, func(t *testing.T) {
				s := start(t, x.target, "2")
				must(t, apply(s, one, Options{})())
				s.wantVersion(1, 0)
				pages := text(t, s.pid)
				killedAt(t, s, two, step, "LIVEPATCH_DO=retarget", "LIVEPATCH_SWITCH="+how)
				wantConditions(t, s, map[string]string{"fix1": fmt.Sprintf("interrupted %d of 1", min(i, 1)), "fix2": fmt.Sprintf("interrupted %d of 1", min(i, 1))})
				remedy := Remedy(i % 3)
				_, err := Repair([]int{s.pid}, remedy, Options{Timeout: time.Minute})
				must(t, err)
				want := map[Remedy]int{0: 1, Finish: 2, RollBack: 1}[remedy]
				s.wantVersion(want, 1, 2)
				if text(t, s.pid) != pages {
					t.Error("the text was written")
				}
				must(t, revert(s, fmt.Sprintf("fix%d", want), Options{Switch: Switch(how)})())
				s.wantVersion(0, want)
			})
		}
	}
}

// Records are private memory: a child has those of the moment in which it was
// forked, and is switched by itself.
func TestSlotForks(t *testing.T) {
	x := steadyTarget(t, 3)
	s := start(t, x.target, "0")
	must(t, apply(s, x.pkg(t, trampoline.Slot, 1), Options{})())
	_, err := io.WriteString(s.in, "fork\n")
	must(t, err)
	child := 0
	_, err = fmt.Sscan(s.line(), &child)
	must(t, err)
	t.Cleanup(func() { _ = unix.Kill(child, unix.SIGKILL) })
	_, err = Retarget([]int{s.pid}, x.pkg(t, trampoline.Slot, 2), Options{})
	must(t, err)
	wantConditions(t, s, map[string]string{"fix1": "reverted, its sites stay", "fix2": "applied"})
	c := &running{t: t, pid: child}
	wantConditions(t, c, map[string]string{"fix1": "applied"})
	if a, b := s.column(t), c.column(t); a != 2 || b != 1 {
		t.Errorf("column %d of the parent, %d of the child", a, b)
	}
	_, err = Retarget([]int{child}, x.pkg(t, trampoline.Slot, 2), Options{Timeout: time.Minute})
	must(t, err)
	wantConditions(t, c, map[string]string{"fix1": "reverted, its sites stay", "fix2": "applied"})
}

// column is what the byte holds that the handler of fix1 reads.
func (r *running) column(t *testing.T) byte {
	t.Helper()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", r.pid))
	must(t, err)
	defer mem.Close()
	b := []byte{0xff}
	_, err = mem.ReadAt(b, int64(recordNamed(t, r.pid, "fix1").Index))
	must(t, err)
	return b[0]
}

// Somebody has written over a site: nothing is led through it any more.
func TestSlotOverwritten(t *testing.T) {
	x := steadyTarget(t, 3)
	s := start(t, x.target, "0")
	must(t, apply(s, x.pkg(t, trampoline.Slot, 1), Options{})())
	r := recordNamed(t, s.pid, "fix1")
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", s.pid), os.O_WRONLY, 0)
	must(t, err)
	defer mem.Close()
	_, err = mem.WriteAt([]byte{0xcc}, int64(r.Functions[1].Old-4)) // in the word before the function, which nobody calls now
	must(t, err)
	wantConditions(t, s, map[string]string{"fix1": "applied, 1 overwritten"})
	for _, how := range []Switch{SwitchStop, SwitchInt3} {
		_, err := Retarget([]int{s.pid}, x.pkg(t, trampoline.Slot, 2), Options{Switch: how})
		wantCode(t, err, refusal.SiteChanged)
	}
}

// The memory of patches whose functions were reached through records can go when
// the sites are cleared: that of the host, and that of a patch which used its
// records. As long as the sites stay, so does the host.
func TestSlotReclaim(t *testing.T) {
	x := steadyTarget(t, 3)
	s := start(t, x.target, "3")
	opt := Options{Timeout: time.Minute, MaxPause: time.Minute}
	must(t, apply(s, x.pkg(t, trampoline.Slot, 1), opt)())
	_, err := Retarget([]int{s.pid}, x.pkg(t, trampoline.Slot, 2), opt)
	must(t, err)
	must(t, revert(s, "fix2", opt)())
	wantConditions(t, s, map[string]string{"fix1": "reverted, its sites stay", "fix2": "reverted"})
	_, err = Reclaim([]int{s.pid}, "fix1", opt)
	wantCode(t, err, refusal.NotApplied)
	_, err = Remove([]int{s.pid}, Removal{All: true, ClearSites: true}, opt)
	must(t, err)
	reclaimedSoon(t, s, 0) // the host, then the other one, whose address the host's records had
	s.wantVersion(0, 1, 2)
	must(t, apply(s, x.pkg(t, trampoline.Slot, 2), opt)())
	s.wantVersion(2, 0)
}
