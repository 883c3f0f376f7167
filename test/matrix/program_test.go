//go:build linux && amd64

package matrix

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"livepatch/internal/build"
	"livepatch/internal/image"
	"livepatch/internal/testkit"
)

// driver is the part of each program that reads calls and prints answers.
const driver = `
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define W(f) extern long f(long) __attribute__((weak));
W(a) W(b) W(c) W(d) W(e) W(f) W(g) W(h)
// main must not lie right behind a function of the case.
__attribute__((noinline)) void first(void) { __asm__ volatile("nop"); }
// What earlier calls left on the stack must not look like return addresses.
static __attribute__((noinline)) void scrub(void) {
	char stack[65536];
	memset(stack, 0, sizeof stack);
	__asm__ volatile("" : : "r"(stack) : "memory");
}
// A pointer on the stack to the function behind another looks like a return
// address into that one.
static long (*volatile calls[])(long) = {a, b, c, d, e, f, g, h};
__attribute__((noinline)) long call(char name, long n) {
	if (name < 'a' || name > 'h' || !calls[name - 'a']) exit(3);
	return calls[name - 'a'](n);
}
int main(void) {
	char line[256];
	while (fgets(line, sizeof line, stdin)) {
		long r = call(line[0], strtol(line + 1, 0, 0));
		fflush(stderr);
		printf("\n=%ld\n", r);
		fflush(stdout);
		scrub();
	}
	return 0;
}
`

// prelude comes before each source.
const prelude = `
#ifdef AFTER
#define CHANGE(a, b) b
#else
#define CHANGE(a, b) a
#endif
#define NOINLINE __attribute__((noinline))
#define OPAQUE(x) __asm__ volatile("" : "+r"(x))
#line 1
`

// built is a program and what packages are made from.
type built struct {
	program string
	targets []build.Target
}

func run(name string, args ...string) error {
	var out bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out.Bytes())
	}
	return nil
}

// builder builds one case in one way.
type builder struct {
	t    *testing.T
	c    *testCase
	f    config
	dir  string
	libs []string
}

// compile makes the object of a source; "" if the case has no such source.
func (b *builder) compile(source, variant string, extra ...string) string {
	b.t.Helper()
	text := b.c.files[source]
	if source == "driver.c" {
		text = driver
	}
	if text == "" {
		return ""
	}
	dir := filepath.Join(b.dir, variant)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.t.Fatal(err)
	}
	path := filepath.Join(dir, source)
	if err := os.WriteFile(path, []byte(prelude+text), 0o644); err != nil {
		b.t.Fatal(err)
	}
	obj := strings.TrimSuffix(path, ".c") + ".o"
	args := append([]string{"-w", "-c", "-o", obj}, levels.flags(b.f.opt)...)
	args = append(append(args, modes.flags(b.f.mode)...), flags.flags(b.f.flag)...)
	args = append(append(args, b.c.flags...), extra...)
	if err := run(b.f.cc, append(args, path)...); err != nil {
		b.t.Fatal(err)
	}
	return obj
}

// pair compiles a source before and after the change.
func (b *builder) pair(source string, extra ...string) [2]string {
	return [2]string{b.compile(source, "before", extra...), b.compile(source, "after", append(extra, "-DAFTER")...)}
}

// link makes a file and strips it as the configuration says.
func (b *builder) link(name string, args ...string) build.Target {
	b.t.Helper()
	path := filepath.Join(b.dir, name)
	args = append(append([]string{"-o", path, "-Wl,--build-id", "-Wl,--no-as-needed"}, linkers.flags(b.f.link)...), args...)
	if err := run(b.f.cc, append(args, b.libs...)...); err != nil {
		b.t.Fatal(err)
	}
	target := build.Target{Name: name}
	if b.f.strip == "debugfile" {
		debug := path + ".debug"
		if err := run("objcopy", "--only-keep-debug", path, debug); err != nil {
			b.t.Fatal(err)
		}
		target.Debug = open(b.t, debug).File
	}
	if b.f.strip != "symbols" {
		if err := run("strip", path); err != nil {
			b.t.Fatal(err)
		}
	}
	target.File = open(b.t, path).File
	return target
}

func open(t *testing.T, path string) *image.Image {
	t.Helper()
	img, err := image.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close() })
	return img
}

func addPairs(t *testing.T, to *build.Target, pairs ...[2]string) {
	t.Helper()
	for _, p := range pairs {
		if p[0] == "" {
			continue
		}
		to.Pairs = append(to.Pairs, build.Pair{
			OrigName: filepath.Base(p[0]), PatchedName: filepath.Base(p[1]),
			Orig: open(t, p[0]).File, Patched: open(t, p[1]).File,
		})
	}
}

func (b *builder) build() built {
	b.t.Helper()
	unit2 := b.pair("unit2.c")
	unit, other, main := b.pair("unit.c"), b.compile("other.c", "before"), b.compile("driver.c", "before")
	var out built
	rpath := "-Wl,-rpath,$ORIGIN"
	if b.c.files["lib.c"] != "" {
		lib := b.pair("lib.c", "-fPIC")
		t := b.link("libcase.so", "-shared", lib[0])
		addPairs(b.t, &t, lib)
		out.targets = append(out.targets, t)
		b.libs = append(b.libs, filepath.Join(b.dir, "libcase.so"), rpath)
	}
	if len(b.c.partial) > 0 {
		for i := range unit {
			joined := filepath.Join(filepath.Dir(unit[i]), "joined.o")
			if err := run("ld", "-r", "-o", joined, unit[i], other); err != nil {
				b.t.Fatal(err)
			}
			unit[i] = joined
		}
		other = ""
	}
	objects := []string{unit[0]}
	if unit2[0] != "" {
		objects = append(objects, unit2[0])
	}
	if other != "" {
		objects = append(objects, other)
	}
	mode := map[string]string{"pie": "-pie", "picpie": "-pie", "nopie": "-no-pie", "static": "-static", "staticpie": "-static-pie"}[b.f.mode]
	if mode != "" {
		t := b.link("program", append(objects, main, mode)...)
		addPairs(b.t, &t, unit, unit2)
		out.targets = append(out.targets, t)
	} else {
		t := b.link("libunit.so", append(objects, "-shared")...)
		addPairs(b.t, &t, unit, unit2)
		out.targets = append(out.targets, t)
		b.libs = append([]string{filepath.Join(b.dir, "libunit.so"), rpath}, b.libs...)
		b.link("program", main, map[string]string{"lib": "-pie", "piclib": "-no-pie"}[b.f.mode])
	}
	out.program = filepath.Join(b.dir, "program")
	return out
}

// running is a program that answers.
type running struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func start(t *testing.T, path string) *running {
	t.Helper()
	p := &running{cmd: exec.Command(path)}
	p.cmd.Env = append(os.Environ(), "LIVEPATCH_MATRIX=yes")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stdout, p.cmd.Stderr = w, w
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	p.out = bufio.NewReader(r)
	t.Cleanup(func() {
		testkit.End(t, p.cmd)
		r.Close()
	})
	return p
}

// ask makes a call and returns what it wrote and its answer. A program that
// does not answer in time is stuck.
func (p *running) ask(call string) (string, error) {
	stuck := time.AfterFunc(20*time.Second, func() { p.cmd.Process.Kill() })
	defer stuck.Stop()
	if _, err := io.WriteString(p.in, call+"\n"); err != nil {
		return "", err
	}
	var wrote []string
	for {
		line, err := p.out.ReadString('\n')
		if err != nil {
			return strings.Join(wrote, " ") + line, fmt.Errorf("the program ended: %w (%v)", err, p.cmd.Wait())
		}
		line = strings.TrimSpace(line)
		if n, ok := strings.CutPrefix(line, "="); ok {
			return strings.Join(append(wrote, n), " "), nil
		}
		if line != "" {
			wrote = append(wrote, line)
		}
	}
}

// executablePages returns the SHA-256 of the executable mappings of files in a
// process, as they are in memory.
func executablePages(t *testing.T, pid int) map[string][32]byte {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	sums := map[string][32]byte{}
	for line := range strings.Lines(string(maps)) {
		f := strings.Fields(line)
		if len(f) < 6 || f[1][2] != 'x' || !strings.HasPrefix(f[5], "/") {
			continue
		}
		var lo, hi int64
		if _, err := fmt.Sscanf(f[0], "%x-%x", &lo, &hi); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		b := make([]byte, hi-lo)
		if _, err := mem.ReadAt(b, lo); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		sums[f[0]+f[5]] = sha256.Sum256(b)
	}
	return sums
}
