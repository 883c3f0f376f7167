package kmod

import (
	"bytes"
	"debug/elf"
	"fmt"
	"regexp"
	"testing"
	"time"

	"livepatch/fentry"
	"livepatch/internal/testkit/vm"
)

// directSpec makes the spec of a module for direct calls of one for the
// livepatch core.
func (k *target) directSpec(t testing.TB, s Spec) Spec {
	t.Helper()
	s.Direct = &Direct{Anchor: "_printk", Address: k.address(t, "_printk"), BuildID: k.image.BuildID, Notes: k.notes(t)}
	s.CallSites = k.config.On("CALL_DEPTH_TRACKING", "MITIGATION_CALL_DEPTH_TRACKING")
	finder, err := fentry.NewFinder(k.image.File, fentry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range s.Objects {
		for j := range s.Objects[i].Funcs {
			f := &s.Objects[i].Funcs[j]
			site, err := finder.At(k.address(t, f.Name), 1)
			if err != nil || site.Verdict != fentry.Yes {
				t.Fatalf("%s: %+v %v", f.Name, site, err)
			}
			f.Site = site.Site
			if k.image.Machine == elf.EM_AARCH64 {
				f.Site += 4
			}
		}
	}
	for name, b := range s.Bindings {
		if b.Kind == KLP {
			if b.Name != "" {
				name = b.Name
			}
			b.Address = k.address(t, name)
			s.Bindings[name] = b
		}
	}
	for _, name := range s.OwnExports() {
		s.Bindings[name] = k.export(name)
	}
	return s
}

func (k *target) address(t testing.TB, name string) uint64 {
	t.Helper()
	n := k.image.Named(name)
	if len(n) != 1 {
		t.Fatalf("%d symbols %s", len(n), name)
	}
	return k.image.Symbols[n[0]].Addr
}

// notes is where the image has its build-id.
func (k *target) notes(t testing.TB) uint64 {
	t.Helper()
	start := k.address(t, "__start_notes")
	b, ok := k.image.File.ReadAddr(start, int(k.address(t, "__stop_notes")-start))
	for i := 0; ok && i+20 <= len(b); i++ {
		if string(b[i:i+20]) == string(k.image.BuildID) {
			return start + uint64(i)
		}
	}
	t.Fatal("the image has no build-id between its notes")
	return 0
}

// base makes the base module for the kernel of a spec.
func (k *target) base(t testing.TB, s Spec) []byte {
	t.Helper()
	names, err := s.BaseExports(func(name string) bool { _, ok := k.exports[name]; return ok })
	if err != nil {
		t.Fatal(err)
	}
	s.Bindings = map[string]Binding{}
	for _, name := range names {
		s.Bindings[name] = k.export(name)
	}
	b, err := EmitBase(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestDirectKernel loads a module for direct calls on Debian's kernels: it is
// seen to work, taken off and put on again.
func TestDirectKernel(t *testing.T) {
	for name, args := range map[string][]string{"6.1": {"6.1"}, "6.12": {"6.12"}, "arm64": {"--arch", "arm64", "6.12"}} {
		t.Run(name, func(t *testing.T) { loadDirect(t, opened(t, vm.Fetched(t, args...))) })
	}
}

func loadDirect(t *testing.T, k *target) {
	parts := []Part{k.part(t, "", "cmdline.c", "new_cmdline"), k.part(t, "", "helper.c")}
	for i := range parts {
		k.bind(t, &parts[i], nil)
	}
	m, err := Merge(k.image.Machine, parts)
	if err != nil {
		t.Fatal(err)
	}
	if k.image.Machine == elf.EM_X86_64 {
		k.process(t, m)
	}
	s := k.spec("kmod_test", m)
	s.Objects = []Object{{Funcs: []Func{{Name: "cmdline_proc_show", Replacement: "new_cmdline"}}}}
	s = k.directSpec(t, s)
	module, err := Emit(s)
	if err != nil {
		t.Fatal(err)
	}
	// The module for another kernel: of another build-id, and with its build-id at
	// an address that leads nowhere.
	files := []vm.File{{Name: "/root/kmod_test.ko", Data: module}, {Name: "/root/livepatch_direct.ko", Data: k.base(t, s)}}
	for name, change := range map[string]func(*Direct){
		"kmod_other": func(d *Direct) { d.BuildID = bytes.Repeat([]byte{0xab}, len(d.BuildID)) },
		"kmod_lost":  func(d *Direct) { d.Notes += 1 << 36 },
	} {
		other, d := s, *s.Direct
		change(&d)
		other.Name, other.Direct = name, &d
		b, err := Emit(other)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, vm.File{Name: "/root/" + name + ".ko", Data: b})
	}
	shared, d := s, *s.Direct
	d.Shared = true
	shared.Name, shared.Direct = "kmod_shared", &d
	b, err := Emit(shared)
	if err != nil {
		t.Fatal(err)
	}
	files = append(files, vm.File{Name: "/root/kmod_shared.ko", Data: b})
	const set = "echo %d >/sys/module/kmod_shared/parameters/enabled; "
	steps := []struct{ name, script, want string }{
		{"another kernel", "insmod livepatch_direct.ko; for m in other lost; do insmod kmod_$m.ko 2>&1 | cut -d: -f3; done; grep -c ^kmod /proc/modules; grep -c . /sys/kernel/tracing/enabled_functions; rmmod livepatch_direct",
			" invalid module format\n invalid module format\n0\n0\n"},
		{"shared", "insmod livepatch_direct.ko && insmod kmod_shared.ko && cat /proc/cmdline; cd /sys/module/kmod_shared/parameters && cat enabled functions dispatch; cat /sys/module/livepatch_direct/version",
			"patched: .*console=tty.*\none 1\nhelper\nhelper again\nY\ncmdline_proc_show,0\nshared\n2\n"},
		{"claimed", "grep -o '^cmdline_proc_show.* I .*livepatch_shared' /sys/kernel/tracing/enabled_functions | grep -o '^[a-z_]*\\|livepatch_shared'; grep -o 'livepatch_shared.*' /sys/kernel/debug/kprobes/blacklist",
			"cmdline_proc_show\nlivepatch_shared\n(?:livepatch_shared\n)?livepatch_shared \\[livepatch_direct\\]\n"},
		{"shared off", fmt.Sprintf(set, 0) + "cat /proc/cmdline; grep -c . /sys/kernel/tracing/enabled_functions", ".*console=tty.*\n0\n"},
		{"shared on", fmt.Sprintf(set, 1) + "head -1 /proc/cmdline; " + fmt.Sprintf(set, 0) + "head -1 /proc/cmdline", "patched: .*\n[^p].*\n"},
		{"load", "insmod kmod_test.ko && cat /proc/cmdline", "patched: .*console=tty.*\none 1\nhelper\nhelper again\n"},
		{"parameters", "cd /sys/module/kmod_test/parameters && cat enabled functions && grep -o 'direct-->direct[^+]*' /sys/kernel/tracing/enabled_functions", "Y\ncmdline_proc_show,0\ndirect-->direct.new_cmdline\n"},
		{"off", "echo 0 >/sys/module/kmod_test/parameters/enabled && cat /proc/cmdline /sys/module/kmod_test/parameters/enabled; grep -c direct /sys/kernel/tracing/enabled_functions", ".*console=tty.*\nN\n0\n"},
		{"on", "echo 1 >/sys/module/kmod_test/parameters/enabled && cat /proc/cmdline | head -1", "patched: .*\n"},
		{"stays", "rmmod kmod_test 2>/dev/null; echo $?; cat /proc/sys/kernel/tainted", "1\n12288\n"},
	}
	c := vm.Config{Kernel: k.Kernel, Files: files, Timeout: 15 * time.Minute, Limit: 3 * time.Minute}
	for _, s := range steps {
		c.Steps = append(c.Steps, vm.Step{Name: s.name, Script: s.script})
	}
	r, err := vm.Run(t.Context(), c)
	if err != nil {
		t.Error(err)
	}
	for i, s := range r.Steps {
		if !regexp.MustCompile("^(?:" + steps[i].want + ")$").MatchString(s.Output) {
			t.Errorf("%s: exit %d, output:\n%s\nwant %s\n%v", s.Name, s.Exit, s.Output, steps[i].want, s.Log)
		}
		checkLog(t, s.Name, s.Log)
	}
}
