package kernel

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"livepatch/internal/pack"
	"livepatch/internal/testkit"
	"livepatch/internal/testkit/vm"
)

// moduleIn copies the source of a module that is not in the kernel's tree to a
// directory.
func moduleIn(t *testing.T, dir string) string {
	t.Helper()
	if err := os.CopyFS(dir, os.DirFS("testdata/module/gauge")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// makeModule builds gauge.ko in a directory with the source, as users do: with
// the headers of the distribution, whose Makefile only says where the other one
// is. It is stripped as the modules of packages are.
func (k *target) makeModule(t *testing.T, dir string, vars ...string) string {
	t.Helper()
	args := []string{"-C", k.Path("headers") + "/", "-f", filepath.Join(k.Path("headers-common"), "Makefile"), "M=" + dir, "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"}
	for _, argv := range [][]string{append(append([]string{"make"}, args...), vars...), {"strip", "-g", filepath.Join(dir, "gauge.ko")}} {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Env = append(os.Environ(), "PATH="+k.Path("compiler/here/bin")+":"+os.Getenv("PATH"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v:\n%s", argv[0], err, out)
		}
	}
	return filepath.Join(dir, "gauge.ko")
}

// A module that is not in the kernel's tree, built elsewhere than its source is
// now, is patched while it runs: two objects and a header, with the variables of
// the running one. Neither the source nor what was built of it is changed.
func TestBuildModule(t *testing.T) {
	for _, v := range versions {
		t.Run(v, func(t *testing.T) {
			k := fetched(t, v)
			src := moduleIn(t, filepath.Join(t.TempDir(), "gauge-1.0"))
			built := moduleIn(t, filepath.Join(t.TempDir(), "build"))
			ko := k.makeModule(t, built)
			before := state(t, src) + state(t, built)
			file := filepath.Join(t.TempDir(), "gauge.lpatch")
			keys := keys(t)
			code, said := k.build(t, file, []string{"testdata/module/gauge.patch"}, "--module-src", src, "--build-path", built, "--target", ko,
				"--key", keys+"/ours", "--module-key", keys+"/module.pem", "--module-cert", keys+"/module.crt")
			if code != 0 {
				t.Fatalf("exit %d:\n%s", code, said)
			}
			if got := strings.Join(replaced(said), ", "); got != "gauge gauge_show, gauge gauge_step" {
				t.Errorf("it replaces %s", got)
			}
			if state(t, src)+state(t, built) != before {
				t.Error("the source was changed")
			}
			if payload := payloadOf(t, file); !bytes.HasSuffix(payload, []byte("~Module signature appended~\n")) {
				t.Error("the module has no signature")
			}
			module := moduleSaid(t, said)
			s := k.session(t)
			s.config.Files = append(s.config.Files, vm.File{Name: "/gauge.ko", From: ko}, vm.File{Name: "/gauge.lpatch", From: file},
				vm.File{Name: "/ours.pub", From: keys + "/ours.pub"}, vm.File{Name: "/others.pub", From: keys + "/others.pub"})
			s.do("load", "insmod /gauge.ko && cat /proc/gauge /proc/gauge", saidAndQuiet("read 1 level 1 mm\nread 2 level 3 mm\n"))
			s.do("not trusted", "livepatch apply /gauge.lpatch --kernel --require-key /others.pub", refused("signature-untrusted"))
			s.do("apply", "livepatch apply /gauge.lpatch --kernel --require-key /ours.pub", quiet(0))
			s.do("patched", "cat /proc/gauge", saidAndQuiet("read 3 level 7 mm, step 4\n"))
			s.do("revert", "livepatch revert "+module+" --kernel", quiet(0))
			s.do("reverted", "cat /proc/gauge && rmmod gauge", saidAndQuiet("read 4 level 12 mm\n"))
			s.run(t)
		})
	}
}

// keys makes keys for packages, ours and others, and one for modules.
func keys(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, argv := range [][]string{
		{program(t, "livepatch"), "keygen", "-o", dir + "/ours"}, {program(t, "livepatch"), "keygen", "-o", dir + "/others"},
		{"openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test", "-days", "2", "-keyout", dir + "/module.pem", "-out", dir + "/module.crt"},
	} {
		testkit.Run(t, argv[0], argv[1:]...)
	}
	return dir
}

// payloadOf is the module in a package.
func payloadOf(t *testing.T, file string) []byte {
	t.Helper()
	p, err := pack.Read([]byte(read(t, file)))
	if err != nil {
		t.Fatal(err)
	}
	return p.Members[p.Manifest.Kernel.Payload.Member]
}

// saidAndQuiet is the check that a step ends well and prints this, and that the
// kernel does not complain.
func saidAndQuiet(want string) func(t *testing.T, r *vm.StepResult) {
	return func(t *testing.T, r *vm.StepResult) {
		quiet(0)(t, r)
		if r.Output != want {
			t.Errorf("printed %q, want %q", r.Output, want)
		}
	}
}

// What was not built from this source in this way is refused, and so are patches
// of more than it.
func TestBuildModuleRefuses(t *testing.T) {
	k := fetched(t, "6.12")
	src := moduleIn(t, filepath.Join(t.TempDir(), "gauge"))
	ko := k.makeModule(t, src, "UNIT=cm")
	elsewhere := moduleIn(t, filepath.Join(t.TempDir(), "gauge"))
	other := moduleIn(t, filepath.Join(t.TempDir(), "gauge"))
	text := strings.Replace(read(t, filepath.Join(other, "main.c")), "static unsigned int level;", "static unsigned long level;", 1)
	if err := os.WriteFile(filepath.Join(other, "main.c"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	const gauge = "testdata/module/gauge.patch"
	write := func(text string) string {
		path := filepath.Join(t.TempDir(), "p.patch")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	both := write("--- a/main.c\n+++ b/main.c\n@@ -1 +1,2 @@\n // SPDX-License-Identifier: GPL-2.0\n+\n--- a/fs/proc/version.c\n+++ b/fs/proc/version.c\n@@ -1 +1,2 @@\n // SPDX-License-Identifier: GPL-2.0\n+\n")
	flags := write("--- a/Makefile\n+++ b/Makefile\n@@ -2,0 +3 @@\n+ccflags-y += -O1\n")
	unused := write("--- /dev/null\n+++ b/unused.c\n@@ -0,0 +1 @@\n+int unused;\n")
	line := write("--- a/main.c\n+++ b/main.c\n@@ -1 +1,2 @@\n // SPDX-License-Identifier: GPL-2.0\n+\n")
	for _, tc := range []struct {
		name, patch string
		args        []string
		code        int
		want        string
	}{
		{"built with other flags", gauge, []string{"--module-src", src, "--target", ko}, 3, `the string "mm" is not what the target uses here`},
		{"built with these", gauge, []string{"--module-src", src, "--target", ko, "--make-var", "UNIT=cm"}, 0, "gauge_show"},
		{"built elsewhere", gauge, []string{"--module-src", elsewhere, "--target", ko, "--make-var", "UNIT=cm"}, 3, "is not what the target uses here"},
		{"another source", gauge, []string{"--module-src", other, "--build-path", src, "--target", ko, "--make-var", "UNIT=cm"}, 3, "main.o: gauge_show"},
		{"another module", gauge, []string{"--module-src", src, "--target", k.moduleFile(t, "xfs")}, 1, "the module gauge, whose file is not known"},
		{"kernel and module", both, []string{"--module-src", src, "--target", ko}, 3, "p.patch: it is a file of the kernel"},
		{"flags of the build", flags, []string{"--module-src", src, "--target", ko}, 3, "[build-files]"},
		{"new file that nothing builds", unused, []string{"--module-src", src, "--target", ko}, 4, "no Makefile of the patch builds it"},
		{"blank line", line, []string{"--module-src", src, "--target", ko, "--make-var", "UNIT=cm"}, 4, "nothing to patch"},
		{"no module", line, []string{"--module-src", src}, 2, "--module-src needs the module with --target"},
		{"flags of programs", line, []string{"--compdb", "x"}, 2, "--compdb is for programs, and this is a kernel"},
		{"no source", line, []string{"--make-var", "UNIT=cm", "--target", ko}, 2, "--make-var goes with --module-src"},
		{"our variable", line, []string{"--module-src", src, "--target", ko, "--make-var", "CC=clang"}, 1, "make variable CC"},
		{"no variable", line, []string{"--module-src", src, "--target", ko, "--make-var", "UNIT"}, 2, `--make-var "UNIT" is not NAME=VALUE`},
		{"relative path", line, []string{"--module-src", src, "--target", ko, "--build-path", "x"}, 2, "--build-path x is not absolute"},
		{"no Makefile", line, []string{"--module-src", "testdata/module", "--target", ko}, 1, "main.c"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "x.lpatch")
			code, said := k.build(t, out, []string{tc.patch}, tc.args...)
			if code != tc.code || !strings.Contains(said, tc.want) {
				t.Errorf("exit %d, want %d with %q:\n%s", code, tc.code, tc.want, said)
			}
			if exists(out) != (tc.code == 0) {
				t.Error("a package was written, or none")
			}
		})
	}
}
