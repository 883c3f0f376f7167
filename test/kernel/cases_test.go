package kernel

import (
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"livepatch/internal/testkit/vm"
)

// What the kernel says of a patch that is loaded or reverted. The lines in
// parentheses come once a boot.
const (
	logTaint  = `NAME: (?:loading out-of-tree module taints kernel\.|module verification failed: signature and/or required key missing - tainting kernel|tainting kernel with TAINT_LIVEPATCH)`
	logApply  = "livepatch: enabling patch 'NAME'\nlivepatch: 'NAME': starting patching transition\nlivepatch: 'NAME': patching complete\n"
	logRevert = "livepatch: 'NAME': starting unpatching transition\nlivepatch: 'NAME': unpatching complete\n"
)

// TestCases applies and reverts every case, one after the other in one machine.
func TestCases(t *testing.T) {
	for _, v := range versions {
		t.Run(v, func(t *testing.T) {
			k := fetched(t, v)
			s := k.session(t)
			for _, c := range k.made(t, k.cases(t)) {
				s.config.Files = append(s.config.Files, vm.File{Name: "/" + c.name + ".lpatch", From: c.file})
				s.config.Modules = append(s.config.Modules, c.modules...)
				s.addCase(c)
			}
			s.run(t)
		})
	}
}

// A madeCase is a case and its package.
type madeCase struct {
	*testCase
	file, module string
}

// made makes the packages, and compares refusals with those that are expected.
func (k *target) made(t *testing.T, cases []*testCase) []*madeCase {
	t.Helper()
	dir := t.TempDir()
	exits, said := make([]int, len(cases)), make([]string, len(cases))
	var wg sync.WaitGroup
	slots := make(chan bool, 2)
	for i, c := range cases {
		wg.Go(func() {
			slots <- true
			exits[i], said[i] = k.create(t, c.pairs, filepath.Join(dir, c.name+".lpatch"))
			<-slots
		})
	}
	wg.Wait()
	var out []*madeCase
	for i, c := range cases {
		t.Run("create/"+c.name, func(t *testing.T) {
			code, refused := c.expect["refused "+k.version]
			switch code = strings.TrimSpace(code); {
			case refused && (exits[i] != 3 || !strings.Contains(said[i], "["+code+"]")):
				t.Errorf("exit %d, want 3 with %s:\n%s", exits[i], code, said[i])
			case refused:
			case exits[i] != 0:
				t.Errorf("exit %d:\n%s", exits[i], said[i])
			default:
				m := regexp.MustCompile(`, module (\w+)`).FindStringSubmatch(said[i])
				if m == nil {
					t.Fatalf("no name of a module:\n%s", said[i])
				}
				out = append(out, &madeCase{c, filepath.Join(dir, c.name+".lpatch"), m[1]})
			}
		})
	}
	return out
}

// addCase adds the steps of one case.
func (s *session) addCase(c *madeCase) {
	pkg := "/" + c.name + ".lpatch"
	observe := func(phase, like string) {
		want, ok := c.expect[phase]
		if !ok {
			want = c.expect[like]
		}
		s.do(c.name+"/"+phase, c.observe, printed(want, c.expect["log of "+phase]))
	}
	change := func(phase, command, log string) {
		s.do(c.name+"/"+phase, command, func(t *testing.T, r *vm.StepResult) {
			if r.Exit != 0 {
				t.Errorf("exit %d", r.Exit)
			}
			transition(t, r.Log, c.module, log, c.expect["log of "+phase])
		})
	}
	apply, revert := "livepatch apply "+pkg+" --kernel", "livepatch revert "+c.module+" --kernel"
	observe("before", "before")
	change("apply", apply, logApply)
	observe("patched", "patched")
	s.do(c.name+"/status", "livepatch status --kernel", mentions(c.module))
	if len(c.modules) > 0 {
		s.do(c.name+"/modprobe", "modprobe -a "+strings.Join(c.modules, " "), printed("", c.expect["log of modprobe"]))
		observe("patched with modules", "patched")
		change("revert with modules", revert, logRevert)
		observe("before with modules", "before")
		change("apply again", apply, logApply)
		observe("patched again", "patched with modules")
	}
	change("revert", revert, logRevert)
	like := "before"
	if len(c.modules) > 0 {
		like = "before with modules"
	}
	observe("reverted", like)
	s.do(c.name+"/gone", "[ ! -e /sys/module/"+c.module+" ] && livepatch status --kernel; ls /sys/kernel/livepatch", func(t *testing.T, r *vm.StepResult) {
		if r.Exit != 0 || strings.Contains(r.Output, c.module) {
			t.Error("the module is still there")
		}
		logged(t, r.Log, "")
	})
	if len(c.modules) > 0 {
		s.do(c.name+"/rmmod", "rmmod "+strings.Join(c.modules, " "), printed("", ""))
	}
}

func mentions(all ...string) func(t *testing.T, r *vm.StepResult) {
	return func(t *testing.T, r *vm.StepResult) {
		if r.Exit != 0 {
			t.Errorf("exit %d", r.Exit)
		}
		for _, text := range all {
			if !strings.Contains(r.Output, text) {
				t.Errorf("no %q in what it prints", text)
			}
		}
		logged(t, r.Log, "")
	}
}

// transition compares the log of a patch that is loaded or reverted: what the
// kernel says always, and what the patch says between its beginning and end.
func transition(t *testing.T, log []vm.Line, module, always, own string) {
	t.Helper()
	taint := regexp.MustCompile("^" + strings.ReplaceAll(logTaint, "NAME", regexp.QuoteMeta(module)) + "$")
	always = strings.ReplaceAll(always, "NAME", module)
	var rest []vm.Line
	var said []string
	for _, l := range log {
		switch {
		case taint.MatchString(l.Text):
		case strings.HasPrefix(l.Text, "livepatch: ") && !strings.HasPrefix(l.Text, "livepatch test"):
			said = append(said, l.Text)
		default:
			rest = append(rest, l)
		}
	}
	if got, want := strings.Join(said, "\n")+"\n", always; got != want {
		t.Errorf("the livepatch core logged\n%s, want\n%s", got, want)
	}
	logged(t, rest, own)
}
