package kstate

import (
	"encoding/base64"
	"encoding/hex"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"livepatch/internal/refusal"
	"livepatch/manifest"
)

// captured returns the files of a real machine, written by TestCapture of
// internal/klp.
func captured(t testing.TB) fstest.MapFS {
	t.Helper()
	a, err := txtar.ParseFile("testdata/6.12.txtar")
	if err != nil {
		t.Fatal(err)
	}
	files := fstest.MapFS{}
	for _, f := range a.Files {
		if dir, ok := strings.CutSuffix(f.Name, "/"); ok {
			files[dir] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
			continue
		}
		name, encoded := strings.CutSuffix(f.Name, ".base64")
		if encoded {
			if f.Data, err = base64.StdEncoding.DecodeString(strings.ReplaceAll(string(f.Data), "\n", "")); err != nil {
				t.Fatal(err)
			}
		}
		files[name] = &fstest.MapFile{Data: f.Data}
	}
	return files
}

func text(t testing.TB, files fstest.MapFS, name string) []byte {
	t.Helper()
	b, err := fs.ReadFile(files, name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const buildIDOf612 = "7f76f39faf07f34cfa9fadd801e131bfa8cb6dc3"

func TestRead(t *testing.T) {
	f, err := Read(captured(t))
	if err != nil {
		t.Fatal(err)
	}
	if f.Release != "6.12.117+deb12-cloud-amd64" || f.BuildID != buildIDOf612 || !f.Livepatch || !f.BTF || f.SigEnforce || f.Lockdown != "none" ||
		f.ModulesDisabled || !f.FtraceEnabled || !f.CanLoad || len(f.Unknown) != 0 || f.Injectable != nil && len(f.Injectable) != 0 {
		t.Errorf("%+v", f)
	}
	no, yes := false, true
	want := []Patch{
		{Name: "lp_all", Enabled: true, Replace: &yes, Objects: []PatchObject{{"vmlinux", &yes, []PatchFunction{{"cmdline_proc_show", 1}}}}},
		{Name: "lp_busy", Enabled: true, Transition: true, Replace: &no, Objects: []PatchObject{{"vmlinux", &yes, []PatchFunction{{"fifo_open", 1}}}}},
	}
	if d := cmp.Diff(want, f.Patches); d != "" {
		t.Errorf("livepatches (-want +got)\n%s", d)
	}
	if m := f.Module("xfs"); m == nil || m.State != "live" || len(m.BuildID) != 40 || m.Taint != "" {
		t.Errorf("xfs: %+v", m)
	}
	if m := f.Module("lp_one"); m == nil || m.Taint != "OEK" || m.Refs != 0 {
		t.Errorf("lp_one: %+v", m)
	}
	if m := f.Module("lp_busy"); m == nil || m.Refs != 1 {
		t.Errorf("lp_busy: %+v", m)
	}
	if f.Module("module") != nil || f.Patch("lp_one") != nil {
		t.Error("a built-in module counts as loaded, or a replaced livepatch as one")
	}
}

// A reader without rights, or a machine without tracefs, has unknown facts; a
// directory that is no machine is an error.
func TestReadIncomplete(t *testing.T) {
	files := captured(t)
	maps.DeleteFunc(files, func(name string, _ *fstest.MapFile) bool {
		return strings.HasPrefix(name, "sys/kernel/tracing") || strings.HasPrefix(name, "sys/kernel/debug") || name == "proc/self/status"
	})
	f, err := Read(files)
	if err != nil {
		t.Fatal(err)
	}
	want := []Unknown{
		{"the users of ftrace", "/sys/kernel/tracing/enabled_functions: file does not exist"},
		{"the kprobes", "/sys/kernel/debug/kprobes/list: file does not exist"},
	}
	if d := cmp.Diff(want, f.Unknown); d != "" || f.CanLoad {
		t.Errorf("can load: %v; unknown (-want +got)\n%s", f.CanLoad, d)
	}
	files["sys/kernel/debug/bdi"] = &fstest.MapFile{} // a kernel without kprobes, with debugfs
	if f, err = Read(files); err != nil || !slices.Equal(f.Unknown, want[:1]) {
		t.Errorf("without kprobes: %v, %v", f.Unknown, err)
	}
	if _, err := Read(fstest.MapFS{}); err == nil {
		t.Error("an empty tree is a kernel")
	}
}

func TestParseEnabledFunctions(t *testing.T) {
	files := captured(t)
	want := []Traced{
		{"fifo_open", "", 1, "IM", []string{"klp_ftrace_handler"}, ""},
		{"cmdline_proc_show", "", 1, "IM", []string{"klp_ftrace_handler"}, ""},
		{"loadavg_proc_show", "", 1, "", []string{"function_trace_call"}, ""},
		{"stat_open", "", 1, "R", []string{"kprobe_ftrace_handler"}, ""},
		{"uptime_proc_show", "", 1, "R", []string{"kprobe_ftrace_handler"}, ""},
		{"version_proc_show", "", 1, "RIM", []string{"kprobe_ftrace_handler"}, ""},
	}
	if d := cmp.Diff(want, ParseEnabledFunctions(text(t, files, "sys/kernel/tracing/enabled_functions"))); d != "" {
		t.Errorf("captured (-want +got)\n%s", d)
	}
	for _, tc := range []struct {
		in   string
		want []Traced
	}{
		{"", nil},
		{"direct-->bpf_trampoline_1+0x0/0x9\n", nil},
		{"f (1)\n", []Traced{{"f", "", 1, "", nil, ""}}},
		{"ffffffff81000000 f [m] (3) R I D O M \ttramp: 0xffffffffc0 (a+0x0/0x1 [x]) ->b+0x0/0x2\ttramp: 0xc1 (c+0x0/0x1)\tops: o+0x0/0x1 (d+0x0/0x1)\n\tdirect-->bpf_trampoline_6442537012+0x0/0x9\n",
			[]Traced{{"f", "m", 3, "RIDOM", []string{"b", "a [x]", "c", "d"}, "bpf_trampoline_6442537012"}}},
		{"f (2)     D   ->call_direct_funcs+0x0/0x20\n\tdirect-->my_tramp+0x0/0x9 [direct]\n", []Traced{{"f", "", 2, "D", []string{"call_direct_funcs"}, "my_tramp [direct]"}}},
		{"a b c (1)\nf (x)\nf (-1)\nf (1\n__ftrace_invalid_address___64\n", nil},
		{"f (1) R I     M \ttramp: ERROR!\n", []Traced{{"f", "", 1, "RIM", nil, ""}}},
	} {
		if d := cmp.Diff(tc.want, ParseEnabledFunctions([]byte(tc.in))); d != "" {
			t.Errorf("%q (-want +got)\n%s", tc.in, d)
		}
	}
}

func TestParseKprobes(t *testing.T) {
	files := captured(t)
	var got []string
	for _, k := range ParseKprobes(text(t, files, "sys/kernel/debug/kprobes/list")) {
		got = append(got, k.String())
		if k.Ftrace == strings.Contains(k.String(), "+0xa") || k.Address == 0 || k.Disabled || k.Module != "" {
			t.Errorf("%+v", k)
		}
	}
	want := []string{"kprobe stat_open+0x4", "kprobe cmdline_proc_show+0xa", "kprobe version_proc_show+0x4", "kretprobe uptime_proc_show+0x4"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("captured (-want +got)\n%s", d)
	}
	for _, tc := range []struct {
		in   string
		want []Kprobe
	}{
		{"0000000000000000  r  f+0x0  m [DISABLED][FTRACE]\n", []Kprobe{{0, true, "f", 0, "m", true, true}}},
		{"ff  k  f+0x1f/0x30 [m] [GONE]\n", []Kprobe{{0xff, false, "f", 0x1f, "m", false, true}}},
		{"ff  k  f+0x1    [OPTIMIZED]\n", []Kprobe{{0xff, false, "f", 1, "", false, false}}},
		{"ff  x  f+0x1\nzz  k  f+0x1\nff  k  f\nff  k  +0x1\nff  k  f+0xq\nff\n", nil},
	} {
		if d := cmp.Diff(tc.want, ParseKprobes([]byte(tc.in))); d != "" {
			t.Errorf("%q (-want +got)\n%s", tc.in, d)
		}
	}
}

func TestHolders(t *testing.T) {
	files := captured(t)
	list, n, err := Holders(files, true)
	if err != nil || n != 1 || len(list) != 1 {
		t.Fatalf("%+v, %d, %v", list, n, err)
	}
	task := list[0]
	if task.Name != "cat" || task.State != "S" || task.Kernel || len(task.Stack) != 10 || task.Stack[1] != "fifo_open" {
		t.Errorf("%+v", task)
	}
	if got := task.Why(Code{Functions: []string{"fifo_open"}}); got != "waits in wait_for_partner, called by fifo_open" {
		t.Error(got)
	}
	list, n, err = Holders(files, false)
	if err != nil || n != 1 || !list[0].Kernel || list[0].Who() != "kernel thread 2 (kthreadd)" {
		t.Errorf("%+v, %d, %v", list, n, err)
	}
}

func TestTaskWhy(t *testing.T) {
	code := Code{Functions: []string{"f", "g"}}
	for _, tc := range []struct {
		task Task
		code Code
		want string
	}{
		{Task{Stack: []string{"f", "x"}}, code, "is in f"},
		{Task{Stack: []string{"wait", "f", "g", "x"}}, code, "waits in wait, called by g"},
		{Task{Stack: []string{"wait", "f [fix]"}}, Code{Module: "fix"}, "waits in wait, called by f"},
		{Task{State: "S", Stack: []string{"wait", "f"}}, Code{Module: "fix"}, "waits in wait with a stack that the kernel does not trust"},
		{Task{State: "R", Stack: []string{"x"}}, code, "runs and has not left the kernel since"},
		{Task{State: "S"}, code, "has a stack that cannot be read"},
		{Task{State: "S", Kernel: true, Stack: []string{"wait"}}, code, "waits in wait and switches when it wakes up"},
	} {
		if got := tc.task.Why(tc.code); got != tc.want {
			t.Errorf("%+v: %q, want %q", tc.task, got, tc.want)
		}
	}
	for want, task := range map[string]Task{
		"process 3 (a b)":           {PID: 3, TID: 3, Name: "a b"},
		"thread 4 of process 3 (x)": {PID: 3, TID: 4, Name: "x"},
	} {
		if task.Who() != want {
			t.Errorf("%q, want %q", task.Who(), want)
		}
	}
	var odd Task
	odd.stat("5 (x) S) R 1 1 1 1 1 2097216")
	if odd.Name != "x) S" || odd.State != "R" || !odd.Kernel {
		t.Errorf("%+v", odd)
	}
}

func TestRecords(t *testing.T) {
	r, ok := ParseRecord([]byte("36,1234,5678901,-,caller=T1;livepatch: symbol 'a\\x09b' not found in symbol table\n SUBSYSTEM=x\n"))
	if !ok || r != (Record{Level: 4, Sequence: 1234, Micros: 5678901, Text: "livepatch: symbol 'a\tb' not found in symbol table"}) {
		t.Errorf("%+v", r)
	}
	for _, bad := range []string{"", "1,2,3;x", "x,1,2,-;y", "1,x,2,-;y", "1,2,x,-;y", "no record"} {
		if r, ok := ParseRecord([]byte(bad)); ok {
			t.Errorf("%q: %+v", bad, r)
		}
	}
	all := []Record{{Text: "eth0: up"}, {Text: "fix: loading out-of-tree module taints kernel."}, {Text: r.Text},
		{Text: "Missing ENDBR: f+0x0/0x9 [fix]"}, {Text: "livepatch: something new"}, {Text: "anything about fix"}}
	got := Relevant(all, "fix")
	if len(got) != 5 || got[1].Meaning == "" || got[0].Meaning != "" || !got[2].Trouble() || got[1].Trouble() {
		t.Errorf("%+v", got)
	}
}

// Every row of the tables has what it needs, and the first row that fits a
// message is its own.
func TestMessages(t *testing.T) {
	for i := range messages {
		m := &messages[i]
		if m.Source == "" || m.Pattern == "" || !strings.Contains(m.Source, "6.12") {
			t.Errorf("row %q has no source with a version", m.Pattern)
		}
		if got := messageOf(strings.ReplaceAll(m.Pattern, "…", "x")); got != m {
			t.Errorf("%q is shadowed by %q", m.Pattern, got.Pattern)
		}
	}
	for _, e := range errnos {
		if ErrnoMeaning(e.Name) == "" || e.Source == "" {
			t.Errorf("%s: no meaning or source", e.Name)
		}
	}
	if ErrnoMeaning("ENOTTY") != "" {
		t.Error("ENOTTY means something")
	}
}

func TestSigned(t *testing.T) {
	magic := "~Module signature appended~\n"
	info := "\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x03"
	for in, want := range map[string]bool{
		"":                          false,
		magic:                       false,
		"ELF" + info + magic:        true,
		"EL" + info + magic:         false,
		"ELF" + info + magic + "\n": false,
		"ELF" + strings.Repeat("\x00", 12) + magic: false,
	} {
		if Signed([]byte(in)) != want {
			t.Errorf("%q: %v", in, !want)
		}
	}
}

func TestBuildID(t *testing.T) {
	big := "\x00\x00\x00\x04\x00\x00\x00\x02\x00\x00\x00\x03GNU\x00\xab\xcd"
	if got := hex.EncodeToString(BuildID([]byte(big))); got != "abcd" {
		t.Errorf("big-endian: %q", got)
	}
	if got := BuildID([]byte(strings.Repeat("\xff", 64))); got != nil {
		t.Errorf("%x of garbage", got)
	}
}

// planOf is a package for the captured machine that replaces a function.
func planOf(function string, replace bool) Plan {
	id, _ := hex.DecodeString(buildIDOf612)
	return Plan{Name: "fix", Kernel: &manifest.Kernel{
		Release: "6.12.117+deb12-cloud-amd64", BuildID: id, Module: "fix", Replace: replace,
		Objects: []manifest.KernelObject{{Name: manifest.Vmlinux, BuildID: id, Functions: []manifest.KernelFunction{{Name: function}}}},
	}}
}

// judged is the verdict on a package with the facts, changed.
func judged(t *testing.T, plan Plan, change func(*Facts)) *Verdict {
	t.Helper()
	f, err := Read(captured(t))
	if err != nil {
		t.Fatal(err)
	}
	f.Patches = slices.DeleteFunc(f.Patches, func(p Patch) bool { return p.Transition })
	if change != nil {
		change(f)
	}
	return Judge(plan, []byte("module"), f)
}

func codes(l refusal.List) string {
	var words []string
	for _, r := range l {
		words = append(words, string(r.Code))
	}
	return strings.Join(words, " ")
}

func TestJudge(t *testing.T) {
	kernel := func(change func(*manifest.Kernel)) func(*Plan) { return func(p *Plan) { change(p.Kernel) } }
	xfs := func(id, version string) func(*Plan) {
		return kernel(func(k *manifest.Kernel) {
			k.Objects = append(k.Objects, manifest.KernelObject{Name: "xfs", BuildID: manifest.Hex(id), Srcversion: version})
		})
	}
	for _, tc := range []struct {
		name   string
		plan   func(*Plan)
		facts  func(*Facts)
		want   string // refusals
		text   string // in the first
		others func(*Verdict) bool
	}{
		{name: "fits"},
		{name: "release", plan: kernel(func(k *manifest.Kernel) { k.Release = "6.12.118" }), want: "wrong-target", text: "the package is for 6.12.118, this is 6.12.117",
			others: func(v *Verdict) bool { return v.Foreign }},
		{name: "build", plan: kernel(func(k *manifest.Kernel) { k.BuildID = manifest.Hex{1} }), want: "wrong-target", text: "the build 01 of", others: func(v *Verdict) bool { return v.Foreign }},
		{name: "no build-id", facts: func(f *Facts) { f.BuildID = "" }, want: "wrong-target"},
		{name: "no core", facts: func(f *Facts) { f.Livepatch = false }, want: "no-livepatch"},
		{name: "no modules", facts: func(f *Facts) { f.ModulesDisabled = true }, want: "modules-disabled"},
		{name: "no right", facts: func(f *Facts) { f.CanLoad = false }, want: "no-permission"},
		{name: "no ftrace", facts: func(f *Facts) { f.FtraceEnabled = false }, want: "ftrace-disabled"},
		{name: "enforced", facts: func(f *Facts) { f.SigEnforce = true }, want: "module-signature"},
		{name: "lockdown", facts: func(f *Facts) { f.Lockdown = "integrity" }, want: "module-signature"},
		{name: "all at once", facts: func(f *Facts) { f.SigEnforce, f.FtraceEnabled, f.CanLoad = true, false, false }, want: "no-permission ftrace-disabled module-signature"},
		{name: "applied", plan: kernel(func(k *manifest.Kernel) { k.Module = "lp_all" }), want: "already-applied", text: "livepatch lp_all is enabled",
			others: func(v *Verdict) bool { return v.Applied && !v.Foreign }},
		{name: "applied from this package", plan: func(p *Plan) { p.Kernel.Module, p.BuildID = "lp_all", "0a" }, facts: func(f *Facts) { f.Module("lp_all").BuildID = "0a" }, want: "already-applied",
			others: func(v *Verdict) bool { return v.Applied }},
		{name: "applied from another package", plan: func(p *Plan) { p.Kernel.Module, p.BuildID = "lp_all", "0a" }, facts: func(f *Facts) { f.Module("lp_all").BuildID = "0b" }, want: "already-applied",
			text: "from another package: its module is build 0b, that of this package 0a", others: func(v *Verdict) bool { return !v.Applied }},
		{name: "replaced before", plan: kernel(func(k *manifest.Kernel) { k.Module = "lp_one" }), want: "already-applied", text: "livepatch revert --kernel lp_one unloads it"},
		{name: "other module", plan: kernel(func(k *manifest.Kernel) { k.Module = "xfs" }), want: "already-applied", text: "which is no livepatch"},
		{name: "other in transition", facts: func(f *Facts) { f.Patches[0].Transition = true }, others: func(v *Verdict) bool { return strings.Contains(v.Busy, "lp_all is in transition") }},
		{name: "itself in transition", plan: kernel(func(k *manifest.Kernel) { k.Module = "lp_all" }), facts: func(f *Facts) { f.Patches[0].Transition = true },
			others: func(v *Verdict) bool { return v.Busy != "" }},
		{name: "wrong module", plan: xfs("\x01", ""), want: "wrong-target", text: "the package is for build 01, loaded is build"},
		{name: "module without identity", plan: xfs("\x01", ""), facts: func(f *Facts) { f.Module("xfs").BuildID = "" }, want: "wrong-target", text: "neither build-id nor srcversion"},
		{name: "wrong srcversion", plan: xfs("\x01", "A"), facts: func(f *Facts) { *f.Module("xfs") = Module{Name: "xfs", State: "live", Srcversion: "B"} }, want: "wrong-target", text: "srcversion"},
		{name: "srcversion", plan: xfs("\x01", "A"), facts: func(f *Facts) { *f.Module("xfs") = Module{Name: "xfs", State: "live", Srcversion: "A"} }},
		{name: "module is loading", plan: xfs("\x01", ""), facts: func(f *Facts) { f.Module("xfs").State = "coming" }, others: func(v *Verdict) bool { return v.Busy == "module xfs is coming" }},
		{name: "module later", plan: xfs("\x01", ""), facts: func(f *Facts) { f.Module("xfs").Name = "ext4" }, others: func(v *Verdict) bool { return slices.Equal(v.Later, []string{"xfs"}) }},
		{name: "replaces and loses", plan: kernel(func(k *manifest.Kernel) { k.Replace = true }), others: func(v *Verdict) bool {
			return slices.Equal(v.Replaces, []string{"lp_all"}) && len(v.Warnings) == 1 && strings.Contains(v.Warnings[0], "its versions of cmdline_proc_show")
		}},
		{name: "unknown", facts: func(f *Facts) { f.Unknown = []Unknown{{"x", "y"}} }, others: func(v *Verdict) bool { return len(v.Warnings) == 1 }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			plan := planOf("f", false)
			if tc.plan != nil {
				tc.plan(&plan)
			}
			v := judged(t, plan, tc.facts)
			if codes(v.Refusals) != tc.want || tc.text != "" && !strings.Contains(v.Refusals[0].Text, tc.text) {
				t.Errorf("refusals %v, want %s with %q", v.Refusals, tc.want, tc.text)
			}
			if tc.others != nil && !tc.others(v) {
				t.Errorf("%+v", v)
			}
		})
	}
}

func TestConflicts(t *testing.T) {
	facts := func() *Facts {
		f, err := Read(captured(t))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	tracedAs := func(line string) func(*Facts) {
		return func(f *Facts) { f.Traced = append(f.Traced, ParseEnabledFunctions([]byte(line))...) }
	}
	for _, tc := range []struct {
		name, function string
		replace        bool
		position       int
		facts          func(*Facts)
		want           []string // kind effect who; "?" after what is not certain
	}{
		{name: "free", function: "f"},
		{name: "livepatch", function: "fifo_open", want: []string{"livepatch defeats lp_busy"}},
		{name: "livepatch is replaced, kprobe inside", function: "cmdline_proc_show", replace: true, want: []string{"livepatch none lp_all", "kprobe breaks kprobe cmdline_proc_show+0xa"}},
		{name: "post handler", function: "version_proc_show", want: []string{"post-handler blocks kprobe version_proc_show+0x4"}},
		{name: "post handler, list unknown", function: "version_proc_show", facts: func(f *Facts) { f.Kprobes = nil }, want: []string{"post-handler blocks kprobe_ftrace_handler"}},
		{name: "observers", function: "stat_open", want: []string{"kprobe none kprobe stat_open+0x4"}},
		{name: "kretprobe", function: "uptime_proc_show", want: []string{"kprobe none kretprobe uptime_proc_show+0x4"}},
		{name: "function tracer", function: "loadavg_proc_show", want: []string{"tracer none function_trace_call"}},
		{name: "foreign redirect", function: "f", facts: tracedAs("f (1) I M \ttramp: 0x1 (my_handler+0x0/0x1 [kpatch])"), want: []string{"redirect blocks my_handler [kpatch]"}},
		{name: "redirect of two", function: "f", facts: tracedAs("f (2) R I"), want: []string{"redirect blocks unknown"}},
		{name: "livepatch and tracer", function: "fifo_open", replace: true, facts: func(f *Facts) { f.Traced[0] = Traced{Function: "fifo_open", Count: 2, Flags: "I"} }, want: []string{"livepatch none lp_busy"}},
		{name: "direct call", function: "f", facts: tracedAs("f (1) D\n\tdirect-->tramp [m]"), want: []string{"direct-call blocks tramp [m]"}},
		{name: "BPF, may override", function: "security_file_open", facts: tracedAs("security_file_open (1) D\n\tdirect-->bpf_trampoline_1+0x0/0x1"), want: []string{"bpf defeats bpf_trampoline_1?"}},
		{name: "BPF, watches", function: "f", facts: func(f *Facts) {
			f.Injectable = map[string]bool{}
			tracedAs("f (1) D\n\tdirect-->bpf_trampoline_1+0x0/0x1")(f)
		}, want: []string{"bpf none bpf_trampoline_1"}},
		{name: "BPF, old kernel", function: "f", facts: func(f *Facts) {
			f.Release = "5.10.0-x"
			tracedAs("f (1) D\n\tdirect-->bpf_trampoline_1+0x0/0x1")(f)
		}, want: []string{"bpf blocks bpf_trampoline_1"}},
		{name: "BPF, kinds known", function: "f", facts: func(f *Facts) {
			f.BPF = []BPFLink{{1, BPFEntry, "f", "a"}, {2, BPFModifyReturn, "f", "b"}, {3, BPFLSM, "g", "c"}, {4, BPFExit, "", "d"}}
			tracedAs("f (1) D\n\tdirect-->bpf_trampoline_1+0x0/0x1")(f)
		}, want: []string{`bpf none BPF program "a" (fentry, link 1)`, `bpf defeats BPF program "b" (fmod_ret, link 2)?`}},
		{name: "tracer may override", function: "loadavg_proc_show", facts: func(f *Facts) { f.Injectable = map[string]bool{"loadavg_proc_show": true} }, want: []string{"tracer defeats function_trace_call?"}},
		{name: "kprobe may override", function: "stat_open", facts: func(f *Facts) { f.Injectable = map[string]bool{"stat_open": true} }, want: []string{"kprobe defeats kprobe stat_open+0x4?"}},
		{name: "same name", function: "version_proc_show", position: 2, want: []string{"post-handler blocks kprobe version_proc_show+0x4?"}},
		{name: "cold part", function: "f", facts: func(f *Facts) {
			f.Kprobes = ParseKprobes([]byte("1 k f.cold+0x1\n1 k f.cold.3+0x2 [DISABLED]\n1 k f.colder+0x1\n1 k f+0x1 m\n"))
		}, want: []string{"kprobe breaks kprobe f.cold+0x1", "kprobe breaks kprobe f.cold.3+0x2 (disabled)"}},
		{name: "other object", function: "f", facts: tracedAs("f [m] (1) I"), want: nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := facts()
			if tc.facts != nil {
				tc.facts(f)
			}
			plan := planOf(tc.function, tc.replace)
			plan.Kernel.Objects[0].Functions[0].Position = tc.position
			var got []string
			for _, c := range Conflicts([]Plan{plan}, f) {
				s := c.Kind + " " + string(c.Effect) + " " + c.Who
				if !c.Certain {
					s += "?"
				}
				got = append(got, s)
				if c.Text == "" || c.Where() != "vmlinux: "+tc.function {
					t.Errorf("%+v", c)
				}
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

func TestConflictsOfPackages(t *testing.T) {
	a, b := planOf("f", false), planOf("f", false)
	a.Name, b.Kernel.Module = "first", "second"
	b.Kernel.Objects[0].Functions[0].Position = 1
	got := Conflicts([]Plan{a, b}, &Facts{})
	if len(got) != 1 || got[0].Kind != KindPackage || got[0].Effect != Defeats || got[0].Who != "first" {
		t.Errorf("%+v", got)
	}
	b.Kernel.Replace = true
	if got := Conflicts([]Plan{a, b}, &Facts{}); len(got) != 1 || got[0].Effect != Harmless {
		t.Errorf("%+v", got)
	}
}

func TestSymbols(t *testing.T) {
	files := captured(t)
	files["sys/module/xfs/sections/.text"] = &fstest.MapFile{Data: []byte("0xffffffffc0400000\n")}
	f, err := Read(files)
	if err != nil {
		t.Fatal(err)
	}
	found, err := readSymbols(strings.NewReader(string(text(t, files, "proc/kallsyms"))), map[symbolKey]bool{{"vmlinux", "fifo_open"}: true, {"xfs", "xfs_file_open"}: true})
	if err != nil || len(found) != 2 {
		t.Fatalf("%v, %v", found, err)
	}
	fifo, xfs := found[symbolKey{"vmlinux", "fifo_open"}][0], found[symbolKey{"xfs", "xfs_file_open"}][0]
	k := func(change func(k *manifest.Kernel)) *manifest.Kernel {
		k := planOf("fifo_open", false).Kernel
		k.Objects[0].Functions[0].Address = fifo - 0x4000000
		k.Objects[0].Symbols = []manifest.KernelSymbol{{Name: "cmdline_proc_show", Address: 0xffffffff88109640}}
		k.Objects = append(k.Objects, manifest.KernelObject{Name: "xfs", Functions: []manifest.KernelFunction{{Name: "xfs_file_open", Section: ".text", Address: xfs - 0xffffffffc0400000}}})
		if change != nil {
			change(k)
		}
		return k
	}
	// The address of the second symbol, relative to the first, is read from the file.
	all, err := readSymbols(strings.NewReader(string(text(t, files, "proc/kallsyms"))), map[symbolKey]bool{{"vmlinux", "cmdline_proc_show"}: true})
	if err != nil {
		t.Fatal(err)
	}
	right := all[symbolKey{"vmlinux", "cmdline_proc_show"}][0] - 0x4000000
	for _, tc := range []struct {
		name   string
		change func(k *manifest.Kernel)
		want   string
	}{
		{"fits", nil, ""},
		{"no such symbol", func(k *manifest.Kernel) { k.Objects[0].Functions[0].Name = "gone" }, "vmlinux: gone: the running kernel has no such symbol [symbol-not-found]"},
		{"position", func(k *manifest.Kernel) { k.Objects[0].Functions[0].Position = 2 }, "vmlinux: fifo_open: the package means number 2 of this name, the running kernel has 1 [wrong-position]"},
		{"moved differently", func(k *manifest.Kernel) { k.Objects[0].Symbols[0].Address = right + 16 }, "vmlinux: cmdline_proc_show: is 0x3fffff0 from where the package says, but fifo_open is 0x4000000 from there [wrong-position]"},
		{"module", func(k *manifest.Kernel) { k.Objects[1].Functions[0].Address++ }, "xfs: xfs_file_open: is at "},
		{"module that is not loaded", func(k *manifest.Kernel) { k.Objects[1].Name = "ext4" }, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := &Verdict{}
			v.Symbols(files, k(func(k *manifest.Kernel) {
				k.Objects[0].Symbols[0].Address = right
				if tc.change != nil {
					tc.change(k)
				}
			}), f)
			got := v.Refusals.Error()
			if len(v.Warnings) > 0 || !strings.HasPrefix(got, tc.want) || tc.want == "" && got != "" {
				t.Errorf("%q, warnings %q, want %q", got, v.Warnings, tc.want)
			}
		})
	}
	double := "0 t fifo_open\n0 t fifo_open\n0 t cmdline_proc_show\n0 t xfs_file_open\t[xfs]\n"
	files["proc/kallsyms"] = &fstest.MapFile{Data: []byte(double)}
	v := &Verdict{}
	v.Symbols(files, k(nil), f)
	if codes(v.Refusals) != "wrong-position" || !strings.Contains(v.Refusals[0].Text, "2 symbols of this name") {
		t.Errorf("%v", v.Refusals)
	}
	delete(files, "proc/kallsyms")
	v = &Verdict{}
	v.Symbols(files, k(nil), f)
	if len(v.Warnings) != 1 || len(v.Refusals) > 0 {
		t.Errorf("%+v", v)
	}
}

func TestFile(t *testing.T) {
	o := &manifest.KernelObject{Name: "xfs", BuildID: manifest.Hex{1}, Srcversion: "A"}
	for _, tc := range []struct {
		id      []byte
		version string
		want    string
	}{
		{[]byte{1}, "A", ""}, {nil, "", ""}, {nil, "B", "wrong-target"}, {[]byte{2}, "A", "wrong-target"}, {[]byte{2}, "B", "wrong-target"},
	} {
		v := &Verdict{}
		v.File(o, "/x.ko", tc.id, tc.version)
		if codes(v.Refusals) != tc.want {
			t.Errorf("%v: %v", tc, v.Refusals)
		}
	}
}

func TestOlder(t *testing.T) {
	for release, want := range map[string]bool{"5.19.0": true, "6.0.1": false, "6.1-rc1": false, "5": false, "x.y": false, "5.10+deb": true, "10.0": false} {
		if older(release, 6, 0) != want {
			t.Errorf("%s: %v", release, !want)
		}
	}
}
