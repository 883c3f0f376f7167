package kstate

import (
	"bytes"
	"strings"
	"testing"

	"livepatch/manifest"
)

// FuzzTracers: whatever the files of a kernel hold, they are read, and judging
// a function against them ends with conflicts of that function.
func FuzzTracers(f *testing.F) {
	files := captured(f)
	f.Add(text(f, files, "sys/kernel/tracing/enabled_functions"), text(f, files, "sys/kernel/debug/kprobes/list"), "version_proc_show")
	f.Add([]byte("f [m] (3) R I D O M\ttramp: 0x1 (a+0x0/0x1) ->b\n\tdirect-->bpf_trampoline_1\n"), []byte("0 r f+0x0 m [FTRACE]\n"), "f")
	f.Add([]byte("f (1) (2) ) ( \t((a) ->"), []byte("k k k\n0 k +0x0x1\n"), "f")
	f.Fuzz(func(t *testing.T, enabled, kprobes []byte, name string) {
		facts := &Facts{Traced: ParseEnabledFunctions(enabled), Kprobes: ParseKprobes(kprobes), Injectable: ParseErrorInjection(kprobes)}
		for _, tr := range facts.Traced {
			if tr.Function == "" || tr.Count < 0 || strings.Trim(tr.Function, " \t\n") != tr.Function {
				t.Errorf("%+v", tr)
			}
		}
		for _, k := range facts.Kprobes {
			if k.Function == "" {
				t.Errorf("%+v", k)
			}
		}
		plan := Plan{Name: "fix", Kernel: &manifest.Kernel{Objects: []manifest.KernelObject{{Name: manifest.Vmlinux, Functions: []manifest.KernelFunction{{Name: name}}}}}}
		for _, c := range Conflicts([]Plan{plan}, facts) {
			if c.Function != name || c.Text == "" || c.Who == "" {
				t.Errorf("%+v", c)
			}
		}
	})
}

// FuzzFiles: the other readers.
func FuzzFiles(f *testing.F) {
	files := captured(f)
	for name := range files {
		if !files[name].Mode.IsDir() {
			f.Add(files[name].Data)
		}
	}
	f.Add([]byte("6,1,2,-;text\\x09 and \\xzz\\x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if id := BuildID(b); id != nil && !bytes.Contains(b, id) {
			t.Errorf("build-id %x is not in the notes", id)
		}
		if r, ok := ParseRecord(b); ok && (r.Level < 0 || r.Level > 7 || strings.Contains(r.Text, "\n") && !bytes.Contains(b, []byte(`\x`))) {
			t.Errorf("%+v", r)
		}
		for _, frame := range ParseStack(b) {
			if frame == "" {
				t.Error("an empty frame")
			}
		}
		var task Task
		task.stat(string(b))
		_ = task.Who()
		_ = Signed(b)
		_ = chosen(string(b))
		_ = older(string(b), 6, 0)
		found, err := readSymbols(bytes.NewReader(b), map[symbolKey]bool{{manifest.Vmlinux, "fifo_open"}: true})
		if err == nil && len(found) > 1 {
			t.Errorf("%v", found)
		}
	})
}
