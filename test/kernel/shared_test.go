package kernel

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"livepatch/internal/testkit"
	"livepatch/internal/testkit/vm"
)

// TestSourcePatches makes patches of source patches that others wrote: those named
// -FAIL must not give one, all others are loaded, pass their own test while they
// are and only then, and are reverted.
func TestSourcePatches(t *testing.T) {
	for _, v := range versions {
		t.Run(v, func(t *testing.T) {
			dir := testkit.Shared(t, "vectors/source-patches/linux-"+v)
			patches, err := filepath.Glob(filepath.Join(dir, "*.patch"))
			if err != nil || len(patches) == 0 {
				t.Fatalf("no patches in %s: %v", dir, err)
			}
			k := fetched(t, v)
			s := k.session(t)
			s.config.Files = append(s.config.Files, vm.File{Name: "/bin/sudo", Data: []byte("#!/bin/sh\nexec \"$@\"\n")})
			out := t.TempDir()
			for _, patch := range patches {
				k.addSource(t, s, patch, out)
			}
			s.run(t)
		})
	}
}

// failsWith are the exit codes of source patches that must not give a package:
// 4 for those that change nothing but line numbers. All others are refused.
var failsWith = map[string]int{"warn-detect-FAIL": 4}

// addSource makes the package of a source patch and adds its steps.
func (k *target) addSource(t *testing.T, s *session, patch, out string) {
	t.Helper()
	name := strings.TrimSuffix(filepath.Base(patch), ".patch")
	file := filepath.Join(out, name+".lpatch")
	code, said := k.build(t, file, []string{patch})
	if strings.HasSuffix(name, "-FAIL") {
		want, ok := failsWith[name]
		if !ok {
			want = 3
		}
		if code != want {
			t.Errorf("%s: exit %d, want %d:\n%s", name, code, want, said)
		}
		return
	}
	if code != 0 {
		t.Errorf("%s: exit %d:\n%s", name, code, said)
		return
	}
	for _, f := range replaced(said) {
		object, _, _ := strings.Cut(f, " ")
		if object != "vmlinux" && !slices.Contains(s.config.Modules, object) {
			s.config.Modules = append(s.config.Modules, object)
		}
	}
	module := moduleSaid(t, said)
	guest := "/" + name + ".lpatch"
	s.config.Files = append(s.config.Files, vm.File{Name: guest, From: file})
	s.do(name+"/apply", "livepatch apply "+guest+" --kernel", quiet(0))
	check, err := os.ReadFile(filepath.Join(filepath.Dir(patch), name+"-LOADED.test"))
	if err == nil {
		s.do(name+"/loaded", string(check), quiet(0))
	}
	s.do(name+"/revert", "livepatch revert "+module+" --kernel && [ ! -e /sys/module/"+module+" ]", quiet(0))
	if err == nil {
		s.do(name+"/reverted", string(check), quiet(1))
	}
}

// complaint is a line that the kernel logs when something is wrong.
var complaint = regexp.MustCompile(`WARNING|BUG|Oops|cut here|[Uu]npatched|general protection|unable to|Unknown symbol|invalid relocation`)

// quiet is the check that a step ends with this code and the kernel does not complain.
func quiet(exit int) func(t *testing.T, r *vm.StepResult) {
	return func(t *testing.T, r *vm.StepResult) {
		if r.Exit != exit {
			t.Errorf("exit %d, want %d", r.Exit, exit)
		}
		for _, l := range r.Log {
			if complaint.MatchString(l.Text) {
				t.Errorf("the kernel complains: %s", l.Text)
			}
		}
	}
}
