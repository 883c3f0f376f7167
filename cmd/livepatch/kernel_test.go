package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"livepatch/internal/klp"
	"livepatch/internal/kstate"
	"livepatch/internal/pack"
	"livepatch/manifest"
)

// kernelPackageFile writes a package for a kernel that does not exist, so that
// no test can change the one that it runs on.
func kernelPackageFile(t *testing.T) string {
	t.Helper()
	module := bytes.Repeat([]byte("no module"), 10)
	sum := sha256.Sum256(module)
	id := bytes.Repeat([]byte{0xab}, 20)
	m := &manifest.Manifest{
		Format: manifest.Format, Name: "fix", Tool: manifest.Tool{Name: "test", Version: "1"}, Targets: []manifest.Target{},
		Kernel: &manifest.Kernel{
			Flavour: manifest.FlavourKLP, Machine: manifest.MachineX86, Release: "6.12.0-none", Vermagic: "6.12.0-none SMP ", BuildID: id, Module: "fix",
			Payload: manifest.Payload{Member: manifest.KernelMember, Size: int64(len(module)), SHA256: sum[:]},
			Objects: []manifest.KernelObject{{Name: manifest.Vmlinux, BuildID: id, Functions: []manifest.KernelFunction{{
				Name: "f", Object: "f.o", Address: 0xffffffff81000000, Size: 16, Replacement: "f", NewSize: 16, SHA256: sum[:], Proof: "symbol",
				Site: manifest.Site{Kind: "fentry-call", Address: 0xffffffff81000000, Expected: manifest.Hex{0xe8, 0, 0, 0, 0}, Room: 5},
			}}}},
		},
	}
	b, err := pack.Write(&pack.Package{Manifest: m, Members: map[string][]byte{manifest.KernelMember: module}})
	if err != nil {
		t.Fatal(err)
	}
	return writeTemp(t, "fix.lpatch", b)
}

func writeTemp(t *testing.T, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// livepatch runs the program and returns what it printed and its exit code.
func livepatch(args ...string) (out, errs string, code int) {
	var o, e bytes.Buffer
	code = run(append([]string{"livepatch"}, args...), &o, &e)
	return o.String(), e.String(), code
}

func TestConflictsOffline(t *testing.T) {
	pkg := kernelPackageFile(t)
	none := writeTemp(t, "none", nil)
	enabled := writeTemp(t, "enabled", []byte("f (2) R I     M \n"))
	probes := writeTemp(t, "kprobes", []byte("ffffffff81000000  k  f+0x0    [FTRACE]\nffffffff81000009  k  f+0x9    \n"))
	patches := t.TempDir()
	for name, text := range map[string]string{"old/enabled": "1\n", "old/transition": "0\n", "old/vmlinux/f,1/x": ""} {
		if err := os.MkdirAll(filepath.Join(patches, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(patches, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out, errs, code := livepatch("conflicts", pkg, "--enabled-functions", none, "--kprobes", none)
	if out != "no conflicts\n" || errs != "" || code != exitDone {
		t.Errorf("free: %q, %q, %d", out, errs, code)
	}
	out, errs, code = livepatch("conflicts", pkg, "--enabled-functions", enabled, "--kprobes", probes)
	want := "vmlinux: f  blocks  kprobe f+0x0: has a post handler or fault injection, which claims the function; the kernel lets one redirect a function: loading fails with EBUSY\n" +
		"vmlinux: f  breaks  kprobe f+0x9: lies in the old body, which is no longer run: it never fires again\n"
	if out != want || errs != "livepatch: 2 conflicts\n" || code != exitRefused {
		t.Errorf("probes: %q, %q, %d", out, errs, code)
	}
	out, _, code = livepatch("conflicts", pkg, "--enabled-functions", enabled, "--kprobes", none, "--livepatch-dir", patches, "--json")
	var list []kstate.Conflict
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 1 || list[0].Who != "old" || list[0].Effect != kstate.Defeats || code != exitRefused {
		t.Errorf("livepatch: %q, %d, %v", out, code, err)
	}
	if _, errs, code = livepatch("conflicts", pkg, "--livepatch-dir", none+"x"); code != exitError || !strings.Contains(errs, "no such file") && !strings.Contains(errs, "cannot find") {
		t.Errorf("no directory: %q, %d", errs, code)
	}
}

func TestKernelUsage(t *testing.T) {
	pkg := kernelPackageFile(t)
	for _, tc := range []struct{ args, want string }{
		{"apply PKG --kernel --pid 1", "--pid does not go with --kernel"},
		{"apply PKG --kernel --max-pause 1s", "--max-pause does not go with --kernel"},
		{"apply PKG --kernel --timeout 0s", "--timeout must be positive"},
		{"apply PKG --pid 1 --force", "--force goes with --kernel only"},
		{"apply PKG --pid 1 --if-fits", "--if-fits goes with --kernel only"},
		{"apply PKG --print-unit", "--print-unit goes with --kernel only"},
		{"revert --all", "revert needs --pid, --exe, --service or --kernel"},
		{"revert fix --kernel --all", "revert takes no arguments"},
		{"revert --kernel", "revert needs NAME"},
		{"status --kernel --all", "--all does not go with --kernel"},
		{"status --kernel --exe x", "--exe does not go with --kernel"},
		{"conflicts PKG", "conflicts needs --kernel, or --enabled-functions and --kprobes"},
		{"conflicts PKG --kernel --kprobes x", "conflicts takes --kernel or copies of its files, not both"},
		{"verify PKG --running-kernel --pid 1", "verify takes --running-kernel or files and processes, not both"},
	} {
		_, errs, code := livepatch(strings.Fields(strings.ReplaceAll(tc.args, "PKG", pkg))...)
		if code != exitUsage || !strings.Contains(errs, tc.want) {
			t.Errorf("%s: %q, exit code %d", tc.args, errs, code)
		}
	}
}

// The package is for no kernel that runs anywhere.
func TestKernelRefusesForeign(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("kernels are patched on Linux only")
	}
	pkg := kernelPackageFile(t)
	for _, args := range [][]string{{"apply", pkg, "--kernel"}, {"verify", pkg, "--running-kernel"}} {
		_, errs, code := livepatch(args...)
		if code != exitRefused || !strings.Contains(errs, "kernel: the package is for 6.12.0-none, this is ") || !strings.Contains(errs, "[wrong-target]") {
			t.Errorf("%s: %q, %d", args[0], errs, code)
		}
		if args[0] == "apply" && !strings.HasSuffix(errs, "livepatch: nothing was changed\n") {
			t.Errorf("the last line of %q does not state the kernel", errs)
		}
	}
	_, errs, code := livepatch("apply", pkg, "--kernel", "--if-fits")
	if code != exitDone || !strings.HasPrefix(errs, "livepatch: nothing was changed, nothing was to be done: the package is for 6.12.0-none") {
		t.Errorf("--if-fits: %q, %d", errs, code)
	}
	out, _, code := livepatch("apply", pkg, "--kernel", "--print-unit")
	if code != exitDone || !strings.Contains(out, "apply --kernel --if-fits \""+pkg+"\"\n") {
		t.Errorf("unit: %q, %d", out, code)
	}
	if _, err := os.Stat("/sys/kernel/livepatch"); err == nil {
		return // what is loaded here is not known
	}
	out, _, code = livepatch("status", "--kernel")
	if code != exitDone || out != "no patches\n" {
		t.Errorf("status: %q, %d", out, code)
	}
	if _, errs, code = livepatch("revert", "fix", "--kernel"); code != exitRefused || !strings.Contains(errs, "[no-livepatch]") {
		t.Errorf("revert: %q, %d", errs, code)
	}
}

// What became of the kernel decides the exit code, and is the last line.
func TestKernelOutcomes(t *testing.T) {
	busy := &klp.BusyError{Reason: "the transition of fix did not end within 1s", Total: 9, Advice: "try again",
		Tasks: []kstate.Task{{PID: 4, TID: 4, Name: "cat\x1b", State: "S", Stack: []string{"wait", "f"}}}, Code: kstate.Code{Functions: []string{"f"}}}
	for _, tc := range []struct {
		state klp.Outcome
		err   error
		code  int
		last  string
	}{
		{klp.Unchanged, busy, exitBusy, "livepatch: nothing was changed"},
		{klp.RolledBack, busy, exitBusy, "livepatch: rolled back"},
		{klp.Unfinished, busy, exitError, "livepatch: not finished: the kernel goes on with the transition; see livepatch status --kernel"},
		{klp.RolledBack, errors.New("interrupted"), exitError, "livepatch: rolled back"},
		{klp.Unchanged, &klp.LoadError{Module: "fix", Err: errors.New("no")}, exitError, "livepatch: nothing was changed"},
	} {
		var out, errs bytes.Buffer
		app := newApp(&out, &errs)
		p := &printer{out: &out, err: &errs, command: "apply"}
		app.Metadata[printerKey] = p
		if code := reportError(app, p.kernelError(&klp.Error{Stage: "transition", State: tc.state, Err: tc.err})); code != tc.code {
			t.Errorf("%s, %v: exit code %d", tc.state, tc.err, code)
		}
		if !strings.HasSuffix(errs.String(), tc.last+"\n") {
			t.Errorf("%s: %q", tc.state, errs.String())
		}
	}
	var out, errs bytes.Buffer
	p := &printer{out: &out, err: &errs, json: true}
	if err := p.kernelError(&klp.Error{Stage: "transition", State: klp.RolledBack, Err: busy}); err.Error() != busy.Error() {
		t.Errorf("%q, want %q", err, busy)
	}
	var got struct {
		State, Reason string
		Waiting       int
		Tasks         []kstate.Task
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || got.State != "rolled back" || got.Waiting != 9 || len(got.Tasks) != 1 {
		t.Errorf("%s: %v", out.Bytes(), err)
	}
	want := "the transition of fix did not end within 1s\nprocess 4 (cat\x1b) waits in wait, called by f\nand 8 more"
	if busy.Error() != want {
		t.Errorf("%q, want %q", busy.Error(), want)
	}
}

// A package is applied to what it is for, and to nothing else.
func TestApplyToTheOther(t *testing.T) {
	kernel, program := kernelPackageFile(t), "../../internal/check/testdata/double.lpatch"
	self := strconv.Itoa(os.Getpid())
	for _, tc := range []struct {
		args      []string
		err, hint string
	}{
		{[]string{"apply", kernel, "--pid", self}, kernel + " patches the kernel, not processes", "livepatch apply " + kernel + " --kernel"},
		{[]string{"apply", kernel, "--pid", self, "--dry-run"}, kernel + " patches the kernel, not processes", "livepatch apply " + kernel + " --kernel"},
		{[]string{"apply", kernel}, "apply needs --pid, --exe, --service or --kernel", "livepatch help apply"},
		{[]string{"apply", program, "--kernel"}, program + " patches programs, not the kernel", "livepatch inspect " + program + " shows which"},
		{[]string{"apply", program, "--kernel", "--print-unit"}, program + " patches programs, not the kernel", ""},
		{[]string{"verify", program, "--running-kernel"}, program + " patches programs, not the kernel", ""},
		{[]string{"conflicts", program, "--kprobes", os.DevNull}, "--kprobes is for packages of kernels", "livepatch help conflicts"},
		{[]string{"verify", kernel, "--pid", self}, kernel + " patches a kernel, not a process", "livepatch help verify"},
	} {
		_, errs, code := livepatch(tc.args...)
		if code != exitUsage || !strings.Contains(errs, "error: "+tc.err+"\n") || !strings.Contains(errs, "hint: "+tc.hint) {
			t.Errorf("%v: code %d\n%s", tc.args, code, errs)
		}
	}
}
