//go:build linux && amd64

package watch

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"livepatch/elfpatch"
	"livepatch/internal/build"
	"livepatch/internal/pack"
	"livepatch/internal/process"
	"livepatch/internal/testkit"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// gcc compiles and returns the path of what it made.
func gcc(t testing.TB, dir, out string, args ...string) string {
	t.Helper()
	path := filepath.Join(dir, out)
	testkit.Run(t, "gcc", append([]string{"-O2", "-o", path}, args...)...)
	return path
}

// ownBuild is the option for a build-id that no other program has: what watch
// finds on the machine it patches, and tests run side by side.
func ownBuild() string {
	var id [20]byte
	_, _ = rand.Read(id[:])
	return fmt.Sprintf("-Wl,--build-id=0x%x", id)
}

// watched makes a program, its library if it is to have one, and a directory
// with a package for the one or the other.
func watched(t testing.TB, library bool) (program, packages string) {
	t.Helper()
	dir := t.TempDir()
	source, target := "testdata/watched.c", filepath.Join(dir, "watched")
	if library {
		source, target = "testdata/library.c", filepath.Join(dir, "libanswer.so")
	}
	before, after := gcc(t, dir, "before.o", "-c", "-fPIC", source), gcc(t, dir, "after.o", "-c", "-fPIC", "-DAFTER", source)
	if library {
		gcc(t, dir, "libanswer.so", "-shared", ownBuild(), before)
		program = gcc(t, dir, "watched", "-DLIBRARY", "testdata/watched.c", "-L"+dir, "-Wl,-rpath,"+dir, "-lanswer")
	} else {
		program = gcc(t, dir, "watched", ownBuild(), before)
	}
	parse := func(path string) *elfpatch.File { return testkit.ELF(t, path) }
	res, err := build.Create(build.Inputs{Name: "fix", Version: "test", Targets: []build.Target{{
		Name: filepath.Base(target), File: parse(target),
		Pairs: []build.Pair{{OrigName: "before.o", PatchedName: "after.o", Orig: parse(before), Patched: parse(after)}},
	}}})
	must(t, err)
	b, err := pack.Write(res)
	must(t, err)
	packages = filepath.Join(dir, "packages")
	must(t, os.Mkdir(packages, 0o755))
	must(t, os.WriteFile(filepath.Join(packages, "fix.lpatch"), b, 0o644))
	return program, packages
}

// hosted watches the machine until the test ends.
type hosted struct {
	sync.Mutex
	events []Event
	stop   func()
}

func (h *hosted) log(e Event) {
	h.Lock()
	defer h.Unlock()
	h.events = append(h.events, e)
}

// after returns the times from start to patch, as the kernel's news allow to
// tell them.
func (h *hosted) after() (list []time.Duration) {
	h.Lock()
	defer h.Unlock()
	for _, e := range h.events {
		if e.Event == Applied && e.After > 0 {
			list = append(list, e.After)
		}
	}
	return list
}

func watchHost(t testing.TB, packages string, poll bool, interval time.Duration) *hosted {
	t.Helper()
	h := &hosted{}
	ctx, cancel := context.WithCancel(context.Background())
	done, began := make(chan error, 1), make(chan bool, 1)
	cfg := Config{
		Dir: packages, Interval: interval, Poll: poll, Machine: Host{process.Options{Timeout: 2 * time.Second}},
		Parse: func(_ string, b []byte) (*pack.Package, error) { return pack.Read(b) },
		Log: func(e Event) {
			h.log(e)
			if e.Event == Found {
				began <- true
			}
		},
	}
	go func() {
		_, err := Run(ctx, cfg)
		done <- err
	}()
	select {
	case <-began:
	case err := <-done:
		t.Fatalf("watch ended: %v", err)
	}
	var once sync.Once
	h.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(h.stop)
	if e := h.events[0]; !poll && e.Reason != "" {
		testkit.Missing(t, "%s", e.Reason)
	}
	return h
}

// startWatched runs the program and tells when it has met the patch.
func startWatched(t testing.TB, program string) (patched func() time.Duration) {
	t.Helper()
	cmd := exec.Command(program)
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		testkit.End(t, cmd)
	})
	return func() time.Duration {
		t.Helper()
		defer testkit.Bound(cmd)()
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			t.Fatalf("process %d was not patched: %v", cmd.Process.Pid, err)
		}
		us, err := strconv.Atoi(strings.TrimSpace(line))
		must(t, err)
		return time.Duration(us) * time.Microsecond
	}
}

// Hundreds of short-lived programs start every second; those that live longer
// and match are all patched, with news from the kernel and without.
func TestStorm(t *testing.T) {
	for _, tc := range []struct {
		name          string
		poll, library bool
	}{
		{"news", false, false},
		{"news-library", false, true},
		{"poll", true, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			program, packages := watched(t, tc.library)
			dir := t.TempDir()
			short := gcc(t, dir, "short", "-static", "-nostdlib", "testdata/short.s")
			spawner := exec.Command(gcc(t, dir, "spawner", "testdata/spawner.c"), "1000", short)
			in, err := spawner.StdinPipe()
			must(t, err)
			out, err := spawner.StdoutPipe()
			must(t, err)
			h := watchHost(t, packages, tc.poll, 100*time.Millisecond)
			must(t, spawner.Start())
			t.Cleanup(func() { testkit.End(t, spawner) })
			began := time.Now()
			var patched []func() time.Duration
			for range 10 {
				patched = append(patched, startWatched(t, program))
				time.Sleep(100 * time.Millisecond)
			}
			var times []time.Duration
			for _, p := range patched {
				times = append(times, p())
			}
			in.Close()
			b, err := io.ReadAll(out)
			must(t, err)
			n, err := strconv.Atoi(strings.TrimSpace(string(b)))
			must(t, err)
			t.Logf("%.0f programs a second; %s", float64(n)/time.Since(began).Seconds(), spread(times))
			h.stop()
			applied := 0
			for _, e := range h.events {
				switch e.Event {
				case Applied:
					applied++
				case Failed:
					// A busy machine gives a thread no time to stop; the next try does it.
					if t.Logf("%+v", e); len(e.Codes) > 0 {
						t.Error("refused")
					}
				case Blind, Bad:
					t.Errorf("%+v", e)
				}
			}
			if applied != len(times) {
				t.Errorf("%d packages were applied to %d processes", applied, len(times))
			}
		})
	}
}

// spread is the median, the ninth of ten and the longest of times.
func spread(times []time.Duration) string {
	slices.Sort(times)
	at := func(share float64) time.Duration {
		return times[int(share*float64(len(times)-1))].Round(10 * time.Microsecond)
	}
	return fmt.Sprintf("%d: half within %v, nine of ten within %v, all within %v", len(times), at(0.5), at(0.9), at(1))
}

// How long a program runs unpatched; docs/new-processes.md has the figures.
func BenchmarkWindow(b *testing.B) {
	for _, bc := range []struct {
		name     string
		poll     bool
		library  bool
		interval time.Duration
	}{
		{"news", false, false, time.Second},
		{"news/library", false, true, time.Second},
		{"poll/1s", true, false, time.Second},
		{"poll/100ms", true, false, 100 * time.Millisecond},
	} {
		b.Run(bc.name, func(b *testing.B) {
			program, packages := watched(b, bc.library)
			h := watchHost(b, packages, bc.poll, bc.interval)
			var times []time.Duration
			for b.Loop() {
				times = append(times, startWatched(b, program)())
				time.Sleep(time.Duration(len(times)*7%20) * bc.interval / 20) // at any time between two looks
			}
			b.Logf("from main: %s", spread(times))
			h.stop()
			for _, e := range h.events {
				if e.Event == Lost || e.Event == Failed || e.Event == Applied && e.After == 0 && !bc.poll {
					b.Logf("%+v", e)
				}
			}
			if after := h.after(); len(after) > 0 {
				b.Logf("from exec: %s", spread(after))
			}
		})
	}
}
