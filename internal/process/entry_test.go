//go:build linux && (amd64 || arm64)

package process

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"livepatch/internal/pack"
	"livepatch/internal/refusal"
	"livepatch/internal/testkit"
)

// starting is a shell that waits and then starts a program in its place.
type starting struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     bytes.Buffer
	refused error
}

// patchStart runs a program that is patched before it runs, to its end.
func patchStart(t *testing.T, pkgs []*pack.Package, attr *syscall.SysProcAttr, program string, args ...string) (*starting, error) {
	t.Helper()
	s := &starting{}
	s.cmd = exec.Command("/bin/sh", append([]string{"-c", `read go; exec "$@"`, "sh", program}, args...)...)
	s.cmd.Stdout, s.cmd.Stderr, s.cmd.SysProcAttr = &s.out, os.Stderr, attr
	var err error
	s.in, err = s.cmd.StdinPipe()
	must(t, err)
	must(t, s.cmd.Start())
	t.Cleanup(func() { testkit.End(t, s.cmd) })
	awaitRead(t, s.cmd.Process.Pid)
	err = PatchAtStart(Start{s.cmd.Process.Pid, s.cmd.Process.Pid}, pkgs,
		func() error {
			_, err := io.WriteString(s.in, "\n")
			return err
		},
		func(err error) int {
			s.refused = err
			return 3
		})
	s.in.Close()
	defer testkit.Bound(s.cmd)()
	_ = s.cmd.Wait()
	return s, err
}

// awaitRead waits until a process waits for its input: it has not only been
// started, the kernel has also told so.
func awaitRead(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", pid))
		word, _, _ := strings.Cut(string(b), " ")
		if nr, err := strconv.Atoi(word); err == nil && (nr == unix.SYS_READ || nr == unix.SYS_PPOLL) { // shells do either
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d does not read: %q", pid, b)
		}
	}
}

// said checks what the program wrote before it ended well. It begins with the signals
// ignored that this test was started with, as by nohup.
func (s *starting) said(t *testing.T, want string) {
	t.Helper()
	own, err := readStatus("/proc/self/status")
	must(t, err)
	want = strings.Replace(want, "ignored 0", fmt.Sprintf("ignored %x", own.ignored), 1)
	if got := s.out.String(); got != want || !s.cmd.ProcessState.Success() {
		t.Errorf("the program wrote %q and ended with %v, want %q", got, s.cmd.ProcessState, want)
	}
}

// The first thing that a program does is done by the new code, constructors
// included, however it is linked.
func TestPatchedBeforeMain(t *testing.T) {
	for _, tc := range []struct {
		name  string
		flags []string
		code  string
	}{
		{"pie", []string{"-fPIE", "-pie"}, "-fPIE"},
		{"fixed address", []string{"-fno-pie", "-no-pie"}, "-fno-pie"},
		{"static", []string{"-fno-pie", "-static"}, "-fno-pie"},
		{"static pie", []string{"-fPIE", "-static-pie"}, "-fPIE"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			target := compile(t, "early", append(tc.flags, "early.c")...)
			pkg := handMade(t, "fix", target, compile(t, "fix.o", "-c", tc.code, "early_fix.c"), replaced{old: "answer", new: "answer_new"})
			s, err := patchStart(t, []*pack.Package{pkg}, nil, target)
			must(t, err)
			s.said(t, "constructor 1001\nmain 1001\nignored 0 blocked 0 traced 0\n")
			s, err = patchStart(t, nil, nil, target)
			must(t, err)
			s.said(t, "constructor 2\nmain 2\nignored 0 blocked 0 traced 0\n")
		})
	}
}

// Constructors of a library run before those of the program, and find it
// patched.
func TestLibraryPatchedBeforeMain(t *testing.T) {
	lib := compile(t, "libearly.so", "-shared", "-fPIC", "earlylib.c")
	dir := filepath.Dir(lib)
	user := compile(t, "user", "-L"+dir, "-Wl,-rpath,"+dir, "earlyuser.c", "-learly")
	pkg := handMade(t, "fix", lib, compile(t, "fix.o", "-c", "-fPIC", "early_fix.c"), replaced{old: "answer", new: "answer_new"})
	s, err := patchStart(t, []*pack.Package{pkg}, nil, user)
	must(t, err)
	s.said(t, "library 1001\nconstructor 1001\nmain 1001\n")

	// A library that the program opens when it runs is not there yet.
	opener := compile(t, "opener", "earlyopen.c", "-ldl")
	s, err = patchStart(t, []*pack.Package{pkg}, nil, opener, lib)
	s.notRun(t, err, refusal.WrongTarget)
}

// Programs of the musl library: its dynamic linker tells debuggers nothing, but runs
// all constructors after the entry point.
func TestMuslPatchedBeforeMain(t *testing.T) {
	gcc := testkit.Tool(t, "musl-gcc")
	compile := func(out string, args ...string) string {
		path := filepath.Join(t.TempDir(), out)
		args[len(args)-1] = filepath.Join("testdata", args[len(args)-1])
		testkit.Run(t, gcc, append([]string{"-O2", "-o", path}, args...)...)
		return path
	}
	answer := replaced{old: "answer", new: "answer_new"}
	for _, tc := range []struct{ link, code string }{{"-pie", "-fPIE"}, {"-no-pie", "-fno-pie"}, {"-static", "-fno-pie"}, {"-static-pie", "-fPIE"}} {
		t.Run(tc.link, func(t *testing.T) {
			target := compile("early", tc.link, tc.code, "early.c")
			pkg := handMade(t, "fix", target, compile("fix.o", "-c", tc.code, "early_fix.c"), answer)
			s, err := patchStart(t, []*pack.Package{pkg}, nil, target)
			must(t, err)
			s.said(t, "constructor 1001\nmain 1001\nignored 0 blocked 0 traced 0\n")
		})
	}
	lib := compile("libearly.so", "-shared", "-fPIC", "earlylib.c")
	user := filepath.Join(t.TempDir(), "user")
	testkit.Run(t, gcc, "-o", user, "testdata/earlyuser.c", lib)
	pkg := handMade(t, "fix", lib, compile("fix.o", "-c", "-fPIC", "early_fix.c"), answer)
	s, err := patchStart(t, []*pack.Package{pkg}, nil, user)
	must(t, err)
	s.said(t, "library 1001\nconstructor 1001\nmain 1001\n")
}

func (s *starting) notRun(t *testing.T, err error, code refusal.Code) {
	t.Helper()
	wantCode(t, err, code)
	if s.refused == nil || s.refused != err {
		t.Errorf("told %v, returned %v", s.refused, err)
	}
	if got := s.cmd.ProcessState.ExitCode(); got != 3 || s.out.Len() > 0 {
		t.Errorf("the program wrote %q and ended with %v", s.out.String(), s.cmd.ProcessState)
	}
}

// earlyFix is a program and a package for it.
func earlyFix(t *testing.T) (program string, pkg *pack.Package) {
	program = compile(t, "early", "early.c")
	return program, handMade(t, "fix", program, compile(t, "fix.o", "-c", "-fPIE", "early_fix.c"), replaced{old: "answer", new: "answer_new"})
}

func TestNotRunIfNotPatched(t *testing.T) {
	program, pkg := earlyFix(t)
	other := compile(t, "other", "-O1", "early.c")
	s, err := patchStart(t, []*pack.Package{pkg}, nil, other)
	s.notRun(t, err, refusal.WrongTarget)
	// The second of two packages does not fit.
	s, err = patchStart(t, []*pack.Package{pkg, pkg}, nil, program)
	s.notRun(t, err, refusal.AlreadyApplied)
	// A program of the first that another one starts is another program.
	s, err = patchStart(t, []*pack.Package{pkg}, nil, "/bin/sh", "-c", "exec "+program)
	s.notRun(t, err, refusal.WrongTarget)
}

// What a patched program starts in its place is not patched.
func TestPatchedProgramStartsAnother(t *testing.T) {
	lib := compile(t, "libearly.so", "-shared", "-fPIC", "earlylib.c")
	dir := filepath.Dir(lib)
	user := compile(t, "user", "-L"+dir, "-Wl,-rpath,"+dir, "earlyuser.c", "-learly")
	pkg := handMade(t, "fix", lib, compile(t, "fix.o", "-c", "-fPIC", "early_fix.c"), replaced{old: "answer", new: "answer_new"})
	s, err := patchStart(t, []*pack.Package{pkg}, nil, user, "again")
	must(t, err)
	s.said(t, "library 1001\nconstructor 1001\nmain 1001\nlibrary 2\nconstructor 2\nmain 2\n")
}

// The kernel does not give privileges to a program that is traced by somebody
// without them, so it would run otherwise than by itself.
func TestPrivilegedProgram(t *testing.T) {
	if os.Getuid() != 0 {
		testkit.Missing(t, "making a set-user-ID program takes root")
	}
	program, pkg := earlyFix(t)
	for dir := filepath.Dir(program); dir != "/"; dir = filepath.Dir(dir) {
		if dir != os.TempDir() {
			must(t, os.Chmod(dir, 0o755))
		}
	}
	// The owner is another than the user: what root runs becomes that user's.
	must(t, os.Chown(program, 65534, -1))
	must(t, os.Chmod(program, 0o755|os.ModeSetuid))
	s, err := patchStart(t, []*pack.Package{pkg}, nil, program)
	must(t, err)
	s.said(t, "constructor 1001\nmain 1001\nignored 0 blocked 0 traced 0\n")
	// no_new_privs withholds them, as tracing without CAP_SYS_PTRACE does.
	s, err = prepared(t, "private", program, pkg)
	s.notRun(t, err, refusal.NoPermission)
}

// prepared runs a program through testdata/preparer.c, which changes something
// that programs inherit.
func prepared(t *testing.T, what, program string, pkg *pack.Package) (*starting, error) {
	t.Helper()
	s := &starting{cmd: exec.Command(compile(t, "preparer", "preparer.c"), what, program)}
	s.cmd.Stdout, s.cmd.Stderr = &s.out, os.Stderr
	in, err := s.cmd.StdinPipe()
	must(t, err)
	must(t, s.cmd.Start())
	t.Cleanup(func() { testkit.End(t, s.cmd) })
	awaitRead(t, s.cmd.Process.Pid)
	err = PatchAtStart(Start{s.cmd.Process.Pid, s.cmd.Process.Pid}, []*pack.Package{pkg}, in.Close, func(err error) int {
		s.refused = err
		return 3
	})
	defer testkit.Bound(s.cmd)()
	_ = s.cmd.Wait()
	return s, err
}

// Signals that are blocked stay blocked, SIGTRAP too, which breakpoints
// unblock. One that is ignored could not be put back.
func TestSignalsInherited(t *testing.T) {
	program, pkg := earlyFix(t)
	s, err := prepared(t, "block", program, pkg)
	must(t, err)
	s.said(t, "constructor 1001\nmain 1001\nignored 0 blocked 10 traced 0\n")
	s, err = prepared(t, "ignore", program, pkg)
	s.notRun(t, err, refusal.Unsupported)
}

// A process that ends before it starts a program is nobody's fault.
func TestStartsNothing(t *testing.T) {
	_, pkg := earlyFix(t)
	s, err := patchStart(t, []*pack.Package{pkg}, nil, "/nonexistent")
	must(t, err)
	if s.refused != nil {
		t.Errorf("refused: %v", s.refused)
	}
}
