package kstate

import (
	"errors"
	"io/fs"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"livepatch/manifest"
)

// directTree is a kernel with two patches of direct calls, of which one was
// taken off, and a module that failed to load.
func directTree() fstest.MapFS {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	dir := &fstest.MapFile{Mode: fs.ModeDir | 0o755}
	return fstest.MapFS{
		"sys/module/livepatch_direct/initstate":    file("live\n"),
		"sys/module/livepatch_direct/holders/on":   dir,
		"sys/module/livepatch_direct/holders/off":  dir,
		"sys/module/livepatch_direct/holders/gone": dir,
		"sys/module/on/parameters/enabled":         file("Y\n"),
		"sys/module/on/parameters/functions":       file("f,0 g,2 cut\n"),
		"sys/module/off/parameters/enabled":        file("N\n"),
		"sys/module/off/parameters/functions":      file("f,0\n"),
		"sys/module/off/parameters/dispatch":       file("shared\n"),
	}
}

func TestReadDirect(t *testing.T) {
	got, err := ReadDirect(directTree())
	if err != nil {
		t.Fatal(err)
	}
	want := []Patch{
		{Name: "off", Flavour: "direct", Dispatch: "shared", Objects: []PatchObject{{Name: "vmlinux", Functions: []PatchFunction{{"f", 1}}}}},
		{Name: "on", Flavour: "direct", Enabled: true, Objects: []PatchObject{{Name: "vmlinux", Functions: []PatchFunction{{"f", 1}, {"g", 2}}}}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	if c := got[0].Condition() + " " + got[1].Condition(); c != "retired enabled" {
		t.Errorf("conditions %s", c)
	}
	if got, err := ReadDirect(fstest.MapFS{}); got != nil || err != nil {
		t.Errorf("a kernel without such patches: %v, %v", got, err)
	}
	if _, err := ReadDirect(brokenFS{directTree()}); err == nil {
		t.Error("no error for a file that cannot be read")
	}
}

// brokenFS cannot open the list of functions.
type brokenFS struct{ fstest.MapFS }

func (b brokenFS) Open(name string) (fs.File, error) {
	if name == "sys/module/on/parameters/functions" {
		return nil, errors.New("it is broken")
	}
	return b.MapFS.Open(name)
}

func directPlan(replace bool) Plan {
	p := planOf("f", replace)
	p.Kernel.Flavour = manifest.FlavourDirect
	return p
}

func sharedPlan(replace bool) Plan {
	p := directPlan(replace)
	p.Kernel.Dispatch = manifest.DispatchShared
	return p
}

// TestDirectConflicts is about who can share a function with direct calls.
func TestDirectConflicts(t *testing.T) {
	klp := Patch{Name: "klp", Enabled: true, Objects: []PatchObject{{Name: "vmlinux", Functions: []PatchFunction{{"f", 1}}}}}
	on := klp
	on.Name, on.Flavour = "on", manifest.FlavourDirect
	off := on
	off.Name, off.Enabled = "off", false
	shared, sharedOff := on, off
	shared.Name, shared.Dispatch = "shared", manifest.DispatchShared
	sharedOff.Name, sharedOff.Dispatch = "kept", manifest.DispatchShared
	handled := []Traced{{Function: "f", Count: 1, Flags: "I", Owners: []string{sharedHandler}}}
	ours := Traced{Function: "f", Count: 1, Flags: "D", Direct: "direct.f [on]"}
	for _, tc := range []struct {
		name  string
		plan  Plan
		facts Facts
		want  []string
	}{
		{"older version", directPlan(true), Facts{Patches: []Patch{on, off}, Traced: []Traced{ours}}, []string{"livepatch none on"}},
		{"version beneath", directPlan(false), Facts{Patches: []Patch{on}, Traced: []Traced{ours}}, []string{"livepatch defeats on"}},
		{"livepatch core", directPlan(true), Facts{Patches: []Patch{klp}, Traced: []Traced{{Function: "f", Flags: "I", Owners: []string{klpHandler}}}}, []string{"livepatch blocks klp"}},
		{"of the core, on a direct call", planOf("f", true), Facts{Patches: []Patch{on}, Traced: []Traced{ours}}, []string{"livepatch blocks on"}},
		{"taken off", planOf("f", true), Facts{Patches: []Patch{off}}, nil},
		{"call of others", directPlan(true), Facts{Traced: []Traced{{Function: "f", Flags: "D", Direct: "tramp [m]"}}}, []string{"direct-call blocks tramp [m]"}},
		{"BPF", directPlan(true), Facts{Traced: []Traced{{Function: "f", Flags: "D", Direct: "bpf_trampoline_1"}}}, []string{"bpf blocks bpf_trampoline_1"}},
		{"handler, older version", sharedPlan(true), Facts{Patches: []Patch{shared, sharedOff}, Traced: handled}, []string{"livepatch none shared"}},
		{"handler, a place that is kept", sharedPlan(true), Facts{Patches: []Patch{sharedOff}, Traced: handled}, nil},
		{"handler, of the core", sharedPlan(true), Facts{Patches: []Patch{klp}, Traced: []Traced{{Function: "f", Flags: "I", Owners: []string{klpHandler}}}}, []string{"livepatch blocks klp"}},
		{"handler, a direct call", sharedPlan(true), Facts{Patches: []Patch{on}, Traced: []Traced{ours}}, []string{"livepatch blocks on"}},
		{"handler, BPF", sharedPlan(true), Facts{Injectable: map[string]bool{}, Traced: []Traced{{Function: "f", Flags: "D", Direct: "bpf_trampoline_1"}}}, []string{"bpf none bpf_trampoline_1"}},
		{"handler, a kprobe", sharedPlan(true), Facts{Traced: []Traced{{Function: "f", Flags: "I", Owners: []string{kprobeHandler}}}}, []string{"post-handler blocks " + kprobeHandler}},
		{"of the core, on the handler", planOf("f", true), Facts{Patches: []Patch{shared}, Traced: handled}, []string{"livepatch blocks shared"}},
		{"of the core, on a place that is kept", planOf("f", true), Facts{Patches: []Patch{sharedOff}, Traced: handled}, []string{"redirect blocks kept"}},
		{"direct, on a place that is kept beside BPF", directPlan(true), Facts{Patches: []Patch{sharedOff}, Traced: []Traced{{Function: "f", Count: 2, Flags: "RID", Owners: []string{listHandler}, Direct: "bpf_trampoline_1"}}},
			[]string{"redirect blocks kept", "bpf blocks bpf_trampoline_1"}},
		{"direct, on the handler of nobody", directPlan(true), Facts{Traced: handled}, []string{"redirect blocks " + sharedHandler}},
		{"tracer beside it", directPlan(true), Facts{Patches: []Patch{on}, Traced: []Traced{{Function: "f", Count: 2, Flags: "RD", Direct: "direct.f [on]", Owners: []string{"call_direct_funcs", "tracer"}}}},
			[]string{"livepatch none on", "tracer none tracer"}},
	} {
		var got []string
		for _, c := range Conflicts([]Plan{tc.plan}, &tc.facts) {
			got = append(got, c.Kind+" "+string(c.Effect)+" "+c.Who)
		}
		if d := cmp.Diff(tc.want, got); d != "" {
			t.Errorf("%s: (-want +got)\n%s", tc.name, d)
		}
	}
	for _, b := range []Plan{planOf("f", true), sharedPlan(true)} {
		if got := Conflicts([]Plan{directPlan(true), b}, &Facts{}); len(got) != 1 || got[0].Kind != KindPackage || got[0].Effect != Blocks {
			t.Errorf("packages of two ways: %+v", got)
		}
	}
}

// TestJudgeBase refuses a base module of another version.
func TestJudgeBase(t *testing.T) {
	plan := directPlan(true)
	plan.Base = "2"
	for version, want := range map[string]string{"2": "", "1": "base-module", "": "base-module"} {
		v := judged(t, plan, func(f *Facts) {
			f.Modules = append(f.Modules, Module{Name: manifest.BaseModule, State: "live", Version: version})
		})
		if got := codes(v.Refusals); got != want {
			t.Errorf("version %q: %q, want %q", version, got, want)
		}
	}
}

// TestJudgeDirect needs no livepatch core, and replaces patches of its own flavour.
func TestJudgeDirect(t *testing.T) {
	on := Patch{Name: "on", Flavour: manifest.FlavourDirect, Enabled: true, Objects: []PatchObject{{Name: "vmlinux", Functions: []PatchFunction{{"other", 1}}}}}
	plan := directPlan(true)
	v := judged(t, plan, func(f *Facts) { f.Livepatch = false; f.Patches = append(f.Patches, on) })
	if len(v.Refusals) > 0 || !cmp.Equal(v.Replaces, []string{"on"}) || v.Loaded {
		t.Errorf("%+v", v)
	}
	plan.Kernel.Module, plan.BuildID = "on", "0a"
	retired := on
	retired.Enabled = false
	for _, tc := range []struct {
		name, build string
		patch       Patch
		want        string
		loaded      bool
	}{
		{"on", "0a", on, "already-applied", false},
		{"taken off", "0a", retired, "", true},
		{"taken off, of another package", "0b", retired, "already-applied", false},
	} {
		v := judged(t, plan, func(f *Facts) {
			f.Patches = append(f.Patches, tc.patch)
			f.Modules = append(f.Modules, Module{Name: "on", State: "live", BuildID: tc.build})
		})
		if codes(v.Refusals) != tc.want || v.Loaded != tc.loaded {
			t.Errorf("%s: %+v", tc.name, v)
		}
	}
}
