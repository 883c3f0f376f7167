//go:build linux && amd64

package process

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"livepatch/internal/testkit"
	"livepatch/internal/testkit/vm"
)

// The loader of arm64 is tested by the same tests, in a machine that runs Debian's
// kernel: the test program is built for it, and the targets are compiled outside, by
// the cross compiler, when a test asks for them.

// armTests are those of the normal run; LIVEPATCH_SLOW adds armSlow, and
// LIVEPATCH_ARM64_TESTS names others instead.
var (
	armTests = []string{
		"TestSignalFrame", "TestInRestartBlock", "TestEmulateEncodings", // without a target
		"TestOneThread", "TestImports", "TestBranchProtection", "TestSignedReturnAddress",
		"TestWritesThroughPtrace", "TestClaims", "TestKilledPreparing", "TestStaleReturnAddress", "TestReclaim", "TestDispatchIsAtomic",
	}
	armSlow = []string{
		"TestSleeper", "TestStatic", "TestFixedAddress", "TestTightLoop", "TestBareProgram", "TestThreadLocal", "TestVectors",
		"TestWrongBuild", "TestBreakpointAtSite", "TestStrictSeccomp", "TestCoroutines", "TestKilledBetweenWrites", "TestRegistersSurvive", "TestLoaderDies",
		"TestFramesBlock", "TestFramesAreThoseOfBacktrace", "TestReclaimHeld", "TestReclaimTaken", "TestReclaimKilled", "TestReclaimUnwinder",
		"TestDispatch", "TestGateIsRemoved", "TestSlotTextStays", "TestExceptions", "TestVersions", "TestRetarget",
		"TestPatchedBeforeMain", "TestForkWhilePatching", "TestSeveralProcessesOrNone", "TestKilledBetweenProcesses",
		"TestSlotBeneathOthers", "TestSlotForks", "TestForksAndSpawns", "TestRollBack", "TestTargetEnds",
		"TestRetargetRollsBack", "TestLibraryPatchedBeforeMain", "TestTwoImagesOrNone", "TestWhatATargetNotices",
	}
)

func TestArm64Machine(t *testing.T) {
	names := armTests
	if os.Getenv("LIVEPATCH_SLOW") != "" {
		names = append(names, armSlow...)
	}
	if only := os.Getenv("LIVEPATCH_ARM64_TESTS"); only != "" {
		names = strings.Fields(only)
	}
	armMachine(t, "", names, vm.Step{Name: "demo", Script: "/livepatch demo\n"})
}

// TestArm64Unforced has the kernel let nobody but ptrace write code.
func TestArm64Unforced(t *testing.T) {
	armMachine(t, unforced, []string{"TestWritesAreNotForced", "TestOneThread", "TestKilledPreparing"})
}

// armMachine boots a machine, runs steps and tests in it, and looks that these pass.
func armMachine(t *testing.T, parameter string, names []string, steps ...vm.Step) {
	t.Helper()
	k := vm.Fetched(t, "--arch", "arm64", "6.12")
	testkit.Tool(t, "aarch64-linux-gnu-gcc")
	testkit.Tool(t, "aarch64-linux-gnu-g++")
	dir := t.TempDir()
	program := filepath.Join(dir, "process.test")
	livepatch := filepath.Join(dir, "livepatch")
	for _, args := range [][]string{{"test", "-c", "-o", program, "."}, {"build", "-o", livepatch, "livepatch/cmd/livepatch"}} {
		build := exec.Command("go", args...)
		build.Env = append(os.Environ(), "GOOS=linux", "GOARCH=arm64", "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", build, err, out)
		}
	}
	c := vm.Config{
		Kernel: k, Append: parameter, Counted: true, Timeout: 2 * time.Hour, Limit: time.Hour,
		Files: []vm.File{{Name: "/process.test", From: program}, {Name: "/livepatch", From: livepatch}, {Name: "/docs/loader.md", From: "../../docs/loader.md"}},
		Serve: func(rw io.ReadWriter) { compileFor(rw, func(o *order) ([]byte, error) { return crossCompile(dir, o) }) },
		Steps: append(steps, vm.Step{Name: "tests", Script: "echo 1 >/proc/sys/debug/exception-trace\nexport LIVEPATCH_COMPILER=" + vm.Port + " CI=true\n" +
			"/process.test -test.v -test.timeout 50m -test.run '^(" + strings.Join(names, "|") + ")$'\n"}),
	}
	for _, lib := range []string{"ld-linux-aarch64.so.1", "libc.so.6", "libm.so.6", "libgcc_s.so.1", "libstdc++.so.6"} {
		c.Files = append(c.Files, vm.File{Name: "/lib/" + lib, From: "/usr/aarch64-linux-gnu/lib/" + lib})
	}
	r, err := vm.Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the machine ran %v", r.Elapsed)
	for _, s := range r.Steps {
		if s.Exit != 0 {
			t.Errorf("%s: exit %d", s.Name, s.Exit)
		}
		t.Logf("%s, %v:\n%s", s.Name, s.Elapsed, s.Output)
		for _, l := range s.Log {
			if l.Level <= 3 || strings.Contains(l.Text, "unhandled") { // the latter of a program that dies
				t.Errorf("the kernel says: %s", l.Text)
			}
		}
	}
	for _, n := range names {
		if !strings.Contains(r.Steps[len(r.Steps)-1].Output, "--- PASS: "+n+" ") {
			t.Errorf("%s did not pass", n)
		}
	}
}

// crossCompile builds what a test in the machine has asked for.
func crossCompile(dir string, o *order) ([]byte, error) {
	work, err := os.MkdirTemp(dir, "order")
	if err != nil {
		return nil, err
	}
	out := filepath.Join(work, "out")
	// A replacement that is put in by hand, without its callers, may change registers
	// of which the compiler knew that the old function leaves them alone (-fipa-ra).
	args := []string{"-O2", "-g0", "-fno-ipa-ra", "-mno-outline-atomics", "-o", out}
	libs := filepath.Join(work, "lib")
	if err := os.Mkdir(libs, 0o700); err != nil {
		return nil, err
	}
	for name, b := range o.Libraries {
		if err := os.WriteFile(filepath.Join(libs, filepath.Base(name)), b, 0o600); err != nil {
			return nil, err
		}
	}
	for i, a := range o.Args {
		switch b, given := o.Files[i]; {
		case given:
			a = filepath.Join(work, fmt.Sprintf("%d%s", i, filepath.Ext(a)))
			if err := os.WriteFile(a, b, 0o600); err != nil {
				return nil, err
			}
		case strings.HasPrefix(a, "-L"):
			a = "-L" + libs
		case strings.Contains(".c.cc.s", filepath.Ext(a)) && filepath.Ext(a) != "":
			a = filepath.Join("testdata", a)
		}
		args = append(args, a)
	}
	compiler := "aarch64-linux-gnu-gcc"
	if slices.ContainsFunc(o.Args, func(a string) bool { return filepath.Ext(a) == ".cc" }) {
		compiler = "aarch64-linux-gnu-g++"
	}
	if b, err := exec.Command(compiler, args...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, b)
	}
	return os.ReadFile(out)
}
