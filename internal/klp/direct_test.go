package klp

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"livepatch/internal/pack"
	"livepatch/manifest"
)

// A directFake is a kernel without a livepatch core that loads the modules of
// direct calls.
type directFake struct {
	*fake
	refuse map[string]error // of what is loaded or written
	closed bool             // modules load with their gate closed
}

func newDirectFake() *directFake {
	f := &directFake{fake: newFake(), refuse: map[string]error{}}
	delete(f.files, "sys/kernel/livepatch")
	return f
}

func (f *directFake) Load(module []byte) error {
	name := string(module)
	f.note("load %s", name)
	if err := f.refuse[name]; err != nil {
		return err
	}
	f.put("sys/module/"+name+"/initstate", "live\n")
	if name != manifest.BaseModule {
		gate := "Y\n"
		if f.closed {
			gate = "N\n"
		}
		f.files["sys/module/livepatch_direct/holders/"+name] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
		f.put("sys/module/"+name+"/parameters/enabled", gate)
		f.put("sys/module/"+name+"/parameters/functions", "f,0\n")
	}
	return nil
}

func (f *directFake) Write(name, text string) error {
	short := strings.TrimSuffix(strings.TrimPrefix(name, "sys/module/"), "/parameters/enabled")
	f.note("%s = %s", short, text)
	if err := f.refuse[short+text]; err != nil {
		return &fs.PathError{Op: "write", Path: name, Err: err}
	}
	f.put(name, map[string]string{"0": "N\n", "1": "Y\n"}[text])
	return nil
}

func (f *directFake) loader(opt Options) *loader {
	l := f.fake.loader(opt)
	l.system = f
	return l
}

func directPackage(name string) *pack.Package {
	pkg := fixPackage()
	k := pkg.Manifest.Kernel
	k.Module, k.Flavour, k.Replace = name, manifest.FlavourDirect, true
	k.Base = &manifest.KernelBase{Module: manifest.BaseModule, Payload: manifest.Payload{Member: manifest.BaseMember}}
	pkg.Members = map[string][]byte{manifest.KernelMember: []byte(name), manifest.BaseMember: []byte(manifest.BaseModule)}
	return pkg
}

// TestApplyDirect loads the base module once, opens before it closes, and puts a
// patch on again whose module is there.
func TestApplyDirect(t *testing.T) {
	f := newDirectFake()
	for _, name := range []string{"one", "two", "one"} {
		res, err := f.loader(Options{}).apply(t.Context(), directPackage(name))
		if err != nil {
			t.Fatal(err)
		}
		if res.Flavour != manifest.FlavourDirect {
			t.Errorf("%+v", res)
		}
	}
	f.did(t, "load livepatch_direct", "load one", "load two", "one = 0", "one = 1", "two = 0")
	st, err := f.loader(Options{}).status()
	if err != nil || len(st.Patches) != 2 || st.Patches[0].State != "enabled" || st.Patches[1].State != "retired" || st.Livepatch {
		t.Errorf("%+v, %v", st, err)
	}
}

func TestApplyDirectFails(t *testing.T) {
	busy := errors.New("EBUSY")
	for _, tc := range []struct {
		name  string
		setup func(f *directFake)
		text  string
		did   []string
	}{
		{"base module", func(f *directFake) { f.refuse["livepatch_direct"] = busy }, "load module livepatch_direct: EBUSY", []string{"load livepatch_direct"}},
		{"module", func(f *directFake) { f.refuse["one"] = busy }, "load module one: EBUSY: another livepatch", []string{"load livepatch_direct", "load one", "unload livepatch_direct"}},
		{"module that is there", func(f *directFake) {
			l := f.loader(Options{})
			if _, err := l.apply(t.Context(), directPackage("one")); err != nil {
				t.Fatal(err)
			}
			f.put("sys/module/one/parameters/enabled", "N\n")
			f.refuse["one1"] = busy
		}, "enable module one: write 1 to /sys/module/one/parameters/enabled: EBUSY", []string{"load livepatch_direct", "load one", "one = 1"}},
		{"gate stays closed", func(f *directFake) { f.closed = true }, "one does not say that it is on", []string{"load livepatch_direct", "load one", "unload livepatch_direct"}},
	} {
		f := newDirectFake()
		tc.setup(f)
		_, err := f.loader(Options{}).apply(t.Context(), directPackage("one"))
		if err == nil || StateOf(err) != Unchanged || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: %v, %s", tc.name, err, StateOf(err))
		}
		f.did(t, tc.did...)
	}
}

// TestApplyDirectLeaves says so when what is replaced cannot be taken off.
func TestApplyDirectLeaves(t *testing.T) {
	f := newDirectFake()
	f.refuse["one0"] = errors.New("EIO")
	for _, name := range []string{"one", "two"} {
		res, err := f.loader(Options{}).apply(t.Context(), directPackage(name))
		if err != nil {
			t.Fatal(err)
		}
		if name == "two" && (len(res.Warnings) == 0 || !strings.Contains(strings.Join(res.Warnings, "\n"), "one could not be taken off: write 0 to /sys/module/one/parameters/enabled: EIO") || res.Replaced[0].Reason == "") {
			t.Errorf("%+v", res)
		}
	}
}

func TestRevertDirect(t *testing.T) {
	f := newDirectFake()
	if _, err := f.loader(Options{}).apply(t.Context(), directPackage("one")); err != nil {
		t.Fatal(err)
	}
	f.done = nil
	for _, want := range []string{"dry", "done", "again"} {
		l := f.loader(Options{DryRun: want == "dry"})
		facts, err := l.facts()
		if err != nil {
			t.Fatal(err)
		}
		res, err := l.revert(t.Context(), "one", facts)
		if want == "again" {
			if err == nil || !strings.Contains(err.Error(), "one is retired") || StateOf(err) != Unchanged {
				t.Errorf("%+v, %v", res, err)
			}
			continue
		}
		if err != nil || res.Unloaded || len(res.Functions) != 1 || res.Flavour != manifest.FlavourDirect {
			t.Errorf("%s: %+v, %v", want, res, err)
		}
	}
	f.did(t, "one = 0")
	if list, err := f.loader(Options{}).revertAll(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("nothing is on: %+v, %v", list, err)
	}
}

// TestRevertDirectFails tells whether the gate was closed.
func TestRevertDirectFails(t *testing.T) {
	f := newDirectFake()
	if _, err := f.loader(Options{}).apply(t.Context(), directPackage("one")); err != nil {
		t.Fatal(err)
	}
	f.refuse["one0"] = errors.New("EIO")
	for _, want := range []Outcome{Unchanged, Partly} {
		l := f.loader(Options{})
		facts, err := l.facts()
		if err != nil {
			t.Fatal(err)
		}
		f.put("sys/module/one/parameters/enabled", map[Outcome]string{Unchanged: "Y\n", Partly: "N\n"}[want])
		if _, err := l.revert(t.Context(), "one", facts); StateOf(err) != want {
			t.Errorf("%v: %s, want %s", err, StateOf(err), want)
		}
	}
}
