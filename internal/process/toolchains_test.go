//go:build linux && amd64

package process

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"livepatch/internal/pack"
	"livepatch/internal/refusal"
	"livepatch/internal/testkit"
	"livepatch/manifest"
	"livepatch/trampoline"
)

// A toolchain makes programs whose exceptions are unwound by one library or
// another.
type toolchain struct {
	name     string
	compiler string
	flags    []string // of objects
	link     []string
	strip    bool
	refused  string   // what the refusal says; empty: exceptions go through the patch
	env      []string // of the program
}

var toolchains = []toolchain{
	{name: "gcc", compiler: "g++", flags: []string{"-fPIE"}},
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

// made builds the target of throwing.cc and a package for it.
func (tc *toolchain) made(t *testing.T) (string, *pack.Package) {
	t.Helper()
	cc, dir := testkit.Tool(t, tc.compiler), t.TempDir()
	if headers, _ := filepath.Glob("/usr/lib/llvm-*/include/c++/v1/exception"); tc.name == "libc++" && headers == nil {
		testkit.Missing(t, "libc++ is not installed")
	}
	run := func(out string, args ...string) string {
		path := filepath.Join(dir, out)
		testkit.Run(t, cc, append([]string{"-O2", "-g0", "-pthread", "-o", path}, args...)...)
		return path
	}
	before := run("before.o", append(tc.flags, "-c", "testdata/throwing.cc")...)
	after := run("after.o", append(tc.flags, "-DFIXED", "-c", "testdata/throwing.cc")...)
	target := run("throwing", append(tc.link, "-Wl,--build-id", before)...)
	pkg := dispatched(t, trampoline.Direct, "fix", target, before, after)
	if u := pkg.Manifest.Targets[0].Unwind; u != manifest.UnwindNeeded {
		t.Fatalf("unwind is %q", u)
	}
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
			target, pkg := tc.made(t)
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
