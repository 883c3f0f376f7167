package kernel

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"livepatch/internal/pack"
	"livepatch/internal/testkit"
	"livepatch/internal/testkit/vm"
	"livepatch/manifest"
)

// TestSourcePatches makes patches of source patches that others wrote: those named
// -FAIL must not give one, all others are loaded, pass their own test while they
// are and only then, and are reverted. Those without a test are seen to redirect
// their functions and to call their callbacks.
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
	p, err := pack.Read([]byte(read(t, file)))
	if err != nil {
		t.Fatal(err)
	}
	kernel := p.Manifest.Kernel
	for _, o := range kernel.Objects {
		if o.Name != "vmlinux" && !slices.Contains(s.config.Modules, o.Name) {
			s.config.Modules = append(s.config.Modules, o.Name)
		}
	}
	guest := "/" + name + ".lpatch"
	s.config.Files = append(s.config.Files, vm.File{Name: guest, From: file})
	s.do(name+"/apply", "livepatch apply "+guest+" --kernel", called(patch, "vmlinux", "PRE_PATCH", "POST_PATCH"))
	check, err := os.ReadFile(filepath.Join(filepath.Dir(patch), name+"-LOADED.test"))
	revert := "livepatch revert " + kernel.Module + " --kernel && [ ! -e /sys/module/" + kernel.Module + " ]"
	if err == nil {
		s.do(name+"/loaded", string(check), quiet(0))
		s.do(name+"/revert", revert, quiet(0))
		s.do(name+"/reverted", string(check), quiet(1))
		return
	}
	for _, o := range kernel.Objects {
		if o.Name != "vmlinux" {
			s.do(name+"/"+o.Name, "modprobe "+o.Name, called(patch, o.Name, "PRE_PATCH", "POST_PATCH"))
		}
	}
	s.do(name+"/redirected", "cat /sys/kernel/tracing/enabled_functions", redirected(kernel, true))
	s.do(name+"/revert", revert, called(patch, "vmlinux", "PRE_UNPATCH", "POST_UNPATCH"))
	s.do(name+"/original", "cat /sys/kernel/tracing/enabled_functions", redirected(kernel, false))
}

// redirected is the check that ftrace redirects the functions of a patch, or none of
// them, as enabled_functions lists them: the name, the module, "I" for a changed
// instruction pointer.
func redirected(k *manifest.Kernel, want bool) func(t *testing.T, r *vm.StepResult) {
	return func(t *testing.T, r *vm.StepResult) {
		quiet(0)(t, r)
		for _, o := range k.Objects {
			module := ""
			if o.Name != "vmlinux" {
				module = ` \[` + o.Name + `\]`
			}
			for _, f := range o.Functions {
				line := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(f.Name) + module + ` \(\d+\).* I\b`)
				if line.MatchString(r.Output) != want {
					t.Errorf("%s %s is redirected: %v", o.Name, f.Name, !want)
				}
			}
		}
	}
}

// called is the check that the callbacks of these kinds, if the patch has them, said
// what they are called for, in this order.
func called(patch, object string, kinds ...string) func(t *testing.T, r *vm.StepResult) {
	return func(t *testing.T, r *vm.StepResult) {
		quiet(0)(t, r)
		rest := logText(r.Log)
		for _, kind := range kinds {
			m := regexp.MustCompile(`KPATCH_` + kind + `_CALLBACK\((\w+)\)`).FindStringSubmatch(read(t, patch))
			if m == nil {
				continue
			}
			_, after, found := strings.Cut(rest, m[1]+": "+object)
			if !found {
				t.Errorf("%s was not called for %s", m[1], object)
			}
			rest = after
		}
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
