//go:build linux && amd64

package process

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"livepatch/internal/pack"
	"livepatch/internal/refusal"
	"livepatch/internal/testkit"
	"livepatch/internal/testkit/vm"
	"livepatch/manifest"
	"livepatch/trampoline"
)

// A toolchain makes programs whose exceptions are unwound by one library or
// another. TestExceptions has gcc with its shared libraries.
type toolchain struct {
	name     string
	compiler string
	flags    []string // of objects
	link     []string
	strip    bool
	refused  string // what the refusal says; empty: exceptions go through the patch
}

var toolchains = []toolchain{
	{name: "clang", compiler: "clang++", flags: []string{"-fPIE"}, link: []string{"-pie"}},
	{name: "copy of libgcc", compiler: "g++", flags: []string{"-fPIE"}, link: []string{"-static-libgcc"}},
	{name: "copy of libgcc and libstdc++", compiler: "g++", flags: []string{"-fPIE"}, link: []string{"-static-libgcc", "-static-libstdc++"}},
	{name: "copy of libgcc, stripped", compiler: "g++", flags: []string{"-fPIE"}, link: []string{"-static-libgcc"}, strip: true,
		refused: "has an unwinder of its own, whose __register_frame_info cannot be found"},
	{name: "copy of libgcc and libstdc++, stripped", compiler: "g++", flags: []string{"-fPIE"}, link: []string{"-static-libgcc", "-static-libstdc++"}, strip: true,
		refused: "none of its files has a __register_frame_info that can be found"},
	{name: "static position-independent", compiler: "g++", flags: []string{"-fPIE"}, link: []string{"-static-pie"}},
	{name: "static, clang", compiler: "clang++", flags: []string{"-fno-pie"}, link: []string{"-static"}},
	{name: "libc++", compiler: "clang++", flags: []string{"-fPIE", "-stdlib=libc++"}, link: []string{"-pie", "-stdlib=libc++"},
		refused: "exceptions are unwound by libunwind.so.1"},
}

// build builds a target and a package that replaces its functions.
func (tc *toolchain) build(t *testing.T, source string) (string, *pack.Package) {
	t.Helper()
	cc, dir := testkit.Tool(t, tc.compiler), t.TempDir()
	run := func(out string, args ...string) string {
		path := filepath.Join(dir, out)
		testkit.Run(t, cc, slices.Concat([]string{"-O2", "-g0", "-pthread", "-o", path}, args)...)
		return path
	}
	source = filepath.Join("testdata", source)
	before := run("before.o", append(tc.flags, "-c", source)...)
	after := run("after.o", append(tc.flags, "-DFIXED", "-c", source)...)
	target := run("target", slices.Concat([]string{"-Wl,--build-id", before}, tc.link)...)
	pkg := dispatched(t, trampoline.Direct, "fix", target, before, after)
	if tc.strip {
		testkit.Run(t, "strip", target)
	}
	return target, pkg
}

// Exceptions go through a patch, whatever the program was built with, or it is
// refused with the reason.
func TestToolchains(t *testing.T) {
	for _, tc := range toolchains {
		t.Run(tc.name, func(t *testing.T) {
			if headers, _ := filepath.Glob("/usr/lib/llvm-*/include/c++/v1/exception"); tc.name == "libc++" && headers == nil {
				testkit.Missing(t, "libc++ is not installed")
			}
			target, pkg := tc.build(t, "throwing.cc")
			if u := pkg.Manifest.Targets[0].Unwind; u != manifest.UnwindNeeded {
				t.Fatalf("unwind is %q", u)
			}
			s := start(t, target, "2")
			s.sides(thrownOld)
			_, err := Apply([]int{s.pid}, pkg, Options{Timeout: time.Minute})
			if tc.refused != "" {
				wantCode(t, err, refusal.UnwindNeeded)
				if !strings.Contains(err.Error(), tc.refused) {
					t.Errorf("%v; want %q", err, tc.refused)
				}
				s.sides(thrownOld)
				return
			}
			must(t, err)
			s.sides(thrownNew)
			_, err = Revert(s.pid, "fix", Options{Timeout: time.Minute})
			must(t, err)
			s.sides(thrownOld)
		})
	}
}

// Threads that are cancelled in a replacement run the cleanup of their callers:
// where that is a list (musl; glibc with functions that were not compiled for
// exceptions), and where frames are unwound to it.
func TestCancellation(t *testing.T) {
	for _, tc := range []toolchain{
		{name: "gcc", compiler: "gcc"},
		{name: "gcc, for exceptions", compiler: "gcc", flags: []string{"-fexceptions"}},
		{name: "gcc, for exceptions, static", compiler: "gcc", flags: []string{"-fexceptions", "-fno-pie"}, link: []string{"-static"}},
		{name: "musl", compiler: "musl-gcc"},
		{name: "musl, static", compiler: "musl-gcc", flags: []string{"-fno-pie"}, link: []string{"-static"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			target, pkg := tc.build(t, "cancelled.c")
			s := start(t, target)
			cancelled := func(said, cleaned int) {
				t.Helper()
				if a, n, wrong := s.ask(); a != said || n != cleaned || wrong != 0 {
					t.Fatalf("%d, %d cleanups, %d wrong; want %d, %d", a, n, wrong, said, cleaned)
				}
			}
			cancelled(1, 1) // then the C library has loaded libgcc
			_, err := Apply([]int{s.pid}, pkg, Options{Timeout: time.Minute})
			must(t, err)
			cancelled(1001, 2)
			_, err = Revert(s.pid, "fix", Options{Timeout: time.Minute})
			must(t, err)
			cancelled(1, 3)
		})
	}
}

// Nobody has been cancelled when the patch is applied, so the C library has not
// loaded libgcc, which never knows the patch then.
func TestCancellationBeforeLibgcc(t *testing.T) {
	tc := toolchain{compiler: "gcc"}
	target, pkg := tc.build(t, "cancelled.c")
	s := start(t, target)
	_, err := Apply([]int{s.pid}, pkg, Options{Timeout: time.Minute})
	must(t, err)
	if a, n, wrong := s.ask(); a != 1001 || n != 1 || wrong != 0 {
		t.Errorf("%d, %d cleanups, %d wrong", a, n, wrong)
	}
}

// The libgcc of a newer Debian (GCC 14) looks tables up in a tree, and allocates
// memory when it is told of one.
func TestNewerLibgcc(t *testing.T) {
	if os.Getenv("LIVEPATCH_SLOW") == "" {
		t.Skip("it fetches the package index of a newer Debian; LIVEPATCH_SLOW=1 runs it")
	}
	dir := vm.Script(t, "newer-libgcc")
	t.Setenv("LD_LIBRARY_PATH", dir)
	target, pkg := throwing(t, trampoline.Direct, nil, "-fPIE")
	s := start(t, target, "4")
	if b := readFile(t, fmt.Sprintf("/proc/%d/maps", s.pid)); !bytes.Contains(b, []byte(dir+"/libgcc_s.so.1")) {
		t.Fatalf("it does not use %s/libgcc_s.so.1:\n%s", dir, b)
	}
	s.sides(thrownOld)
	for range 3 {
		_, err := Apply([]int{s.pid}, pkg, Options{Timeout: time.Minute})
		must(t, err)
		s.sides(thrownNew)
		_, err = Revert(s.pid, "fix", Options{Timeout: time.Minute})
		must(t, err)
		s.sides(thrownOld)
	}
}
