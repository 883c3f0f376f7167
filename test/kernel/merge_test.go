package kernel

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"livepatch/internal/testkit/vm"
)

// mergedCases are packages that are made apart and merged, by kernel: between
// them they have all tables that code can have, callbacks of the kernel and of a module,
// new variables, and a module that comes later. LIVEPATCH_SLOW merges all on each.
var mergedCases = map[string][]string{
	"6.1":  {"changed-string", "exception-table", "jump-label", "new-static"},
	"6.12": {"alternatives", "module-object", "shadow", "special-static", "usercopy"},
}

func (k *target) toMerge(t *testing.T) (out []*testCase) {
	t.Helper()
	want := mergedCases[k.version]
	if want == nil || os.Getenv("LIVEPATCH_SLOW") != "" {
		want = []string{"static-local"}
		for _, list := range mergedCases {
			want = append(want, list...)
		}
	}
	for _, c := range k.cases(t) {
		if slices.Contains(want, c.name) {
			out = append(out, c)
		}
	}
	if len(out) != len(want) {
		t.Fatalf("there are %d cases, of %q", len(out), want)
	}
	return out
}

// livepatch runs the program, which has to end well.
func livepatch(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(program(t, "livepatch"), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("livepatch %s: %v:\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// TestMerge merges packages into one, and sees all of them in effect at once.
func TestMerge(t *testing.T) {
	for _, v := range versions {
		t.Run(v, func(t *testing.T) {
			k := fetched(t, v)
			cases := k.made(t, k.toMerge(t))
			var files, modules []string
			for _, c := range cases {
				files = append(files, c.file)
				modules = append(modules, c.modules...)
			}
			all := filepath.Join(t.TempDir(), "all.lpatch")
			said := livepatch(t, append([]string{"merge", "-o", all}, files...)...)
			for _, c := range cases {
				if !strings.Contains(livepatch(t, "inspect", "--json", all), `"name": "`+filepath.Base(c.file)+`"`) {
					t.Errorf("%s is not in the record", c.file)
				}
			}
			slices.Reverse(files)
			again := filepath.Join(t.TempDir(), "all.lpatch")
			livepatch(t, append([]string{"merge", "-o", again}, files...)...)
			if string(read(t, all)) != string(read(t, again)) {
				t.Error("the order of the packages matters")
			}
			args := []string{"verify", all, "--target", k.Path("vmlinuz")}
			for _, m := range modules {
				args = append(args, "--target", k.moduleFile(t, m))
			}
			if out := livepatch(t, args...); !strings.Contains(out, " 0 left to the kernel") {
				t.Errorf("verify:\n%s", out)
			}
			s := k.session(t)
			s.config.Files = append(s.config.Files, vm.File{Name: "/all.lpatch", From: all})
			s.config.Modules = append(s.config.Modules, modules...)
			s.addMerged(cases, modules, said)
			s.run(t)
		})
	}
}

// addMerged adds the steps of cases that are one patch.
func (s *session) addMerged(cases []*madeCase, modules []string, said string) {
	const module = "livepatch_all"
	observe := func(phase, like string) {
		for _, c := range cases {
			want, ok := c.expect[like]
			if !ok {
				want = c.expect[strings.TrimSuffix(like, " with modules")]
			}
			log := c.expect["log of "+phase]
			if phase == "patched with modules" {
				log = c.expect["log of patched"] // what is said once is said once by each module
			}
			s.do(c.name+"/"+phase, c.observe, printed(want, log))
		}
	}
	change := func(phase, command, log string) {
		s.do(phase, command, func(t *testing.T, r *vm.StepResult) {
			if r.Exit != 0 {
				t.Errorf("exit %d; merge said\n%s", r.Exit, said)
			}
			own := ""
			for _, c := range cases {
				own += c.expect["log of "+phase]
			}
			transition(t, r.Log, module, log, own)
		})
	}
	apply, revert, like := "livepatch apply /all.lpatch --kernel", "livepatch revert all --kernel", "before"
	observe("before", "before")
	change("apply", apply, logApply)
	observe("patched", "patched")
	if len(modules) > 0 {
		like = "before with modules"
		log := ""
		for _, c := range cases {
			log += strings.ReplaceAll(c.expect["log of modprobe"], c.module, module)
		}
		s.do("modprobe", "modprobe -a "+strings.Join(modules, " "), printed("", log))
		change("revert with modules", revert, logRevert)
		change("apply again", apply, logApply)
		observe("patched with modules", "patched with modules")
	}
	change("revert", revert, logRevert)
	observe("reverted", like)
	s.do("gone", "[ ! -e /sys/module/"+module+" ] && ls /sys/kernel/livepatch", printed("", ""))
}
