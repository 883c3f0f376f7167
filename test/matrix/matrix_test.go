//go:build linux && amd64

package matrix

import (
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"livepatch/internal/build"
	"livepatch/internal/pack"
	"livepatch/internal/process"
	"livepatch/internal/refusal"
)

// How many configurations each case is built in.
const (
	usual    = 3
	thorough = 60 // with LIVEPATCH_SLOW
)

// Every case, in a covering choice of configurations.
//
//	LIVEPATCH_SLOW=1                     more of them
//	LIVEPATCH_MATRIX=gcc/O2/pie/…        only this one
//	LIVEPATCH_N=8                        that many
//	LIVEPATCH_OPEN=1                     cases with open defects too
//	LIVEPATCH_ROUND=7                    another choice
//	LIVEPATCH_KEEP=DIR                   leaves what was built in DIR
func TestMatrix(t *testing.T) {
	needTools(t)
	n, round := usual, 0
	if os.Getenv("LIVEPATCH_SLOW") != "" {
		n = thorough
	}
	if s := os.Getenv("LIVEPATCH_N"); s != "" {
		n, _ = strconv.Atoi(s)
	}
	if s := os.Getenv("LIVEPATCH_ROUND"); s != "" {
		round, _ = strconv.Atoi(s)
	}
	for _, c := range readCases(t) {
		configs := cover(c.name, round, n)
		if s := os.Getenv("LIVEPATCH_MATRIX"); s != "" {
			one, err := parseConfig(s)
			if err != nil {
				t.Fatal(err)
			}
			configs = []config{one}
		}
		t.Run(c.name, func(t *testing.T) {
			if len(c.open) > 0 && os.Getenv("LIVEPATCH_OPEN") == "" {
				t.Skip("open: ", strings.Join(c.open, " "))
			}
			t.Parallel()
			for _, f := range configs {
				if c.applies(f) {
					t.Run(strings.ReplaceAll(f.String(), "/", ","), func(t *testing.T) { runCase(t, c, f) })
				}
			}
		})
	}
}

func needTools(t *testing.T) {
	for _, tool := range []string{"gcc", "clang", "ld.bfd", "ld.gold", "ld.lld", "strip", "objcopy"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
}

func runCase(t *testing.T, c *testCase, f config) {
	dir := t.TempDir()
	if keep := os.Getenv("LIVEPATCH_KEEP"); keep != "" {
		dir = filepath.Join(keep, c.name, f.String())
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b := &builder{t: t, c: c, f: f, dir: dir}
	made := b.build()
	pkg, err := create(made)
	if err != nil {
		judge(t, c, err)
		return
	}
	if !c.ok() {
		t.Errorf("WRONG: it was not refused (%v)", c.want)
		return
	}
	talk(t, c, made, pkg)
}

// create makes a package, writes it and reads it back.
func create(made built) (*pack.Package, error) {
	p, err := build.Create(build.Inputs{Name: "case", Version: "test", Targets: made.targets})
	if err != nil {
		return nil, err
	}
	data, err := pack.Write(p)
	if err != nil {
		return nil, err
	}
	return pack.Read(data)
}

// judge looks at the codes of a refusal.
func judge(t *testing.T, c *testCase, err error) {
	t.Helper()
	if errors.Is(err, build.ErrNothingToPatch) && slices.Contains(c.want, "nothing") {
		return
	}
	var list refusal.List
	if !errors.As(err, &list) {
		t.Errorf("ERROR: %v", err)
		return
	}
	if !c.ok() && slices.ContainsFunc(list, func(r refusal.Refusal) bool { return slices.Contains(c.want, string(r.Code)) }) {
		return // whatever else was found
	}
	for _, r := range list {
		switch code := string(r.Code); {
		case slices.Contains(c.want, code):
		case slices.Contains(c.allow, code):
			t.Logf("UNNEEDED: %v", r)
		default:
			t.Errorf("REFUSED: %v", r)
		}
	}
}

func talk(t *testing.T, c *testCase, made built, pkg *pack.Package) {
	p := start(t, made.program)
	pid := p.cmd.Process.Pid
	var pages map[string][32]byte
	phase := "before"
	for _, line := range c.talk {
		switch line {
		case "apply":
			if pages == nil {
				pages = executablePages(t, pid)
			}
			if _, err := process.Apply([]int{pid}, pkg, process.Options{Timeout: 2 * time.Second}); err != nil {
				t.Fatalf("APPLY: %v (%s)", err, process.StateOf(err))
			}
			phase = "after"
		case "revert":
			if _, err := process.Revert(pid, "case", process.Options{}); err != nil {
				t.Fatalf("REVERT: %v (%s)", err, process.StateOf(err))
			}
			if got := executablePages(t, pid); !maps.Equal(got, pages) {
				t.Errorf("PAGES: the code in memory is not as before the patch")
			}
			phase = "reverted"
		default:
			call, want, _ := strings.Cut(line, "->")
			call, want = strings.TrimSpace(call), strings.TrimSpace(want)
			got, err := p.ask(call)
			if err != nil {
				t.Fatalf("CRASH: %s: %s: %s%v", phase, call, got, err)
			}
			if got != want {
				t.Errorf("WRONG: %s: %s: %q, want %q", phase, call, got, want)
			}
		}
	}
}
