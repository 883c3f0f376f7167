//go:build linux && amd64

package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"livepatch/internal/testkit"
)

// compiled are the ways in which the source of programs/cxx and of programs/c is
// compiled. A shared library is loaded by a program that is not patched. With
// LIVEPATCH_SLOW=1 all of them are tried.
var compiled = []struct {
	name, source, compiler, flags, link string
	slow                                bool
}{
	{"gcc PIE", "c", "gcc", "-O2 -fPIE", "-pie", false},
	{"gcc library", "c", "gcc", "-O3 -fPIC", "-shared", true},
	{"clang PIE", "c", "clang", "-O3 -fPIE", "-pie", true},
	{"clang library", "c", "clang", "-O2 -fPIC", "-shared", false},
	{"g++ PIE", "cxx", "g++", "-O2 -fPIE", "-pie", true},
	{"g++ library sections", "cxx", "g++", "-O3 -fPIC -ffunction-sections", "-shared -Wl,--gc-sections", false},
	{"clang++ PIE", "cxx", "clang++", "-O3 -fPIE", "-pie", false},
	{"clang++ library", "cxx", "clang++", "-O2 -fPIC", "-shared", true},
}

// answers are those to 4, 4, then patched to 4, -1, and reverted to 5. All of them
// depend on counts and sums that go on.
var answers = map[string][5]string{
	"c":   {"8 8", "20 16", "2229 2103", "2846 -100", "2897 34"},
	"cxx": {"25 6", "49 8", "14054 806", "2825061 negative", "2825100 14"},
}

// A patch of a header and a source, from the source patch to a running program
// and back: what was inlined, copies that the linker kept one of, static state.
func TestCompiledPrograms(t *testing.T) {
	for _, c := range compiled {
		t.Run(c.name, func(t *testing.T) {
			if c.slow && os.Getenv("LIVEPATCH_SLOW") == "" {
				t.Skip("set LIVEPATCH_SLOW=1 for it")
			}
			t.Parallel()
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(filepath.Join("programs", c.source))); err != nil {
				t.Fatal(err)
			}
			tool := livepatchProgram(t)
			run := func(name string, args ...string) {
				t.Helper()
				cmd := exec.Command(testkit.Tool(t, name), args...)
				if cmd.Dir = dir; name == tool {
					cmd.Path = tool
				}
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
				}
			}
			sources, err := filepath.Glob(filepath.Join(dir, "*.c*"))
			if err != nil {
				t.Fatal(err)
			}
			library := strings.Contains(c.link, "-shared")
			var inTarget, others []string
			for _, s := range sources {
				base := filepath.Base(s)
				run(tool, append(append([]string{"cc", "--db", "compile_commands.json", "--", c.compiler}, strings.Fields(c.flags)...), "-c", base)...)
				object := strings.TrimSuffix(base, filepath.Ext(base)) + ".o"
				if library && strings.HasPrefix(base, "main.") {
					others = append(others, object)
				} else {
					inTarget = append(inTarget, object)
				}
			}
			target := filepath.Join(dir, "target")
			program := target
			run(c.compiler, append(append(strings.Fields(c.link), "-o", target), inTarget...)...)
			run("strip", target)
			if library {
				program = filepath.Join(dir, "program")
				run(c.compiler, append(others, target, "-Wl,-rpath,"+dir, "-o", program)...)
			}
			pkg := buildPackage(t, filepath.Join("programs", c.source+".patch"), dir, dir, target)
			p := start(t, program)
			a := answers[c.source]
			p.expect("4", a[0])
			p.expect("4", a[1])
			apply(t, pkg, p)
			p.expect("4", a[2])
			p.expect("-1", a[3])
			revert(t, pkg.Manifest.Name, p)
			p.expect("5", a[4])
		})
	}
}
