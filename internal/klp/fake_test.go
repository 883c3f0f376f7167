package klp

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"livepatch/internal/kstate"
	"livepatch/internal/pack"
	"livepatch/internal/refusal"
	"livepatch/manifest"
)

// A fake is a kernel that loads one module whose transition takes a number of
// looks at it.
type fake struct {
	mu     sync.Mutex
	files  fstest.MapFS
	module string // that Load loads
	replaces,
	steps int // looks that a transition takes; negative: for ever
	left   int
	stuck  map[bool]bool // directions in which transitions never end
	fail   error         // of Load
	held   bool          // modules cannot be unloaded
	links  []kstate.BPFLink
	done   []string // what was written, loaded and unloaded, in order
	onLook func(f *fake)
}

func newFake() *fake {
	f := &fake{module: "fix", steps: 3, stuck: map[bool]bool{}, files: fstest.MapFS{}}
	f.put("proc/sys/kernel/osrelease", "6.12.1\n")
	f.files["sys/kernel/notes"] = &fstest.MapFile{Data: append([]byte{4, 0, 0, 0, 20, 0, 0, 0, 3, 0, 0, 0, 'G', 'N', 'U', 0}, strings.Repeat("\xab", 20)...)}
	f.put("proc/self/status", "CapEff:\t000001ffffffffff\n")
	f.put("proc/kallsyms", "ffffffff91000000 t f\n")
	f.put("sys/module/other/initstate", "live\n")
	f.files["sys/kernel/livepatch"] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
	f.put("sys/kernel/tracing/enabled_functions", "")
	f.put("sys/kernel/debug/kprobes/list", "")
	f.put("proc/7/task/7/stat", "7 (held) S 1 0 0 0 -1 0 0\n")
	f.put("proc/7/task/7/stack", "[<0>] wait+0x1/0x2\n[<0>] f+0x1/0x2\n[<0>] g+0x1/0x2 [fix]\n")
	f.put("proc/7/task/7/patch_state", "-1\n")
	return f
}

func (f *fake) put(name, text string) { f.files[name] = &fstest.MapFile{Data: []byte(text)} }

func (f *fake) patch(name string, enabled, transition string) {
	dir := "sys/kernel/livepatch/" + name
	f.put(dir+"/enabled", enabled+"\n")
	f.put(dir+"/transition", transition+"\n")
	f.files[dir+"/vmlinux/f,1"] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
	f.put("sys/module/"+name+"/initstate", "live\n")
	f.put("sys/module/"+name+"/taint", "OEK\n")
}

func (f *fake) drop(dir string) {
	for name := range f.files {
		if strings.HasPrefix(name, dir+"/") {
			delete(f.files, name)
		}
	}
}

func (f *fake) state(name, file string) string {
	if m := f.files["sys/kernel/livepatch/"+name+"/"+file]; m != nil {
		return strings.TrimSpace(string(m.Data))
	}
	return ""
}

// Files lets time go by.
func (f *fake) Files() fs.FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.onLook != nil {
		f.onLook(f)
	}
	for _, name := range []string{"fix", "old"} {
		if f.state(name, "transition") != "1" {
			continue
		}
		enabling := f.state(name, "enabled") == "1"
		if f.left--; f.left >= 0 || f.stuck[enabling] {
			continue
		}
		f.put("proc/7/task/7/patch_state", "-1\n")
		if enabling {
			f.put("sys/kernel/livepatch/"+name+"/transition", "0\n")
			if name == "fix" && f.replaces > 0 {
				f.drop("sys/kernel/livepatch/old")
			}
		} else {
			f.drop("sys/kernel/livepatch/" + name)
		}
	}
	snapshot := fstest.MapFS{}
	for name, file := range f.files {
		snapshot[name] = file
	}
	return snapshot
}

func (f *fake) note(format string, args ...any) {
	f.done = append(f.done, fmt.Sprintf(format, args...))
}

func (f *fake) Load(module []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note("load %s", module)
	if f.fail != nil {
		return f.fail
	}
	f.patch(f.module, "1", "1")
	f.put("proc/7/task/7/patch_state", "0\n")
	f.left = f.steps
	return nil
}

func (f *fake) Unload(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.held {
		return errInUse
	}
	f.note("unload %s", name)
	f.drop("sys/module/" + name)
	return nil
}

func (f *fake) Write(name, text string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note("%s = %s", strings.TrimPrefix(name, "sys/kernel/livepatch/"), text)
	if f.files[path.Dir(name)+"/enabled"] == nil {
		return fs.ErrNotExist
	}
	if path.Base(name) == "force" {
		clear(f.stuck)
		f.left = 0
		return nil
	}
	f.put(name, text+"\n")
	f.put(path.Dir(name)+"/transition", "1\n")
	f.put("proc/7/task/7/patch_state", map[string]string{"0": "1\n", "1": "0\n"}[text])
	f.left = f.steps
	return nil
}

func (f *fake) Log() func() []kstate.Record {
	return func() []kstate.Record {
		return []kstate.Record{
			{Level: 6, Text: "eth0: link up"},
			{Level: 3, Text: "livepatch: failed to register ftrace handler for function 'f' (-16)"},
			{Level: 4, Text: "fix: loading out-of-tree module taints kernel."},
		}
	}
}

func (f *fake) BPF() ([]kstate.BPFLink, error) { return f.links, nil }

func (f *fake) ErrorName(err error) string { return err.Error() }

func (f *fake) loader(opt Options) *loader {
	if opt.Timeout == 0 {
		opt.Timeout = 10 * time.Second
	}
	return &loader{f, opt, 50 * time.Millisecond, 5 * time.Second, 100 * time.Millisecond}
}

func fixPackage() *pack.Package {
	m := manifestOf(patch{name: "fix", function: "f"}, []byte("module"))
	return &pack.Package{Manifest: m, Members: map[string][]byte{manifest.KernelMember: []byte("module")}}
}

func (f *fake) did(t *testing.T, want ...string) {
	t.Helper()
	if got := strings.Join(f.done, "; "); got != strings.Join(want, "; ") {
		t.Errorf("did %q, want %q", got, want)
	}
}

func TestApply(t *testing.T) {
	f := newFake()
	f.replaces = 1
	f.patch("old", "1", "0")
	pkg := fixPackage()
	pkg.Manifest.Kernel.Replace = true
	res, err := f.loader(Options{Unload: true}).apply(t.Context(), pkg)
	if err != nil {
		t.Fatal(err)
	}
	f.did(t, "load module", "unload old")
	if len(res.Replaced) != 1 || res.Replaced[0] != (Replaced{"old", true, ""}) || res.Functions[0] != "vmlinux: f" || res.Transition <= 0 || res.Forced {
		t.Errorf("%+v", res)
	}
}

func TestApplyTakesBack(t *testing.T) {
	f := newFake()
	f.stuck[true] = true
	said := ""
	_, err := f.loader(Options{Timeout: 1200 * time.Millisecond, Progress: func(what string, _, _ int) { said += what + "\n" }}).apply(t.Context(), fixPackage())
	var busy *BusyError
	if !errors.As(err, &busy) || StateOf(err) != RolledBack {
		t.Fatalf("%v, %s", err, StateOf(err))
	}
	const want = "the transition of fix did not end within 1.2s\nprocess 7 (held) waits in wait, called by f"
	if err.Error() != want || busy.Total != 1 || busy.Advice == "" {
		t.Errorf("%q, %+v", err, busy)
	}
	f.did(t, "load module", "fix/enabled = 0", "unload fix")
	if !strings.Contains(said, "waiting: process 7 (held) waits in wait, called by f\n") || !strings.Contains(said, "taking fix back\n") {
		t.Errorf("progress %q", said)
	}
}

func TestApplyCannotTakeBack(t *testing.T) {
	f := newFake()
	f.stuck[true], f.stuck[false] = true, true
	_, err := f.loader(Options{Timeout: 50 * time.Millisecond}).apply(t.Context(), fixPackage())
	if StateOf(err) != Unfinished || !strings.Contains(err.Error(), "the way back did not end either\nprocess 7 (held) waits in g") && !strings.Contains(err.Error(), "waits in wait, called by g") {
		t.Errorf("%v, %s", err, StateOf(err))
	}
	f.did(t, "load module", "fix/enabled = 0")
}

func TestApplyTakesBackButModuleStays(t *testing.T) {
	f := newFake()
	f.stuck[true], f.held = true, true
	_, err := f.loader(Options{Timeout: 50 * time.Millisecond}).apply(t.Context(), fixPackage())
	if StateOf(err) != RolledBack || !strings.Contains(err.Error(), "the module fix stays loaded without effect: something holds it") {
		t.Errorf("%v, %s", err, StateOf(err))
	}
}

func TestApplyInterrupted(t *testing.T) {
	f := newFake()
	f.stuck[true] = true
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	_, err := f.loader(Options{}).apply(ctx, fixPackage())
	var busy *BusyError
	if err == nil || errors.As(err, &busy) || StateOf(err) != RolledBack || err.Error() != "interrupted while tasks were switching" {
		t.Errorf("%v, %s", err, StateOf(err))
	}
	f.did(t, "load module", "fix/enabled = 0", "unload fix")
}

func TestApplyForced(t *testing.T) {
	f := newFake()
	f.stuck[true] = true
	res, err := f.loader(Options{Timeout: 30 * time.Millisecond, Force: true}).apply(t.Context(), fixPackage())
	if err != nil || !res.Forced {
		t.Fatalf("%+v, %v", res, err)
	}
	f.did(t, "load module", "fix/force = 1")
}

func TestApplyDisabledByOthers(t *testing.T) {
	f := newFake()
	f.stuck[true] = true
	looks := 0
	f.onLook = func(f *fake) {
		if looks++; looks == 12 {
			f.drop("sys/kernel/livepatch/fix")
		}
	}
	_, err := f.loader(Options{}).apply(t.Context(), fixPackage())
	if StateOf(err) != Unfinished || !strings.Contains(err.Error(), "by somebody else") {
		t.Errorf("%v, %s", err, StateOf(err))
	}
}

func TestApplyLoadFails(t *testing.T) {
	f := newFake()
	f.fail = errors.New("EBUSY")
	_, err := f.loader(Options{}).apply(t.Context(), fixPackage())
	var load *LoadError
	if !errors.As(err, &load) || StateOf(err) != Unchanged || len(load.Log) != 2 {
		t.Fatalf("%v, %s", err, StateOf(err))
	}
	for _, want := range []string{"load module fix: EBUSY: another livepatch is in transition", "\nkernel: livepatch: failed to register ftrace handler for function 'f' (-16)\n        something else redirects"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q lacks %q", err, want)
		}
	}
	f.did(t, "load module")
}

func TestApplyRefuses(t *testing.T) {
	f := newFake()
	f.put("proc/sys/kernel/osrelease", "6.12.2\n")
	_, err := f.loader(Options{}).apply(t.Context(), fixPackage())
	var list refusal.List
	if !errors.As(err, &list) || list[0].Code != refusal.WrongTarget || StateOf(err) != Unchanged {
		t.Errorf("%v", err)
	}
	res, err := f.loader(Options{IfFits: true}).apply(t.Context(), fixPackage())
	if err != nil || res.Skipped != "the package is for 6.12.1, this is 6.12.2" {
		t.Errorf("%+v, %v", res, err)
	}
	f.did(t)
}

func TestApplyBusy(t *testing.T) {
	f := newFake()
	f.patch("old", "1", "1")
	f.left, f.stuck[true] = 99, true
	f.drop("sys/kernel/livepatch/old/vmlinux")
	_, err := f.loader(Options{}).apply(t.Context(), fixPackage())
	var busy *BusyError
	if !errors.As(err, &busy) || StateOf(err) != Unchanged || !strings.Contains(err.Error(), "livepatch old is in transition (enabling)") {
		t.Errorf("%v", err)
	}
	f.did(t)
}

func TestDryRun(t *testing.T) {
	f := newFake()
	res, err := f.loader(Options{DryRun: true}).apply(t.Context(), fixPackage())
	if err != nil || !res.DryRun {
		t.Errorf("%+v, %v", res, err)
	}
	f.patch("fix", "1", "0")
	facts, err := kstate.Read(f.Files())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.loader(Options{DryRun: true}).revert(t.Context(), "fix", facts); err != nil {
		t.Error(err)
	}
	f.did(t)
}

// reverted applies, and then reverts with other options.
func reverted(t *testing.T, f *fake, opt Options) (*Reverted, error) {
	t.Helper()
	f.patch("fix", "1", "0")
	l := f.loader(opt)
	facts, err := l.facts()
	if err != nil {
		t.Fatal(err)
	}
	return l.revert(t.Context(), known(facts, "fix"), facts)
}

func TestRevert(t *testing.T) {
	f := newFake()
	r, err := reverted(t, f, Options{})
	if err != nil || !r.Unloaded || len(r.Functions) != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	f.did(t, "fix/enabled = 0", "unload fix")
}

func TestRevertTakesBack(t *testing.T) {
	f := newFake()
	f.stuck[false] = true
	_, err := reverted(t, f, Options{Timeout: 50 * time.Millisecond})
	var busy *BusyError
	if !errors.As(err, &busy) || StateOf(err) != RolledBack || !strings.HasSuffix(err.Error(), "process 7 (held) waits in wait, called by g") {
		t.Errorf("%v, %s", err, StateOf(err))
	}
	f.did(t, "fix/enabled = 0", "fix/enabled = 1")
	if f.state("fix", "transition") != "0" || f.state("fix", "enabled") != "1" {
		t.Error("it is not enabled again")
	}
}

func TestRevertForced(t *testing.T) {
	f := newFake()
	f.stuck[false], f.held = true, true
	r, err := reverted(t, f, Options{Timeout: 50 * time.Millisecond, Force: true})
	if err != nil || !r.Forced || r.Unloaded || !strings.Contains(r.Reason, "until the next boot") {
		t.Fatalf("%+v, %v", r, err)
	}
	f.did(t, "fix/enabled = 0", "fix/force = 1")
}

func TestRevertAll(t *testing.T) {
	f := newFake()
	f.patch("old", "1", "0")
	f.patch("fix", "1", "0")
	f.put("sys/kernel/livepatch/fix/stack_order", "1\n")
	f.put("sys/kernel/livepatch/old/stack_order", "2\n")
	f.put("sys/module/idle/initstate", "live\n")
	f.put("sys/module/idle/taint", "OEK\n")
	list, err := f.loader(Options{}).revertAll(t.Context())
	if err != nil || len(list) != 3 {
		t.Fatalf("%+v, %v", list, err)
	}
	f.did(t, "old/enabled = 0", "unload old", "fix/enabled = 0", "unload fix", "unload idle")
}

func TestRevertNothing(t *testing.T) {
	f := newFake()
	l := f.loader(Options{})
	facts, err := l.facts()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"fix", "other", "no/name", ".."} {
		_, err := l.revert(t.Context(), known(facts, name), facts)
		var list refusal.List
		if !errors.As(err, &list) || list[0].Code != refusal.NotApplied {
			t.Errorf("%s: %v", name, err)
		}
	}
	f.did(t)
}

func TestStatus(t *testing.T) {
	f := newFake()
	f.patch("fix", "0", "1")
	f.left, f.stuck[false] = 99, true
	f.put("proc/7/task/7/patch_state", "1\n")
	f.patch("old", "1", "0")
	f.drop("sys/kernel/livepatch/old")
	r, err := f.loader(Options{}).status()
	if err != nil || len(r.Patches) != 2 || r.Release != "6.12.1" || !r.Livepatch {
		t.Fatalf("%+v, %v", r, err)
	}
	if s := r.Patches[0]; s.State != "disabling" || s.Waiting != 1 || s.Tasks[0].Why(s.Code()) != "waits in wait, called by g" {
		t.Errorf("%+v", s)
	}
	if s := r.Patches[1]; s.Name != "old" || s.State != "no effect" {
		t.Errorf("%+v", s)
	}
}

func TestUnit(t *testing.T) {
	m := fixPackage().Manifest
	u, err := Unit("/usr/bin/livepatch", "/var/lib/100% safe/$fix.lpatch", m, []string{"--require-key", "/etc/a b.pub"})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`ExecStart="/usr/bin/livepatch" apply --kernel --if-fits "--require-key" "/etc/a b.pub" "/var/lib/100%% safe/$$fix.lpatch"` + "\n", `RequiresMountsFor="/var/lib/100%% safe/$fix.lpatch"` + "\n"} {
		if !strings.Contains(u, want) {
			t.Errorf("no %q in\n%s", want, u)
		}
	}
	for _, path := range []string{"a\nb", `a"b`, `a\b`} {
		if _, err := Unit("/x", path, m, nil); err == nil {
			t.Errorf("%q is accepted", path)
		}
	}
	if _, err := Unit("/$x", "/y", m, nil); err == nil {
		t.Error("a program with $ is accepted")
	}
	if _, err := Unit("/x", "/y", &manifest.Manifest{}, nil); err == nil {
		t.Error("a package for programs is accepted")
	}
}

func TestFactsHaveBPF(t *testing.T) {
	f := newFake()
	f.links = []kstate.BPFLink{{ID: 3, Kind: kstate.BPFModifyReturn, Function: "f", Program: "block"}}
	facts, err := f.loader(Options{}).read()
	if err != nil || facts.BPF != nil {
		t.Errorf("asked without need: %+v, %v", facts.BPF, err)
	}
	f.put("sys/kernel/tracing/enabled_functions", "f (1)     D\n\tdirect-->bpf_trampoline_1+0x0/0x1\n")
	res, err := f.loader(Options{}).apply(t.Context(), fixPackage())
	if err != nil || len(res.Warnings) != 1 || !strings.HasPrefix(res.Warnings[0], `vmlinux: f: BPF program "block" (fmod_ret, link 3): can end the call`) {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestModuleFile(t *testing.T) {
	files := fstest.MapFS{"lib/modules/6.1/modules.dep": {Data: []byte("kernel/a-b.ko.xz: kernel/c.ko\nkernel/c.ko:\n")}, "lib/modules/6.1/kernel/c.ko": {Data: []byte("not ELF")}}
	for name, want := range map[string]string{"a_b": "read /lib/modules/6.1/kernel/a-b.ko.xz: ", "c": "read /lib/modules/6.1/kernel/c.ko: ", "d": "/lib/modules/6.1/modules.dep does not list it"} {
		if _, _, err := moduleFile(files, "6.1", name); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	if _, _, err := moduleFile(files, "../6.1", "c"); err == nil {
		t.Error("a release with a slash is accepted")
	}
}
