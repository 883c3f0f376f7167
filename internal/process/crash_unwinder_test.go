//go:build linux && (amd64 || arm64)

package process

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"livepatch/trampoline"
)

// The loader is killed at system calls of changes that an unwinder is told of, and
// of taking the memory away again, while threads throw exceptions through the
// patched functions.
func TestLoaderKilledAmongExceptions(t *testing.T) {
	target, pkg := throwing(t, trampoline.Direct, nil, "-fPIE")
	for _, d := range []deed{{"apply", "", "fix"}, {"revert", "fix", "retired"}, {"reclaim", "retired", ""}} {
		t.Run(d.name, func(t *testing.T) {
			c := &crash{t: t, s: start(t, target, "2"), w: ways()[0], d: d, outcomes: map[string]int{}}
			c.versions[0] = pkg
			c.throw()
		})
	}
}

// throw is a series of deaths in one target that throws exceptions.
func (c *crash) throw() {
	c.to(c.d.before)
	calls, err := c.load(killAt{})
	must(c.t, err)
	points := c.points(calls)
	for i, at := range points {
		c.at = at
		c.to(c.d.before)
		if _, err := c.load(c.at); err != nil && !errors.Is(err, errKilled) {
			c.t.Fatalf("killed at %+v: %v", at, err)
		}
		c.s.left()
		state := c.state()
		if c.outcomes[state]++; state == "" { // killed before it wrote the record
			c.lost = anonymous(c.t, c.s.pid)
		}
		_, err := Repair([]int{c.s.pid}, Remedy(i%3), Options{Timeout: time.Minute})
		must(c.t, err)
		switch have := c.state(); {
		case have == "fix" && c.d.name != "reclaim":
			c.s.sides(thrownNew)
		case have != "interrupted":
			c.s.sides(thrownOld)
		default:
			c.t.Fatalf("killed at %+v: %q after repair", at, have)
		}
	}
	c.t.Logf("%d deaths: %v", len(points), c.outcomes)
	for _, want := range []string{c.d.before, c.d.after} {
		if c.outcomes[want] == 0 {
			c.t.Errorf("no death left the target %q: %v", want, slices.Collect(maps.Keys(c.outcomes)))
		}
	}
}

// state is the name of the patch that is applied, "interrupted" in a change that was
// not ended, "retired" with nothing but memory of reverted ones, "" without.
func (c *crash) state() string {
	c.t.Helper()
	if name := c.applied(); name != "" {
		return name
	}
	st, err := Status(c.s.pid)
	must(c.t, err)
	if len(st.Patches) > 0 {
		return "retired"
	}
	return ""
}

// to brings the target to a state. That of nothing may have memory of a patch.
func (c *crash) to(want string) {
	c.t.Helper()
	pids := []int{c.s.pid}
	if c.applied() != "" && want != "fix" {
		_, err := Revert(c.s.pid, "fix", Options{Timeout: time.Minute})
		must(c.t, err)
	}
	if want == "" || want == "retired" && c.unused() {
		c.s.sides(thrownOld)
		reclaimedSoon(c.t, c.s, c.lost)
	}
	if want == "fix" && c.applied() == "" || want == "retired" && c.state() == "" {
		_, err := Apply(pids, c.versions[0], Options{Timeout: time.Minute})
		must(c.t, err)
		c.s.sides(thrownNew)
	}
	if want == "retired" && c.applied() != "" {
		_, err := Revert(c.s.pid, "fix", Options{Timeout: time.Minute})
		must(c.t, err)
		c.s.sides(thrownOld)
	}
	if have := c.state(); have != want {
		c.t.Fatalf("the target is %q, not %q", have, want)
	}
}

// unused says whether a loader has died that was about to unmap.
func (c *crash) unused() bool {
	c.t.Helper()
	st, err := Status(c.s.pid)
	must(c.t, err)
	for _, p := range st.Patches {
		if p.Retired != nil && strings.Contains(p.Retired.Reason, "killed") {
			return true
		}
	}
	return false
}
