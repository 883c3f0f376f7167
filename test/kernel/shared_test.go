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

// addSource makes the package of a source patch and adds its steps.
func (k *target) addSource(t *testing.T, s *session, patch, out string) {
	t.Helper()
	name := strings.TrimSuffix(filepath.Base(patch), ".patch")
	objects := vm.Script(t, "kernel-objects", "--kernel", k.version, patch)
	file := filepath.Join(out, name+".lpatch")
	code, said := 4, "no object of this kernel changes"
	if len(pairs(t, objects)) > 0 {
		code, said = k.create(t, objects, file)
	}
	if strings.HasSuffix(name, "-FAIL") {
		if code != 3 && code != 4 {
			t.Errorf("%s: exit %d, want 3 or 4:\n%s", name, code, said)
		}
		return
	}
	if code != 0 {
		t.Errorf("%s: exit %d:\n%s", name, code, said)
		return
	}
	for _, p := range pairs(t, objects) {
		if p.target != "vmlinux" && !slices.Contains(s.config.Modules, p.target) {
			s.config.Modules = append(s.config.Modules, p.target)
		}
	}
	module := regexp.MustCompile(`, module (\w+)`).FindStringSubmatch(said)[1]
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
