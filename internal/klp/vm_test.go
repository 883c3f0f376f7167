package klp

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"livepatch/internal/kimage"
	"livepatch/internal/pack"
	"livepatch/internal/testkit"
	"livepatch/internal/testkit/vm"
	"livepatch/manifest"
)

// A patch is a module that is compiled for a test.
type patch struct {
	name, function string
	text           string // what the replacement of a function of /proc prints
	sleep          int    // seconds that the replacement sleeps, instead
	replace        bool
	probe          bool // no livepatch but a kprobe with a post handler
}

// kernelUnderTest is what the tests need to know of a kernel that was fetched.
type kernelUnderTest struct {
	*vm.Kernel
	crc      map[string]string
	layout   []string
	vermagic string
	buildID  []byte
}

func fetched(t *testing.T, version string) *kernelUnderTest {
	t.Helper()
	k := &kernelUnderTest{Kernel: vm.Fetched(t, version), crc: map[string]string{}}
	b, err := os.ReadFile(k.Path("headers/Module.symvers"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 {
			k.crc[f[1]] = f[0]
		}
	}
	image, err := os.ReadFile(k.Path("vmlinuz"))
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := kimage.Parse(image)
	if err != nil {
		t.Fatal(err)
	}
	k.buildID, k.vermagic = kernel.BuildID, kernel.Vermagic
	abi, err := kimage.ABIFromBTF(kernel.BTF, kernel.Machine)
	if err != nil {
		t.Fatal(err)
	}
	layout, err := abi.Require("module", "name", "init", "exit")
	if err != nil {
		t.Fatal(err)
	}
	for _, member := range []string{"name", "init", "exit"} {
		k.layout = append(k.layout, fmt.Sprintf("-DAT_%s=%d", strings.ToUpper(member), layout.Members[member].Offset))
	}
	k.layout = append(k.layout, fmt.Sprintf("-DSIZE=%d", layout.Size))
	return k
}

func (k *kernelUnderTest) compile(t *testing.T, p patch) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), p.name+".o")
	replacement := "show"
	if p.sleep > 0 {
		replacement = "sleeper"
	}
	args := append([]string{"-c", "-O2", "-ffreestanding", "-mcmodel=kernel", "-fno-pic", "-mno-sse", "-mno-red-zone", "-fcf-protection=branch",
		"-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-o", out, "testdata/module.c",
		"-DNAME=" + p.name, "-DFUNC=" + p.function, fmt.Sprintf("-DTEXT=%q", p.text), fmt.Sprintf("-DSLEEP=%d", p.sleep),
		"-DREPLACEMENT=" + replacement, fmt.Sprintf("-DVERMAGIC=%q", k.vermagic)}, k.layout...)
	if p.probe {
		args = append(args, "-DKPROBE")
	}
	args = append(args, map[bool]string{true: "-DREPLACE=1", false: "-DREPLACE=0"}[p.replace])
	for _, name := range []string{"module_layout", "klp_enable_patch", "seq_printf", "msleep", "register_kprobe", "unregister_kprobe"} {
		args = append(args, "-DCRC_"+name+"="+k.crc[name])
	}
	if b, err := exec.Command(testkit.Tool(t, "gcc"), args...).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, b)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// packageOf is a package of the module as the builder would make it, as far as
// the loader looks at it.
func (k *kernelUnderTest) packageOf(t *testing.T, p patch, change func(*manifest.Kernel)) []byte {
	t.Helper()
	module := k.compile(t, p)
	m := manifestOf(p, module)
	m.Kernel.Release, m.Kernel.Vermagic, m.Kernel.BuildID = k.Release, k.vermagic, k.buildID
	m.Kernel.Objects[0].BuildID = k.buildID
	if change != nil {
		change(m.Kernel)
	}
	b, err := pack.Write(&pack.Package{Manifest: m, Members: map[string][]byte{manifest.KernelMember: module}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func manifestOf(p patch, module []byte) *manifest.Manifest {
	sum := sha256.Sum256(module)
	return &manifest.Manifest{
		Format: manifest.Format, Name: p.name, Tool: manifest.Tool{Name: "test", Version: "1"}, Targets: []manifest.Target{},
		Kernel: &manifest.Kernel{
			Flavour: manifest.FlavourKLP, Machine: manifest.MachineX86, Release: "6.12.1", Vermagic: "6.12.1 SMP ", BuildID: bytes.Repeat([]byte{0xab}, 20),
			Module: p.name, Payload: manifest.Payload{Member: manifest.KernelMember, Size: int64(len(module)), SHA256: sum[:]},
			Replace: p.replace,
			Objects: []manifest.KernelObject{{
				Name: manifest.Vmlinux, BuildID: bytes.Repeat([]byte{0xab}, 20),
				Functions: []manifest.KernelFunction{{
					Name: p.function, Object: "test.o", Address: 0xffffffff81000000, Size: 16, Replacement: "show", NewSize: 16,
					Site:   manifest.Site{Kind: "fentry-call", Address: 0xffffffff81000000, Expected: manifest.Hex{0xe8, 0, 0, 0, 0}, Room: 5},
					SHA256: sum[:], Proof: "symbol",
				}},
			}},
		},
	}
}

// program builds livepatch as it runs in a machine that has nothing else.
func program(t *testing.T) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "livepatch")
	cmd := exec.Command("go", "build", "-o", out, "livepatch/cmd/livepatch")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, b)
	}
	return out
}

// A want is a step with what it must print and its exit code.
type want struct {
	script string
	exit   int
	output []string // regular expressions, for lines of output; "!x": none matches
}

// progress is what goes to terminals only: colours, and lines that are
// overwritten.
var progress = regexp.MustCompile("\r?\x1b\\[K(\x1b\\[2m[^\x1b]*)?|\x1b\\[[0-9;]*m|\r")

func run(t *testing.T, c vm.Config, wants []want) *vm.Result {
	t.Helper()
	for i, w := range wants {
		c.Steps = append(c.Steps, vm.Step{Name: fmt.Sprint(i), Script: w.script})
	}
	r, err := vm.Run(t.Context(), c)
	if err != nil {
		t.Error(err)
	}
	for i, s := range r.Steps {
		w := wants[i]
		s.Output = progress.ReplaceAllString(s.Output, "")
		bad := s.Exit != w.exit
		for _, o := range w.output {
			o, none := strings.CutPrefix(o, "!")
			bad = bad || regexp.MustCompile("(?m)"+o).MatchString(s.Output) == none
		}
		if bad {
			t.Errorf("%s\nexit %d, want %d; output:\n%s\nwant %q\nlog: %v", w.script, s.Exit, w.exit, s.Output, w.output, s.Log)
		} else {
			t.Logf("$ %s\n%s", w.script, s.Output)
		}
		for _, l := range s.Log {
			if l.Level <= 3 || strings.Contains(l.Text, "WARNING") {
				t.Errorf("%s: the kernel says: %s", w.script, l.Text)
			}
		}
	}
	return r
}

func TestKernel(t *testing.T) {
	k := fetched(t, "6.12")
	one := patch{name: "lp_one", function: "cmdline_proc_show", text: "number one"}
	file := func(name string, data []byte) vm.File { return vm.File{Name: "/root/" + name, Data: data} }
	c := vm.Config{Kernel: k.Kernel, Files: []vm.File{
		{Name: "/bin/livepatch", From: program(t)},
		file("one.lpatch", k.packageOf(t, one, nil)),
		file("two.lpatch", k.packageOf(t, patch{name: "lp_two", function: "version_proc_show", text: "number two"}, nil)),
		file("over.lpatch", k.packageOf(t, patch{name: "lp_over", function: "cmdline_proc_show", text: "over"}, nil)),
		file("all.lpatch", k.packageOf(t, patch{name: "lp_all", function: "cmdline_proc_show", text: "cumulative", replace: true}, nil)),
		file("busy.lpatch", k.packageOf(t, patch{name: "lp_busy", function: "fifo_open", sleep: 6}, nil)),
		file("other.lpatch", k.packageOf(t, patch{name: "lp_other", function: "cmdline_proc_show"}, func(m *manifest.Kernel) { m.BuildID = bytes.Repeat([]byte{1}, 20) })),
		file("gone.lpatch", k.packageOf(t, patch{name: "lp_gone", function: "no_such_function"}, nil)),
		file("damaged.lpatch", k.packageOf(t, patch{name: "lp_damaged", function: "cmdline_proc_show"}, func(m *manifest.Kernel) { m.Module = "lp_damaged" })),
		file("probe.ko", k.compile(t, patch{name: "probe", function: "cmdline_proc_show", probe: true})),
	}}
	run(t, c, []want{
		{"livepatch status --kernel", 0, []string{`^no patches$`}},
		{"livepatch verify one.lpatch --running-kernel", 0, []string{`^lp_one fits kernel 6\.12`}},
		{"livepatch conflicts one.lpatch --kernel", 0, []string{`^no conflicts$`}},
		{"livepatch apply one.lpatch --kernel --dry-run", 0, []string{`^livepatch: nothing was changed; 1 function of kernel 6\.12\S+ could be patched now$`}},
		{"livepatch apply one.lpatch --kernel && cat /proc/cmdline", 0, []string{`^vmlinux: cmdline_proc_show$`,
			`^livepatch: patched 1 function of kernel 6\.12\S+, all tasks switched within [0-9.]+ s$`, `^number one$`}},
		{"livepatch status --kernel", 0, []string{`^PATCH +STATE +OBJECT +FUNCTIONS$`, `^lp_one +enabled +vmlinux +cmdline_proc_show$`}},
		{"livepatch apply one.lpatch --kernel", 3, []string{`^kernel: livepatch lp_one is enabled \[already-applied\]$`, `^livepatch: nothing was changed$`}},
		{"livepatch apply one.lpatch --kernel --if-fits", 0, []string{`^livepatch: nothing was changed, nothing was to be done: livepatch lp_one is enabled$`}},
		{"livepatch apply over.lpatch --kernel", 3, []string{`^vmlinux: cmdline_proc_show: lp_one: its version of the function would lie beneath`, `\[function-claimed\]`}},
		{"livepatch apply two.lpatch --kernel && cat /proc/cmdline /proc/version", 0, []string{`^number one$`, `^number two$`}},
		{"livepatch apply all.lpatch --kernel && cat /proc/cmdline /proc/version", 0, []string{`^cumulative$`, `^Linux version`,
			`^livepatch: warning: lp_two is replaced, and with it its versions of version_proc_show, which this package does not replace$`,
			`^livepatch: lp_one was replaced; its module can be unloaded: livepatch revert --kernel lp_one$`}},
		{"livepatch status --kernel --json", 0, []string{`"name": "lp_all"`, `"state": "enabled"`, `"state": "no effect"`, `"build_id": "[0-9a-f]{40}"`}},
		{"livepatch revert --kernel lp_one", 0, []string{`^livepatch: lp_one had no effect any more; its module was unloaded$`}},
		{"livepatch revert --kernel lp_one", 3, []string{`\[not-applied\]$`, `^livepatch: nothing was changed$`}},
		{"livepatch revert --kernel --all && cat /proc/modules", 0, []string{`^livepatch: reverted 1 function$`, `!^lp_`}},
		{"grep -c quiet /proc/cmdline", 0, nil},
		{"livepatch apply other.lpatch --kernel", 3, []string{`^kernel: the package is for the build 0101\S+ of 6\.12\S+, this is build [0-9a-f]{40} \[wrong-target\]$`}},
		{"livepatch apply other.lpatch --kernel --if-fits", 0, []string{`^livepatch: nothing was changed, nothing was to be done: the package is for`}},
		{"livepatch apply gone.lpatch --kernel", 3, []string{`^vmlinux: no_such_function: the running kernel has no such symbol \[symbol-not-found\]$`}},
		{"mkfifo /tmp/f; cat /tmp/f & sleep 1; livepatch apply busy.lpatch --kernel --timeout 3s", 5, []string{
			`^livepatch: error: the transition of lp_busy did not end within 3s$`, `^process \d+ \(cat\) waits in wait_for_partner, called by fifo_open$`,
			`^livepatch: hint: `, `^livepatch: rolled back$`}},
		{"livepatch status --kernel; grep -c ^lp_ /proc/modules; echo >/tmp/f", 0, []string{`^no patches$`, `^0$`}},
		{"livepatch apply busy.lpatch --kernel --timeout 20s; cat /tmp/f & sleep 1; livepatch revert lp_busy --kernel --timeout 2s --json", 5, []string{
			`"waiting": 1`, `"state": "S"|"state": "D"`, `^process \d+ \(cat\) waits in msleep, called by sleeper$`, `^livepatch: rolled back$`}},
		{"livepatch status --kernel", 0, []string{`^lp_busy +enabled`}},
		{"livepatch revert lp_busy --kernel", 0, []string{`^livepatch: reverted 1 function$`}},
		{"insmod probe.ko; cat /sys/kernel/debug/kprobes/list; cat /sys/kernel/tracing/enabled_functions; livepatch conflicts one.lpatch --kernel", 3, []string{
			`^vmlinux: cmdline_proc_show +blocks +kprobe cmdline_proc_show\+0x\d has a post handler|post handler`, `^livepatch: 1 conflict$`}},
		{"livepatch apply one.lpatch --kernel", 3, []string{`\[function-claimed\]$`}},
		{"rmmod probe; echo 'p:mid cmdline_proc_show+10' >/sys/kernel/tracing/kprobe_events; echo 1 >/sys/kernel/tracing/events/kprobes/mid/enable; " +
			"cat /sys/kernel/debug/kprobes/list; livepatch conflicts one.lpatch --kernel", 3, []string{`breaks +kprobe cmdline_proc_show\+0xa: lies in the old body`}},
		{"livepatch apply one.lpatch --kernel --print-unit", 0, []string{`^ExecStart="/bin/livepatch" apply --kernel --if-fits "/root/one.lpatch"$`}},
	})
}

func TestSignatureEnforced(t *testing.T) {
	k := fetched(t, "6.12")
	pkg := k.packageOf(t, patch{name: "lp_one", function: "cmdline_proc_show", text: "x"}, nil)
	c := vm.Config{Kernel: k.Kernel, Append: "module.sig_enforce=1", Files: []vm.File{
		{Name: "/bin/livepatch", From: program(t)}, {Name: "/root/one.lpatch", Data: pkg},
	}}
	run(t, c, []want{
		{"livepatch apply one.lpatch --kernel", 3, []string{`^kernel: module\.sig_enforce is on and the module is not signed \[module-signature\]$`, `^livepatch: nothing was changed$`}},
		{"sysctl -w kernel.modules_disabled=1 >/dev/null; livepatch apply one.lpatch --kernel", 3, []string{`\[modules-disabled\]`, `\[module-signature\]`}},
	})
}
