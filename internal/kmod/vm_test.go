package kmod

import (
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/elfpatch/diff"
	"livepatch/internal/kimage"
	"livepatch/internal/testkit"
	"livepatch/internal/testkit/vm"
)

// target is a kernel that modules are made for and loaded on.
type target struct {
	*vm.Kernel
	image   *kimage.Kernel
	abi     *kimage.ABI
	exports map[string]kimage.Export
	config  Config
}

func fetched(t testing.TB, version string) *target {
	t.Helper()
	return opened(t, vm.Fetched(t, version))
}

func opened(t testing.TB, from *vm.Kernel) *target {
	k := &target{Kernel: from}
	var err error
	if k.image, err = kimage.Parse(testkit.Read(t, k.Path("vmlinuz"))); err != nil {
		t.Fatal(err)
	}
	if k.abi, err = kimage.ABIFromBTF(k.image.BTF, k.image.Machine); err != nil {
		t.Fatal(err)
	}
	if k.exports, err = kimage.ParseSymvers(testkit.Read(t, k.Path("headers/Module.symvers"))); err != nil {
		t.Fatal(err)
	}
	k.config = ParseConfig(testkit.Read(t, k.Path("config")))
	return k
}

// spec is that of a module for the kernel, without what is patched.
func (k *target) spec(name string, m *Merged) Spec {
	s := Spec{
		Name: name, Object: m.Object, Bindings: m.Bindings, ABI: k.abi, Vermagic: k.image.Vermagic, Versions: NoVersions,
		Retpoline: k.config.On("RETPOLINE", "MITIGATION_RETPOLINE"), Rethunk: k.config.On("RETHUNK", "MITIGATION_RETHUNK"),
		ORC: k.config.On("UNWINDER_ORC"), Replace: true,
	}
	if k.config.On("CALL_PADDING") {
		fmt.Sscan(k.config["FUNCTION_PADDING_BYTES"], &s.Padding)
	}
	if k.config.On("MODVERSIONS") {
		s.Versions = BasicVersions
	}
	for _, name := range s.OwnExports() {
		s.Bindings[name] = k.export(name)
	}
	return s
}

func (k *target) export(name string) Binding {
	x := k.exports[name]
	return Binding{Kind: Export, Object: x.Module, Name: name, CRC: x.CRC, HasCRC: x.HasCRC, GPL: x.GPL, Namespace: x.Namespace}
}

// part compiles a source as the kernel would, and takes the object for a cut
// one. It replaces the functions named.
func (k *target) part(t testing.TB, object, source string, replaced ...string) Part {
	t.Helper()
	if k.image.Machine == elf.EM_AARCH64 {
		return Part{Name: source, Object: object, Cut: compiled(t, "aarch64-linux-gnu-gcc", arm64Args, "testdata/kernel/"+source, replaced...)}
	}
	args := []string{"-c", "-O2", "-std=gnu11", "-ffreestanding", "-mcmodel=kernel", "-fno-pic", "-mno-sse", "-mno-red-zone", "-fno-stack-protector",
		"-fno-asynchronous-unwind-tables", "-fno-jump-tables", "-pg", "-mfentry", "-mrecord-mcount", "-ffunction-sections", "-fdata-sections",
		"-mindirect-branch=thunk-extern", "-mindirect-branch-register", "-fno-common"}
	if k.config.On("RETHUNK", "MITIGATION_RETHUNK") {
		args = append(args, "-mfunction-return=thunk-extern")
	}
	if k.config.On("SLS", "MITIGATION_SLS") {
		args = append(args, "-mharden-sls=all")
	}
	if k.config.On("X86_KERNEL_IBT") {
		args = append(args, "-fcf-protection=branch")
	} else {
		args = append(args, "-fcf-protection=none")
	}
	if k.config.On("CALL_PADDING") {
		p := k.config["FUNCTION_PADDING_BYTES"]
		args = append(args, "-fpatchable-function-entry="+p+","+p)
	}
	return Part{Name: source, Object: object, Cut: compiled(t, "gcc", args, "testdata/kernel/"+source, replaced...)}
}

// compiled is an object as a cut one.
func compiled(t testing.TB, cc string, args []string, source string, replaced ...string) *diff.Cut {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out.o")
	if b, err := exec.Command(testkit.Tool(t, cc), append(append([]string{}, args...), "-o", out, source)...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cc, err, b)
	}
	f, err := elfpatch.Parse(testkit.Read(t, out))
	if err != nil {
		t.Fatal(err)
	}
	return asCut(f, replaced...)
}

func asCut(f *elfpatch.File, replaced ...string) *diff.Cut {
	cut := &diff.Cut{Object: f}
	for i, s := range f.Symbols {
		if i > 0 && s.Section == elfpatch.Undefined && s.Name != "" {
			cut.Externals = append(cut.Externals, diff.External{Symbol: i, Name: s.Name})
		}
		for _, r := range replaced {
			if s.Name == r {
				cut.Funcs = append(cut.Funcs, diff.CutFunc{Name: s.Name, Symbol: i})
			}
		}
	}
	return cut
}

// bind finds the external symbols of a part: exported, or in the symbol tables
// of the kernel or the module.
func (k *target) bind(t testing.TB, p *Part, module *kimage.Module) {
	p.Bindings = map[int]Binding{}
	for i, x := range p.Cut.Externals {
		if e, ok := k.exports[x.Name]; ok && e.Module == "vmlinux" {
			p.Bindings[i] = k.export(x.Name)
		} else if module != nil && len(module.Named(x.Name)) == 1 {
			p.Bindings[i] = Binding{Kind: KLP, Object: module.Name, Name: x.Name}
		} else if n := k.image.Named(x.Name); len(n) == 1 {
			p.Bindings[i] = Binding{Kind: KLP, Name: x.Name}
		}
	}
}

// process runs objtool on a merged object, which must not say a word.
func (k *target) process(t testing.TB, m *Merged) {
	t.Helper()
	b, err := m.Object.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "merged.o")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	args := append(ObjtoolArgs(k.config), file)
	if !k.config.On("OBJTOOL") { // before 5.19 it has commands (scripts/Makefile.build, 5.10)
		args = []string{"orc", "generate", "--module", "--no-fp", "--retpoline", "--rethunk", "--uaccess", file}
	}
	cmd := exec.Command(k.Path("objtool"), args...)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("objtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	if m.Object, err = elfpatch.Parse(testkit.Read(t, file)); err != nil {
		t.Fatal(err)
	}
}

// expected are the messages of warning and above that a module causes that is
// neither of the kernel's build nor signed, and those of slow emulation.
var expected = regexp.MustCompile("taint|module verification failed|clocksource|TSC|hrtimer: interrupt took")

// checkLog fails for other messages of warning and above.
func checkLog(t *testing.T, name string, log []vm.Line) {
	t.Helper()
	for _, l := range log {
		if l.Level <= 4 && !expected.MatchString(l.Text) {
			t.Errorf("%s: the kernel says: %s", name, l.Text)
		}
	}
}

// kernelModule is the module for the sources in testdata/kernel, for the kernel and xfs.
func kernelModule(t testing.TB, k *target) []byte {
	b, err := k.Module("xfs")
	if err != nil {
		t.Fatal(err)
	}
	xfs, err := kimage.ParseModule(b)
	if err != nil {
		t.Fatal(err)
	}
	parts := []Part{
		k.part(t, "", "cmdline.c", "new_cmdline"),
		k.part(t, "", "helper.c"),
		k.part(t, "xfs", "xfs.c", "new_xqm"),
	}
	k.bind(t, &parts[0], nil)
	k.bind(t, &parts[1], nil)
	k.bind(t, &parts[2], xfs)
	m, err := Merge(elf.EM_X86_64, parts)
	if err != nil {
		t.Fatal(err)
	}
	k.process(t, m)
	s := k.spec("kmod_test", m)
	s.Objects = []Object{
		{Name: "xfs", Funcs: []Func{{Name: "xqm_proc_show", Replacement: "new_xqm"}}, Callbacks: map[CallbackKind]string{PrePatch: "pre_patch"}},
		{Funcs: []Func{{Name: "cmdline_proc_show", Replacement: "new_cmdline"}}},
	}
	s.States = []State{{ID: 7, Version: 2}}
	module, err := Emit(s)
	if err != nil {
		t.Fatal(err)
	}
	return module
}

// TestKernel loads a module on Debian's kernels: functions of the kernel and of
// a module that comes later are replaced, and all is taken back.
func TestKernel(t *testing.T) {
	for _, version := range []string{"6.1", "6.12"} {
		t.Run(version, func(t *testing.T) { loadModule(t, fetched(t, version)) })
	}
	// Others are given as directories that scripts/kernel made.
	for dir := range strings.FieldsSeq(os.Getenv("LIVEPATCH_KERNELS")) {
		k, err := vm.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(k.Release, func(t *testing.T) { loadModule(t, opened(t, k)) })
	}
}

// await waits for the end of the transition, or of the patch.
const await = "await() { n=0; while [ \"$(cat /sys/kernel/livepatch/kmod_test/transition 2>/dev/null)\" = 1 ] && [ $n -lt 200 ]; do sleep .1; n=$((n+1)); done; }\n"

func loadModule(t *testing.T, k *target) {
	steps := []struct{ name, script, want string }{
		{"load", "insmod kmod_test.ko && await && cat /sys/kernel/livepatch/kmod_test/enabled && cat /proc/cmdline",
			"1\npatched: .*console=ttyS0.*\none 1\nhelper\nhelper again\n"},
		{"more", "cat /proc/cmdline | head -2 | tail -1", "two 2\n"},
		{"files", "cat /sys/module/kmod_test/notes/.note.gnu.build-id | wc -c; ls /sys/kernel/livepatch", "36\nkmod_test\n"},
		{"trace", "cd /sys/kernel/tracing; grep -o 'new_.* .kmod_test.' available_filter_functions | sort; grep -c klp_ftrace_handler enabled_functions",
			`new_cmdline \[kmod_test\]\nnew_xqm \[kmod_test\]\n1\n`},
		{"module comes", "modprobe xfs && cat /proc/fs/xfs/xqm && ls -d /sys/kernel/livepatch/kmod_test/xfs", "xfs patched [0-9]+ [0-9]+ 1\n/sys.*\n"},
		{"module goes", "rmmod xfs && ls -d /sys/kernel/livepatch/kmod_test/vmlinux", "/sys.*\n"},
		{"disable", "echo 0 >/sys/kernel/livepatch/kmod_test/enabled; await; cat /proc/cmdline; sleep 1; rmmod kmod_test && grep -c kmod_test /proc/modules", ".*console=ttyS0.*\n0\n"},
		{"module first", "modprobe xfs && cat /proc/fs/xfs/xqm && insmod kmod_test.ko && await; cat /proc/fs/xfs/xqm", "0\t0\t0\t0.*\nxfs patched [0-9]+ [0-9]+ 1\n"},
		{"taints", "cat /proc/sys/kernel/tainted", fmt.Sprintf("%d\n", 1<<12|1<<13|1<<15)}, // O, E, K
	}
	if !strings.HasPrefix(k.Release, "6.1.") && !strings.HasPrefix(k.Release, "5.") {
		// Before 6.3 relocations of a module that went are not taken back, and it
		// cannot come again while it is patched.
		steps = append(steps, struct{ name, script, want string }{"module comes again", "rmmod xfs && modprobe xfs && cat /proc/fs/xfs/xqm", "xfs patched [0-9]+ [0-9]+ 1\n"})
	}
	c := vm.Config{Kernel: k.Kernel, Modules: []string{"xfs"}, Files: []vm.File{{Name: "/root/kmod_test.ko", Data: kernelModule(t, k)}}}
	for _, s := range steps {
		c.Steps = append(c.Steps, vm.Step{Name: s.name, Script: await + s.script})
	}
	r, err := vm.Run(t.Context(), c)
	if err != nil {
		t.Error(err)
	}
	for i, s := range r.Steps {
		if !regexp.MustCompile("^(?:" + steps[i].want + ")$").MatchString(s.Output) {
			t.Errorf("%s: exit %d, output:\n%s\nwant %s", s.Name, s.Exit, s.Output, steps[i].want)
		}
		checkLog(t, s.Name, s.Log)
	}
}
