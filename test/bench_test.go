//go:build linux && amd64

package test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"livepatch/elfpatch"
	"livepatch/internal/build"
	"livepatch/internal/process"
)

// How long create takes for one pair of objects of Debian's redis, reading
// included.
func BenchmarkCreateRedis(b *testing.B) {
	out, err := exec.Command("../scripts/redis-objects", "--cached").Output()
	if err != nil {
		b.Skip("run scripts/redis-objects")
	}
	dir := strings.TrimSpace(string(out))
	for _, name := range []string{"t_string", "db"} {
		b.Run(name, func(b *testing.B) {
			benchmarkCreate(b, filepath.Join(dir, "program"), objectPair(dir, name))
		})
	}
}

// How create's time grows with the number of functions of an object, one of
// which changed.
func BenchmarkCreateGrowth(b *testing.B) {
	for _, n := range []int{100, 400, 1600, 6400} {
		b.Run(fmt.Sprintf("functions=%d", n), func(b *testing.B) {
			dir := b.TempDir()
			var src strings.Builder
			src.WriteString("static unsigned long total;\n")
			for i := range n {
				factor := strconv.Itoa(i + 3)
				if i == n/2 {
					factor = "FACTOR"
				}
				fmt.Fprintf(&src, "unsigned long f%d(unsigned long x) { total += x; if (x > %d) return f%d_out(x, %q); return x * %s; }\n",
					i, i, i%7, fmt.Sprint("text ", i), factor)
			}
			text := src.String()
			for i := range 7 {
				text = fmt.Sprintf("unsigned long f%d_out(unsigned long, const char *);\n", i) + text
			}
			main := "int main(void) { return 0; }\n"
			for i := range 7 {
				main += fmt.Sprintf("unsigned long f%d_out(unsigned long x, const char *s) { return x + *s; }\n", i)
			}
			write(b, dir, "many.c", text)
			write(b, dir, "main.c", main)
			run(b, dir, "gcc", "-O2", "-fPIE", "-DFACTOR=3", "-c", "many.c", "-o", "many.before.o")
			run(b, dir, "gcc", "-O2", "-fPIE", "-DFACTOR=5", "-c", "many.c", "-o", "many.after.o")
			run(b, dir, "gcc", "-pie", "-s", "main.c", "many.before.o", "-o", "many")
			benchmarkCreate(b, filepath.Join(dir, "many"), objectPair(dir, "many"))
		})
	}
}

func write(tb testing.TB, dir, name, text string) {
	tb.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
		tb.Fatal(err)
	}
}

func run(tb testing.TB, dir string, command ...string) {
	tb.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("%s: %v\n%s", command[0], err, out)
	}
}

func benchmarkCreate(b *testing.B, program string, pair [2]string) {
	var files [3][]byte
	for i, path := range []string{program, pair[0], pair[1]} {
		var err error
		if files[i], err = os.ReadFile(path); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(len(files[1]) + len(files[2])))
	for b.Loop() {
		var parsed [3]*elfpatch.File
		for i := range files {
			var err error
			if parsed[i], err = elfpatch.Parse(files[i]); err != nil {
				b.Fatal(err)
			}
		}
		_, err := build.Create(build.Inputs{Name: "bench", Version: "test", Targets: []build.Target{{
			Name: "program", File: parsed[0],
			Pairs: []build.Pair{{OrigName: "before.o", PatchedName: "after.o", Orig: parsed[1], Patched: parsed[2]}},
		}}})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// How long the threads of a program stand still, by their number. Each round
// applies and reverts.
func BenchmarkPause(b *testing.B) {
	dir := binary("x86_64-gcc")
	for _, n := range []int{1, 16, 128, 1024} {
		b.Run(fmt.Sprintf("threads=%d", n), func(b *testing.B) {
			pkg := createPackage(b, "counters", filepath.Join(dir, "prog"), objectPair(dir, "counter.O2"))
			p := start(b, filepath.Join(dir, "prog"), strconv.Itoa(n-1))
			p.ask("ticks")
			var pauses []time.Duration
			for b.Loop() {
				var busy *process.BusyError
				res, err := process.Apply([]int{p.pid()}, pkg, process.Options{})
				if errors.As(err, &busy) {
					b.Fatalf("busy after %d tries", busy.Attempts)
				} else if err != nil {
					b.Fatal(err)
				}
				pauses = append(pauses, res.Pause.Total)
				revert(b, "counters", p)
			}
			slices.Sort(pauses)
			b.ReportMetric(float64(pauses[len(pauses)/2].Microseconds()), "median-pause-µs")
			b.ReportMetric(float64(pauses[len(pauses)-1].Microseconds()), "longest-pause-µs")
		})
	}
}

// What a call of a small function costs beside one that is patched. Both are
// measured in turn in one process, so that the machine's moods hit both.
func BenchmarkCall(b *testing.B) {
	dir := binary("x86_64-gcc")
	pkg := createPackage(b, "switches", filepath.Join(dir, "prog"), objectPair(dir, "switch.O2"))
	p := start(b, filepath.Join(dir, "prog"))
	const calls = 5_000_000
	perCall := func() float64 {
		ns, err := strconv.ParseFloat(p.ask("time %d", calls), 64)
		if err != nil {
			b.Fatal(err)
		}
		return ns / calls
	}
	perCall()
	var plain, patched []float64
	for b.Loop() {
		plain = append(plain, perCall())
		apply(b, pkg, p)
		patched = append(patched, perCall())
		revert(b, "switches", p)
	}
	slices.Sort(plain)
	slices.Sort(patched)
	before, after := plain[len(plain)/2], patched[len(patched)/2]
	b.ReportMetric(before, "ns/call")
	b.ReportMetric(after, "ns/patched-call")
	b.ReportMetric(after/before, "ratio")
}
