//go:build linux && (amd64 || arm64)

package process

import (
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"livepatch/internal/testkit"
)

// A stop is an interruption that some system calls report to the program.
// docs/loader.md lists them; this is where the list comes from.
func TestWhatATargetNotices(t *testing.T) {
	target := compile(t, "waits", "-pthread", "waits.c")
	pkg := handMade(t, "fix", target, compile(t, "fix.o", "-c", "-fPIE", "server_fix.c"), replaced{old: "answer", new: "answer_new"})
	s := start(t, target)
	const stops = 10
	for range stops {
		_, err := Apply([]int{s.pid}, pkg, Options{DryRun: true, Timeout: time.Minute})
		must(t, err)
		time.Sleep(5 * time.Millisecond) // until all wait again
	}
	_, err := io.WriteString(s.in, "!\n")
	must(t, err)
	var noticed, unaffected []string
	for _, f := range strings.Fields(s.line()) {
		name, counts, _ := strings.Cut(f, "=")
		if strings.HasPrefix(counts, "0/") {
			unaffected = append(unaffected, name)
		} else {
			noticed = append(noticed, name)
		}
		if !strings.HasSuffix(counts, "/0") {
			t.Errorf("%s returned something else than EINTR: %s", name, counts)
		}
	}
	if _, err := io.WriteString(s.in, "?\n"); err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("../../docs/loader.md")
	must(t, err)
	listed := func(after string) []string {
		_, rest, _ := strings.Cut(string(doc), after)
		list, _, ok := strings.Cut(rest, ".\n")
		if !ok {
			t.Fatal("docs/loader.md has no list")
		}
		return strings.Split(strings.ReplaceAll(list, ",\n", ", "), ", ")
	}
	known, others := listed("Measured on Linux 6.18: "), listed("not affected there: ")
	for _, name := range unaffected {
		if !slices.Contains(others, name) && !slices.Contains(known, name) {
			t.Errorf("%s was measured, and docs/loader.md does not list it", name)
		}
	}
	for _, name := range noticed { // other kernels may interrupt fewer
		if !slices.Contains(known, name) {
			t.Errorf("%s returned EINTR, and docs/loader.md does not list it", name)
		}
	}
	t.Log(noticed)
	s.in.Close()
	testkit.Await(t, s.cmd) // it removes its semaphores
}
