package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"livepatch/internal/pack"
	"livepatch/internal/testkit/vm"
)

// build runs livepatch build for the kernel, whose packages are in the cache.
func (k *target) build(t testing.TB, out string, patches []string, more ...string) (int, string) {
	t.Helper()
	cmd := k.buildCommand(t, out, patches, more...)
	said, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(said)
}

func (k *target) buildCommand(t testing.TB, out string, patches []string, more ...string) *exec.Cmd {
	t.Helper()
	args := []string{"build", "-o", out, "--debian", "--kernel", k.Release}
	for _, p := range patches {
		args = append(args, "--patch", p)
	}
	return exec.Command(program(t, "livepatch"), append(args, more...)...)
}

// replaced are the functions that a package made by build or create replaces.
func replaced(said string) (names []string) {
	for _, m := range regexp.MustCompile(`(?m)^  replace  (\S+) +(\S+)`).FindAllStringSubmatch(said, -1) {
		names = append(names, m[2]+" "+m[1])
	}
	slices.Sort(names)
	return names
}

func moduleSaid(t testing.TB, said string) string {
	t.Helper()
	m := regexp.MustCompile(`, module (\w+)`).FindStringSubmatch(said)
	if m == nil {
		t.Fatalf("no name of a module:\n%s", said)
	}
	return m[1]
}

func casePatch(t testing.TB, name, version string) string {
	t.Helper()
	for _, f := range []string{version + ".patch", "all.patch"} {
		if path := filepath.Join("cases", name, f); exists(path) {
			return path
		}
	}
	t.Fatalf("case %s has no patch for %s", name, version)
	return ""
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// TestBuild goes from source patches through livepatch build to what is seen in the
// running kernel: changed and new functions, two objects, a module, a new
// source file, two patches in one package, a system call.
func TestBuild(t *testing.T) {
	for _, v := range []string{"6.1", "6.12"} {
		t.Run(v, func(t *testing.T) {
			k := fetched(t, v)
			s := k.session(t)
			dir := t.TempDir()
			wanted := []string{"changed-string", "new-global", "module-object"}
			for _, c := range k.cases(t) {
				if !slices.Contains(wanted, c.name) {
					continue
				}
				file := filepath.Join(dir, c.name+".lpatch")
				code, said := k.build(t, file, []string{casePatch(t, c.name, v)})
				if code != 0 {
					t.Errorf("%s: exit %d:\n%s", c.name, code, said)
					continue
				}
				s.config.Files = append(s.config.Files, vm.File{Name: "/" + c.name + ".lpatch", From: file})
				s.config.Modules = append(s.config.Modules, c.modules...)
				s.addCase(&madeCase{c, file, moduleSaid(t, said)})
			}
			k.addNewFile(t, s, dir)
			k.addSystemCall(t, s, dir)
			s.run(t)
		})
	}
}

// addNewFile adds a package of two patches, the first of which adds a source
// file that the second one changes.
func (k *target) addNewFile(t *testing.T, s *session, dir string) {
	t.Helper()
	file := filepath.Join(dir, "new-file.lpatch")
	code, said := k.build(t, file, []string{"testdata/build/new-file.patch", "testdata/build/again.patch"})
	if code != 0 {
		t.Errorf("new file: exit %d:\n%s", code, said)
		return
	}
	if d := cmp.Diff([]string{"vmlinux version_proc_show"}, replaced(said)); d != "" {
		t.Errorf("new file (-want +got)\n%s", d)
	}
	module := moduleSaid(t, said)
	s.config.Files = append(s.config.Files, vm.File{Name: "/new-file.lpatch", From: file})
	s.do("new-file/apply", "livepatch apply /new-file.lpatch --kernel", quiet(0))
	s.do("new-file/patched", "tail -n 1 /proc/version; tail -n 1 /proc/version", printed("time 1 from livepatch_test of proc\ntime 2 from livepatch_test of proc\n", ""))
	s.do("new-file/revert", "livepatch revert "+module+" --kernel", quiet(0))
	s.do("new-file/reverted", "grep -c . /proc/version", printed("1\n", ""))
}

// addSystemCall adds a package of a patch that defines a system call as sources
// written for kpatch do.
func (k *target) addSystemCall(t *testing.T, s *session, dir string) {
	t.Helper()
	file := filepath.Join(dir, "syscall.lpatch")
	code, said := k.build(t, file, []string{"testdata/build/syscall.patch"})
	if code != 0 {
		t.Errorf("system call: exit %d:\n%s", code, said)
		return
	}
	s.config.Files = append(s.config.Files, vm.File{Name: "/syscall.lpatch", From: file})
	s.do("syscall/before", "hostname test; uname -n", printed("test\n", ""))
	s.do("syscall/apply", "livepatch apply /syscall.lpatch --kernel", quiet(0))
	s.do("syscall/patched", "uname -n", printed("patched\n", ""))
	s.do("syscall/revert", "livepatch revert "+moduleSaid(t, said)+" --kernel", quiet(0))
	s.do("syscall/reverted", "uname -n", printed("test\n", ""))
}

// A header that several objects use gives the functions that changed, and
// nothing else of those objects.
func TestBuildHeader(t *testing.T) {
	k := fetched(t, "6.12")
	file := filepath.Join(t.TempDir(), "header.lpatch")
	code, said := k.build(t, file, []string{"testdata/build/header.patch"})
	if code != 0 {
		t.Fatalf("exit %d:\n%s", code, said)
	}
	want := []string{"8021q vlan_check_real_dev", "vmlinux __vlan_find_dev_deep_rcu", "vmlinux vlan_do_receive", "vmlinux vlan_for_each"}
	if d := cmp.Diff(want, replaced(said)); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

// What cannot be covered is said at once, all of it, with codes.
func TestBuildRefuses(t *testing.T) {
	k := fetched(t, "6.12")
	dir := t.TempDir()
	write := func(text string) string {
		path := filepath.Join(dir, "p.patch")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	change := func(file, line string) string {
		return fmt.Sprintf("--- a/%[1]s\n+++ b/%[1]s\n@@ -1 +1,2 @@\n %[2]s\n+\n", file, line)
	}
	const c, h = "// SPDX-License-Identifier: GPL-2.0", "/* SPDX-License-Identifier: GPL-2.0 */"
	for _, tc := range []struct {
		name, patch string
		code        int
		want        []string
	}{
		{"several", read(t, "testdata/build/build-files.patch"), 3, []string{"[build-files]", "[assembly]", "fs/proc/Kconfig"}},
		{"outside", "--- a/../x\n+++ b/../x\n@@ -1 +1 @@\n-a\n+b\n", 3, []string{"[patch-path]"}},
		{"link", change("scripts/dtc/include-prefixes/arm/x.c", "a"), 3, []string{"[patch-path]", "is a symbolic link"}},
		{"vdso", change("arch/x86/entry/vdso/vclock_gettime.c", "// SPDX-License-Identifier: GPL-2.0-only"), 3, []string{"[vdso]"}},
		{"does not apply", change("fs/proc/version.c", "nothing like it"), 1, []string{"p.patch: fs/proc/version.c: hunk 1 of 1: the file has nothing like"}},
		{"no such file", change("fs/proc/none.c", "x"), 1, []string{"p.patch: fs/proc/none.c: the tree has no such file"}},
		{"not in this kernel", change("fs/minix/dir.c", c), 4, []string{"not part of this kernel", "nothing to patch"}},
		{"wide header", change("include/linux/kernel.h", h), 3, []string{"[too-many-objects]"}},
		{"does not compile", "--- a/fs/proc/version.c\n+++ b/fs/proc/version.c\n@@ -1 +1,2 @@\n " + c + "\n+int nonsense(\n", 1, []string{"compile fs/proc/version.c with the patch", "fs/proc/version.c:"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out := filepath.Join(dir, "x.lpatch")
			code, said := k.build(t, out, []string{write(tc.patch)})
			if code != tc.code {
				t.Errorf("exit %d, want %d", code, tc.code)
			}
			for _, w := range tc.want {
				if !strings.Contains(said, w) {
					t.Errorf("no %q", w)
				}
			}
			if t.Failed() {
				t.Log(said)
			}
			if exists(out) {
				t.Error("a package was written")
			}
		})
	}
}

// assorted are files of all parts of the kernel that Debian's cloud kernels
// have; the first ones are for every run of the tests.
var assorted = strings.Fields(`fs/proc/uptime.c lib/string_helpers.c kernel/ksysfs.c
	mm/vmstat.c fs/readdir.c fs/pipe.c kernel/fork.c kernel/sys.c kernel/time/timekeeping.c kernel/sched/fair.c kernel/workqueue.c mm/page_alloc.c mm/slub.c
	net/ipv4/tcp_input.c net/core/dev.c net/8021q/vlan_dev.c block/blk-core.c drivers/base/core.c drivers/char/random.c security/commoncap.c crypto/api.c
	ipc/msg.c arch/x86/kernel/process.c arch/x86/mm/fault.c lib/vsprintf.c`)

// One blank line at the top of a file moves all lines and changes nothing.
func TestBuildBlankLine(t *testing.T) {
	k := fetched(t, "6.12")
	files := assorted[:3]
	if os.Getenv("LIVEPATCH_SLOW") != "" {
		files = assorted
	}
	dir := t.TempDir()
	var patches []string
	for i, f := range files {
		first, _, _ := bytes.Cut([]byte(read(t, k.Path("source/"+f))), []byte("\n"))
		path := filepath.Join(dir, fmt.Sprintf("%d.patch", i))
		text := fmt.Sprintf("--- a/%[1]s\n+++ b/%[1]s\n@@ -1 +1,2 @@\n+\n %[2]s\n", f, first)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		patches = append(patches, path)
	}
	code, said := k.build(t, filepath.Join(dir, "x.lpatch"), patches)
	if code != 4 || !strings.Contains(said, "nothing to patch") || strings.Contains(said, "warning:") {
		t.Errorf("%d files: exit %d:\n%s", len(files), code, said)
	}
}

// An interrupt ends all that was started, and leaves nothing: no package, no
// directory, the source as it was.
func TestBuildInterrupted(t *testing.T) {
	k := fetched(t, "6.12")
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		tmp, out := t.TempDir(), filepath.Join(t.TempDir(), "x.lpatch")
		cmd := k.buildCommand(t, out, []string{"testdata/build/header.patch"})
		cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
		var said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &said, &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(5 * time.Millisecond) {
			if m, err := filepath.Glob(filepath.Join(tmp, "*/source")); err == nil && len(m) > 0 {
				break // it compiles with the patch
			}
			select {
			case err := <-ended:
				t.Fatalf("it ended before it was interrupted: %v: %s", err, said.String())
			default:
			}
			if time.Now().After(deadline) {
				cmd.Process.Kill()
				t.Fatal("it does not get to compile")
			}
		}
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		<-ended
		if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(said.String(), "interrupted; nothing was written") {
			t.Errorf("%v: exit %d: %s", sig, code, said.String())
		}
		if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
			t.Errorf("%v: left behind: %v, %v", sig, left, err)
		}
		if exists(out) {
			t.Errorf("%v: a package was written", sig)
		}
		if mentioned := processesWith(t, tmp); len(mentioned) > 0 {
			t.Errorf("%v: still running: %q", sig, mentioned)
		}
	}
}

// processesWith are the command lines that have a text in them.
func processesWith(t *testing.T, text string) (out []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && bytes.Contains(b, []byte(text)) {
			out = append(out, string(bytes.ReplaceAll(b, []byte{0}, []byte{' '})))
		}
	}
	return out
}

// Two builds in two directories give the same bytes, to the digests of the
// objects: here the scratch directory differs, and with LIVEPATCH_SLOW the
// source and what is prepared too.
func TestBuildTwice(t *testing.T) {
	k := fetched(t, "6.12")
	patch := casePatch(t, "new-global", "6.12")
	var packages [][]byte
	add := func(cmd *exec.Cmd, out string, env ...string) {
		t.Helper()
		cmd.Env = append(os.Environ(), env...)
		if said, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v:\n%s", err, said)
		}
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, b)
	}
	for i := range 2 {
		out := filepath.Join(t.TempDir(), "fix.lpatch")
		add(k.buildCommand(t, out, []string{patch}), out, fmt.Sprintf("TMPDIR=%s", mkdir(t, strings.Repeat("x", i*40+1))))
	}
	if os.Getenv("LIVEPATCH_SLOW") != "" {
		src := k.copySource(t, filepath.Join(t.TempDir(), "another-place", "linux"))
		out := filepath.Join(t.TempDir(), "fix.lpatch")
		add(k.givenCommand(t, out, src, patch), out, "XDG_CACHE_HOME="+t.TempDir())
	}
	for _, b := range packages[1:] {
		if !bytes.Equal(b, packages[0]) {
			t.Error("the packages differ")
		}
	}
	for _, word := range []string{filepath.Dir(k.Dir), os.TempDir()} {
		if bytes.Contains(packages[0], []byte(word)) {
			t.Errorf("the package holds %s", word)
		}
	}
}

func mkdir(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// The sources of virt/kvm are compiled by the Makefile of arch/x86/kvm, by paths
// with "..". They are found, as users of a header of theirs too.
func TestBuildOtherDirectory(t *testing.T) {
	k := fetched(t, "6.12")
	file := filepath.Join(t.TempDir(), "kvm.lpatch")
	code, said := k.build(t, file, []string{"testdata/build/kvm.patch"})
	if code != 0 {
		t.Fatalf("exit %d:\n%s", code, said)
	}
	if d := cmp.Diff([]string{"kvm kvm_vm_ioctl_check_extension_generic"}, replaced(said)); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	p, err := pack.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	var sources []string
	for _, u := range p.Manifest.Build.Units {
		sources = append(sources, u.Source)
	}
	if d := cmp.Diff([]string{"virt/kvm/dirty_ring.c", "virt/kvm/kvm_main.c", "virt/kvm/pfncache.c"}, sources); d != "" {
		t.Errorf("compiled (-want +got)\n%s", d)
	}
	verify := exec.Command(program(t, "livepatch"), "verify", file, "--target", k.Path("vmlinuz"), "--target", k.moduleFile(t, "kvm"))
	if out, err := verify.CombinedOutput(); err != nil {
		t.Errorf("verify: %v\n%s", err, out)
	}
}
