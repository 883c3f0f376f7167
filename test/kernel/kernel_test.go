package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"livepatch/internal/testkit/vm"
)

// The kernels that every case is seen on: these, and the series of the directories of
// scripts/kernel in LIVEPATCH_KERNELS, such as .../5.10-cloud-amd64-bullseye.
var versions = append([]string{"6.1", "6.12"}, moreVersions(os.Getenv("LIVEPATCH_KERNELS"))...)

func moreVersions(dirs string) []string {
	var out []string
	for dir := range strings.FieldsSeq(dirs) {
		if m := regexp.MustCompile(`^\d+\.\d+`).FindString(filepath.Base(dir)); m != "" {
			out = append(out, m)
		}
	}
	return out
}

// programs are built once for all tests: livepatch, and a program that makes
// system calls. Both are static.
var programs = sync.OnceValues(func() (dir string, err error) {
	dir, err = os.MkdirTemp("", "livepatch-kernel-test-")
	if err != nil {
		return "", err
	}
	for name, pkg := range map[string]string{"livepatch": "livepatch/cmd/livepatch", "probe": "./testdata/probe"} {
		cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", filepath.Join(dir, name), pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s: %w: %s", pkg, err, out)
		}
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := programs(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

func program(t testing.TB, name string) string {
	t.Helper()
	dir, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}

// A target is a kernel with what patches for it are made of.
type target struct {
	*vm.Kernel
	version string
}

func fetched(t testing.TB, version string) *target {
	t.Helper()
	return &target{vm.Fetched(t, "--source", version), version}
}

// pair is a line of the list of scripts/kernel-objects.
type pair struct{ object, target string }

func pairs(t testing.TB, dir string) []pair {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "pairs"))
	if err != nil {
		t.Fatal(err)
	}
	var out []pair
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 2 {
			out = append(out, pair{f[0], f[1]})
		}
	}
	return out
}

// createArgs are the arguments of livepatch create for the pairs in a directory.
func (k *target) createArgs(t testing.TB, dir, out string) []string {
	t.Helper()
	args := []string{"create", "-o", out, "--symvers", k.Path("headers/Module.symvers"), "--config", k.Path("headers/.config")}
	if k.delaysObjtool(t) {
		args = append(args, "--objtool", k.Path("objtool"))
	}
	all := pairs(t, dir)
	// The image comes first, also when only a module changes.
	names := []string{"vmlinux"}
	for _, p := range all {
		if !slices.Contains(names, p.target) {
			names = append(names, p.target)
		}
	}
	for _, name := range names {
		file := k.Path("vmlinuz")
		if name != "vmlinux" {
			file = k.moduleFile(t, name)
		}
		args = append(args, "--target", file)
		for _, p := range all {
			if p.target == name {
				args = append(args, "--pair", filepath.Join(dir, "before", p.object)+"="+filepath.Join(dir, "after", p.object))
			}
		}
	}
	return args
}

// delaysObjtool reports whether objects of this kernel come without objtool's tables.
func (k *target) delaysObjtool(t testing.TB) bool {
	t.Helper()
	b, err := os.ReadFile(k.Path("headers/.config"))
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Contains(b, []byte("\nCONFIG_X86_KERNEL_IBT=y\n")) || bytes.Contains(b, []byte("\nCONFIG_LTO=y\n"))
}

func (k *target) moduleFile(t testing.TB, name string) string {
	t.Helper()
	var found string
	err := filepath.WalkDir(k.Path("modules")+"/kernel", func(path string, d os.DirEntry, err error) error {
		base, _, _ := strings.Cut(filepath.Base(path), ".ko")
		if err == nil && !d.IsDir() && strings.ReplaceAll(base, "-", "_") == name {
			found = path
		}
		return err
	})
	if err != nil || found == "" {
		t.Fatalf("no file of module %s: %v", name, err)
	}
	return found
}

// create runs livepatch create and returns its exit code and what it said.
func (k *target) create(t testing.TB, dir, out string, more ...string) (int, string) {
	t.Helper()
	return k.livepatch(t, append(k.createArgs(t, dir, out), more...)...)
}

// livepatch runs the program and returns its exit code and what it said.
func (k *target) livepatch(t testing.TB, args ...string) (int, string) {
	t.Helper()
	cmd := exec.Command(program(t, "livepatch"), args...)
	said, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(said)
}

// A testCase is a directory in cases.
type testCase struct {
	name, pairs, observe string
	modules              []string
	expect               map[string]string
}

func (k *target) cases(t testing.TB) []*testCase {
	t.Helper()
	var out []*testCase
	for line := range strings.Lines(vm.Script(t, "kernel-objects", "--cached", "--kernel", k.version, "--cases") + "\n") {
		f := strings.Fields(line)
		c := readCase(t, filepath.Join("cases", f[0]))
		c.pairs = f[1]
		out = append(out, c)
	}
	return out
}

// readCase reads a case, but for its pairs.
func readCase(t testing.TB, dir string) *testCase {
	t.Helper()
	c := &testCase{name: filepath.Base(dir), observe: read(t, filepath.Join(dir, "observe")), expect: sections(read(t, filepath.Join(dir, "expect")))}
	if b, err := os.ReadFile(filepath.Join(dir, "modules")); err == nil {
		c.modules = strings.Fields(string(b))
	}
	return c
}

func read(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// sections takes apart a text with headings "-- NAME --".
func sections(text string) map[string]string {
	out := map[string]string{}
	name := ""
	for line := range strings.Lines(text) {
		if h, ok := strings.CutPrefix(line, "-- "); ok && strings.HasSuffix(h, " --\n") {
			name = strings.TrimSuffix(h, " --\n")
			out[name] = ""
		} else {
			out[name] += line
		}
	}
	return out
}

// A session is one machine: the steps that it runs and what is expected of them.
type session struct {
	*target
	config vm.Config
	checks []func(t *testing.T, r *vm.StepResult)
}

func (k *target) session(t testing.TB) *session {
	return &session{target: k, config: vm.Config{
		Kernel: k.Kernel, Timeout: 8 * time.Minute, Limit: 100 * time.Second,
		Files: []vm.File{{Name: "/bin/livepatch", From: program(t, "livepatch")}, {Name: "/bin/probe", From: program(t, "probe")}},
	}}
}

// do adds a step.
func (s *session) do(name, script string, check func(t *testing.T, r *vm.StepResult)) {
	s.config.Steps = append(s.config.Steps, vm.Step{Name: name, Script: script})
	s.checks = append(s.checks, check)
}

// run boots the machine and checks every step in a test of its name.
func (s *session) run(t *testing.T) {
	t.Helper()
	r, err := vm.Run(context.Background(), s.config)
	if r == nil {
		t.Fatal(err)
	}
	t.Logf("%s: %d steps, %.1f s", s.Release, len(r.Steps), r.Elapsed.Seconds())
	for i := range r.Steps {
		step := &r.Steps[i]
		t.Run(strings.ReplaceAll(step.Name, " ", "-"), func(t *testing.T) {
			s.checks[i](t, step)
			if step.Elapsed > 5*time.Second {
				t.Logf("%.1f s", step.Elapsed.Seconds())
			}
			if t.Failed() {
				t.Logf("exit %d, printed\n%s\nand the kernel logged\n%s", step.Exit, step.Output, logText(step.Log))
			}
		})
	}
	if err != nil {
		t.Fatal(err)
	}
}

func logText(lines []vm.Line) string {
	var b strings.Builder
	for _, l := range lines {
		fmt.Fprintf(&b, "<%d> %s\n", l.Level, l.Text)
	}
	return b.String()
}

// printed is the check that a step ends well, prints this and logs that.
func printed(want, log string) func(t *testing.T, r *vm.StepResult) {
	return func(t *testing.T, r *vm.StepResult) {
		if r.Exit != 0 {
			t.Errorf("exit %d", r.Exit)
		}
		if r.Output != want {
			t.Errorf("printed\n%q, want\n%q", r.Output, want)
		}
		logged(t, r.Log, log)
	}
}

// noise is what a kernel logs in its first seconds whatever is done.
var noise = regexp.MustCompile(`^(tsc: |clocksource: |random: crng init|NET: Registered|hrtimer: interrupt took|e1000|input: |clockevents: |sched_clock: )`)

// logged compares a log with patterns, one a line; a warning with its registers
// and stack counts as the line that names it.
func logged(t *testing.T, log []vm.Line, patterns string) {
	t.Helper()
	want := strings.Split(strings.TrimSuffix(patterns, "\n"), "\n")
	if patterns == "" {
		want = nil
	}
	got := condense(log)
	for i := range max(len(want), len(got)) {
		switch {
		case i >= len(got):
			t.Errorf("log: no line %q", want[i])
		case i >= len(want):
			t.Errorf("log: unexpected line %q", got[i])
		default:
			if ok, err := regexp.MatchString("^(?:"+want[i]+")$", got[i]); err != nil || !ok {
				t.Errorf("log: line %q, want %q (%v)", got[i], want[i], err)
			}
		}
	}
}

// condense leaves out noise and of a warning all but what it says.
func condense(log []vm.Line) []string {
	var out []string
	block := false
	for _, l := range log {
		switch {
		case strings.Contains(l.Text, "[ cut here ]"):
			block = true
		case strings.HasPrefix(l.Text, "---[ end trace"):
			block = false
		case block && strings.HasPrefix(l.Text, "WARNING: "):
			out = append(out, l.Text)
		case block && warningDetail.MatchString(l.Text), noise.MatchString(l.Text):
		default:
			out = append(out, l.Text)
		}
	}
	return out
}

// warningDetail is a line of a warning that differs from run to run.
var warningDetail = regexp.MustCompile(`^( |Modules linked in|CPU: |Tainted: |Hardware name: |RIP: |Code: |R[A-Z0-9]{2}: |EFLAGS|CS: |FS: |CR2: |DR[0-9]: |PKRU: |Call Trace:|ORIG_RAX|pstate: |(pc|lr|sp) : |x[0-9]+ *: |Call trace:)`)
