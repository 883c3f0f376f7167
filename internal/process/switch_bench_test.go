//go:build linux && amd64

package process

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"livepatch/internal/testkit"
)

// BenchmarkSwitch applies and reverts a patch in each way to change code, of a
// process whose threads wake up every 50 ms. held-ms is the longest time for which
// a thread was held, took-ms the time from the first request to stop a thread to
// the last thread's release, handlers included; both are medians. The first
// instructions of the function are shorter than the jump, as those of most are.
// With each number of threads it ends after some seconds.
func BenchmarkSwitch(b *testing.B) {
	testkit.Tool(b, "gcc")
	ways := map[string]Options{"stop": {}, "interrupt": {Switch: SwitchInt3, Sync: SyncInterrupt}, "membarrier": {Switch: SwitchInt3, Sync: SyncMembarrier}}
	for _, threads := range []int{1, 4, 16, 64, 256, 1024} {
		for _, way := range []string{"stop", "interrupt", "membarrier"} {
			b.Run(fmt.Sprintf("threads=%s/way=%s", strconv.Itoa(threads), way), func(b *testing.B) {
				target := compile(b, "server", "-pthread", "-O0", "-DREST=50000", "server.c")
				pkg := handMade(b, "fix", target, compile(b, "fix.o", "-c", "-fPIE", "server_fix.c"), replaced{old: "answer", new: "answer_new"})
				s := start(b, target, strconv.Itoa(threads-1))
				const enough = 3 * time.Second
				opt := ways[way]
				opt.Timeout, opt.MaxPause = 10*enough, 10*enough
				var held, took []time.Duration
				begin := time.Now()
				for b.Loop() {
					if time.Since(begin) > enough {
						continue
					}
					for _, do := range []func() (*Result, error){
						func() (*Result, error) { return Apply([]int{s.pid}, pkg, opt) },
						func() (*Result, error) { return Revert(s.pid, "fix", opt) },
					} {
						r, err := do()
						if err != nil {
							b.Fatal(err)
						}
						held = append(held, r.Pause.Total)
						took = append(took, max(r.Pause.Total, r.Took))
					}
				}
				b.ReportMetric(0, "ns/op") // rounds may have been left out
				b.ReportMetric(float64(len(held)), "changes")
				for what, list := range map[string][]time.Duration{"held-ms": held, "took-ms": took} {
					slices.Sort(list)
					b.ReportMetric(float64(list[len(list)/2])/1e6, what)
				}
			})
		}
	}
}
