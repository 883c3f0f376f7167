package child

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

func shell(script string) *Program { return &Program{Argv: []string{"sh", "-c", script}} }

func needsShell(t *testing.T) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("there is no shell")
	}
}

func TestRun(t *testing.T) {
	needsShell(t)
	t.Setenv("KBUILD_EXTRA", "1")
	t.Setenv("MAKEFLAGS", "-k")
	var lines []string
	p := shell(`echo one; echo two; echo "$MAKEFLAGS$KBUILD_EXTRA$LC_ALL$MORE$(cat)" >&2`)
	p.Env, p.Stdin, p.Output = []string{"MORE=m"}, "in", func(l string) { lines = append(lines, l) }
	text, err := p.Run(t.Context())
	if err != nil || text != "Cmin" || strings.Join(lines, ",") != "one,two" {
		t.Errorf("said %q, lines %q, %v", text, lines, err)
	}
	_, err = shell("echo no >&2; exit 3").Run(t.Context())
	if err == nil || err.Error() != "sh: exit status 3: no" {
		t.Errorf("got %v", err)
	}
	if _, err = (&Program{Argv: []string{"/no/such/program"}}).Run(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "run /no/such/program: ") {
		t.Errorf("got %v", err)
	}
	text, _ = shell(`i=0; while [ $i -lt 3000 ]; do echo "line $i of many"; i=$((i+1)); done`).Run(t.Context())
	if len(text) > 3*said || !strings.HasSuffix(text, "line 2999 of many") {
		t.Errorf("%d bytes are kept, ending %q", len(text), text[len(text)-20:])
	}
}

// With the context, what the program has started ends too.
func TestRunEndsAll(t *testing.T) {
	needsShell(t)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	started := filepath.Join(dir, "started")
	p := shell(`(trap 'echo > ended; exit' TERM; echo > started; while :; do sleep 0.1; done) & wait`)
	p.Dir = dir
	go func() {
		for {
			if _, err := os.Stat(started); err == nil {
				cancel()
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	if _, err := p.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	for range 500 {
		if _, err := os.Stat(filepath.Join(dir, "ended")); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("what it has started goes on")
}

func TestLock(t *testing.T) {
	needsShell(t)
	dir := filepath.Join(t.TempDir(), "new")
	first, err := Lock(t.Context(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	waited := 0
	if _, err := Lock(ctx, dir, func() { waited++; cancel() }); !errors.Is(err, context.Canceled) || waited != 1 {
		t.Errorf("while it is locked: %v, told %d times", err, waited)
	}
	first.Close()
	second, err := Lock(t.Context(), dir, func() { t.Error("it waits for nobody") })
	if err != nil {
		t.Fatal(err)
	}
	second.Close()
}
