//go:build linux && (amd64 || arm64)

package process

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"livepatch/internal/testkit"
)

// BenchmarkPause applies and reverts a patch of a process whose threads wake up
// every 50 ms, and reports the medians of the pauses and of their parts. With each
// number of threads it ends after some seconds, however many rounds are asked for
// and however busy the machine is.
func BenchmarkPause(b *testing.B) {
	testkit.Tool(b, "gcc")
	for _, threads := range []int{1, 16, 128, 1024} {
		b.Run(strconv.Itoa(threads), func(b *testing.B) {
			target := compile(b, "server", "-pthread", "-DREST=50000", "server.c")
			pkg := handMade(b, "fix", target, compile(b, "fix.o", "-c", "-fPIE", "server_fix.c"), replaced{old: "answer", new: "answer_new"})
			s := start(b, target, strconv.Itoa(threads-1))
			var total, stop, check, write []time.Duration
			const enough = 3 * time.Second
			opt := Options{Timeout: enough, MaxPause: enough}
			begin := time.Now()
			for i := 0; b.Loop(); i++ {
				if time.Since(begin) > enough {
					continue
				}
				pkg.Manifest.Name = fmt.Sprintf("fix%d", i)
				for _, do := range []func() (*Result, error){
					func() (*Result, error) { return Apply([]int{s.pid}, pkg, opt) },
					func() (*Result, error) { return Revert(s.pid, pkg.Manifest.Name, opt) },
				} {
					r, err := do()
					if err != nil {
						b.Fatal(err)
					}
					total, stop = append(total, r.Pause.Total), append(stop, r.Pause.Stop)
					check, write = append(check, r.Pause.Check), append(write, r.Pause.Write)
				}
			}
			report := func(what string, d []time.Duration) {
				slices.Sort(d)
				b.ReportMetric(float64(d[len(d)/2])/1e6, what)
			}
			b.ReportMetric(0, "ns/op") // rounds may have been left out
			b.ReportMetric(float64(len(total)), "stops")
			report("pause-ms", total)
			report("stop-ms", stop)
			report("check-ms", check)
			report("write-ms", write)
			b.ReportMetric(float64(total[len(total)-1])/1e6, "longest-ms")
		})
	}
}
