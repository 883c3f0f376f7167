package kernel

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// givenCommand builds with the parts of the kernel named one by one.
func (k *target) givenCommand(t testing.TB, out, source string, patches ...string) *exec.Cmd {
	t.Helper()
	args := []string{"build", "-o", out, "--kernel-src", source, "--config", k.Path("headers/.config"), "--symvers", k.Path("headers/Module.symvers"),
		"--target", k.Path("vmlinuz"), "--modules", k.Path("modules") + "/kernel", "--objtool", k.Path("objtool")}
	for _, p := range patches {
		args = append(args, "--patch", p)
	}
	return exec.Command(program(t, "livepatch"), args...)
}

func (k *target) copySource(t testing.TB, to string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", k.Path("source"), to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return to
}

// state is a digest of what is in a directory: names, kinds, sizes, times,
// where links lead.
func state(t testing.TB, dir string) string {
	t.Helper()
	h := sha256.New()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		link := ""
		if d.Type() == fs.ModeSymlink {
			if link, err = os.Readlink(path); err != nil {
				return err
			}
		}
		fmt.Fprintf(h, "%s %v %d %d %s\n", path, fi.Mode(), fi.Size(), fi.ModTime().UnixNano(), link)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// A source in which a kernel of another configuration was built is taken: the
// package is that of the clean source to the byte, and nothing in it changes.
// Patches of a header and of a module are among those that need its directories.
func TestBuildGivenSource(t *testing.T) {
	if os.Getenv("LIVEPATCH_SLOW") == "" {
		t.Skip("it prepares the kernel's source again, which takes minutes; LIVEPATCH_SLOW=1 runs it")
	}
	k := fetched(t, "6.12")
	patches := []string{"testdata/build/header.patch", casePatch(t, "new-global", "6.12")}
	dir := t.TempDir()
	want := filepath.Join(dir, "debian", "fix.lpatch")
	if err := os.Mkdir(filepath.Dir(want), 0o755); err != nil {
		t.Fatal(err)
	}
	if code, said := k.build(t, want, patches); code != 0 {
		t.Fatalf("exit %d:\n%s", code, said)
	}
	src := k.copySource(t, filepath.Join(dir, "linux"))
	// What a build leaves: the wrong configuration, and headers with which nothing compiles.
	for name, text := range map[string]string{
		".config": "CONFIG_64BIT=n\n", "include/config/auto.conf": "CONFIG_64BIT=n\n", "include/generated/autoconf.h": "#error stale\n",
		"arch/x86/include/generated/asm/unistd.h": "#error stale\n", "fs/proc/uptime.o": "stale", "fs/proc/.uptime.o.cmd": "stale",
	} {
		path := filepath.Join(src, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	before := state(t, src)
	got := filepath.Join(dir, "fix.lpatch")
	cmd := k.givenCommand(t, got, src, patches...)
	cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+t.TempDir())
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v:\n%s", err, said)
	}
	if state(t, src) != before {
		t.Error("the source was changed")
	}
	if !bytes.Equal([]byte(read(t, got)), []byte(read(t, want))) {
		t.Error("the package is not that of --debian")
	}
}

// Parts that are missing or are not what they ought to be are named, before anything
// is prepared.
func TestBuildGivenRefuses(t *testing.T) {
	k := fetched(t, "6.12")
	patch := casePatch(t, "new-global", "6.12")
	empty := t.TempDir()
	other := filepath.Join(empty, "config")
	text := strings.Replace(read(t, k.Path("headers/.config")), `CONFIG_CC_VERSION_TEXT="`, `CONFIG_CC_VERSION_TEXT="other-`, 1)
	text = strings.Replace(text, "(Debian 12", "(Debian 11", 1)
	if err := os.WriteFile(other, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	source, config, vmlinuz := k.Path("source"), k.Path("headers/.config"), k.Path("vmlinuz")
	for _, tc := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"no image", []string{"--kernel-src", source, "--config", config}, 2, "needs --config and the image with --target"},
		{"no configuration", []string{"--kernel-src", source, "--target", vmlinuz}, 2, "needs --config and the image with --target"},
		{"two images", []string{"--kernel-src", source, "--config", config, "--target", vmlinuz, "--target", vmlinuz}, 2, "is a second kernel image"},
		{"another machine", []string{"--kernel-src", source, "--config", config, "--target", vmlinuz, "--arch", "arm64"}, 2, "--arch arm64: vmlinuz is for EM_X86_64"},
		{"no machine", []string{"--kernel-src", source, "--config", config, "--target", vmlinuz, "--arch", "arm"}, 2, `--arch "arm" is neither amd64 nor arm64`},
		{"release for another machine", []string{"--kernel", k.Release, "--debian", "--arch", "arm64"}, 1, "is a kernel for amd64, not for arm64"},
		{"both ways", []string{"--kernel-src", source, "--kernel", k.Release, "--debian"}, 2, "exclude each other"},
		{"no such source", []string{"--kernel-src", source + "/none", "--config", config, "--target", vmlinuz}, 1, "source/none"},
		{"another source", []string{"--kernel-src", empty, "--config", config, "--target", vmlinuz}, 1, "the tree has no such file"},
		{"configuration of another compiler", []string{"--kernel-src", source, "--config", other, "--target", vmlinuz}, 3, "[wrong-compiler]"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out, cache := filepath.Join(t.TempDir(), "x.lpatch"), t.TempDir()
			cmd := exec.Command(program(t, "livepatch"), append([]string{"build", "-o", out, "--patch", patch}, tc.args...)...)
			cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+cache)
			said, _ := cmd.CombinedOutput() // the exit code says how it went
			if code := cmd.ProcessState.ExitCode(); code != tc.code || !strings.Contains(string(said), tc.want) {
				t.Errorf("exit %d, want %d with %q:\n%s", code, tc.code, tc.want, said)
			}
			if exists(out) {
				t.Error("a package was written")
			}
		})
	}
}
