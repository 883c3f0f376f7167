//go:build linux && (amd64 || arm64)

package process

import (
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"livepatch/internal/testkit"
)

// BenchmarkSwitch applies and reverts a patch in each way to change code, of a
// process whose threads wake up every 10 ms, or more seldom if there are many, and
// call the function. seen-ms is the longest time by which a call came too late
// in any of them, idle-ms the same in as much time without a change; held-ms is the
// longest time for which a thread was held as the loader saw it, took-ms the time
// from the first request to stop a thread to the last thread's release, handlers
// included. All are medians of the changes. The first instructions of the function
// are shorter than the jump, as those of most are. With each number of threads it
// ends after some seconds.
func BenchmarkSwitch(b *testing.B) {
	testkit.Tool(b, "gcc")
	ways := map[string]Options{"stop": {}, "interrupt": {Switch: SwitchInt3, Sync: SyncInterrupt}, "membarrier": {Switch: SwitchInt3, Sync: SyncMembarrier},
		"guard": {Switch: SwitchInt3, Guard: true}}
	for _, threads := range []int{1, 4, 16, 64, 256, 1024} {
		for _, way := range []string{"stop", "interrupt", "membarrier", "guard"} {
			b.Run(fmt.Sprintf("threads=%d/way=%s", threads, way), func(b *testing.B) { benchSwitch(b, threads, ways[way]) })
		}
	}
}

func benchSwitch(b *testing.B, threads int, opt Options) {
	target := compile(b, "late", "-pthread", "-O0", "late.c")
	pkg := handMade(b, "fix", target, compile(b, "fix.o", "-c", "-fPIE", "server_fix.c"), replaced{old: "answer", new: "answer_new"})
	s := start(b, target, fmt.Sprint(threads))
	const enough = 5 * time.Second
	opt.Timeout, opt.MaxPause = 10*enough, 10*enough
	values := map[string][]time.Duration{}
	note := func(what string, d time.Duration) { values[what] = append(values[what], d) }
	begin := time.Now()
	for b.Loop() {
		if time.Since(begin) > enough {
			continue
		}
		for _, do := range []func() (*Result, error){
			func() (*Result, error) { return Apply([]int{s.pid}, pkg, opt) },
			func() (*Result, error) { return Revert(s.pid, "fix", opt) },
		} {
			s.late()
			from := time.Now()
			r, err := do()
			if err != nil {
				b.Fatal(err)
			}
			lasted := time.Since(from)
			note("seen-ms", s.late())
			note("held-ms", r.Pause.Total)
			note("took-ms", max(r.Pause.Total, r.Took))
			time.Sleep(lasted)
			note("idle-ms", s.late())
		}
	}
	b.ReportMetric(0, "ns/op") // rounds may have been left out
	b.ReportMetric(float64(len(values["seen-ms"])), "changes")
	for what, list := range values {
		slices.Sort(list)
		b.ReportMetric(float64(list[len(list)/2])/1e6, what)
	}
}

// late asks late.c for the longest delay since the last question, once a thread has
// been woken since the change ended, as one that waits to be run tells nothing.
func (r *running) late() time.Duration {
	r.t.Helper()
	longest := int64(0)
	for sum := 0; sum == 0; {
		_, err := io.WriteString(r.in, "\n")
		must(r.t, err)
		var ns int64
		var calls int
		_, err = fmt.Sscan(r.line(), &ns, &calls)
		must(r.t, err)
		longest, sum = max(longest, ns), sum+calls
		if sum == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	return time.Duration(longest)
}
