package klp

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

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
	badVersion     bool // of a symbol that it uses
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
	if p.badVersion {
		args = append(args, "-DBAD_VERSION")
	}
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

// program builds a program as it runs in a machine that has nothing else.
func program(t *testing.T, pkg string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "program")
	cmd := exec.Command("go", "build", "-o", out, pkg)
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

func run(t *testing.T, c vm.Config, wants []want) *vm.Result {
	t.Helper()
	for i, w := range wants {
		// The console is a terminal, on which progress is shown; a file is none.
		c.Steps = append(c.Steps, vm.Step{Name: fmt.Sprint(i), Script: "(\n" + w.script + "\n) >/tmp/out 2>&1; e=$?; cat /tmp/out; exit $e"})
	}
	r, err := vm.Run(t.Context(), c)
	if err != nil {
		t.Error(err)
	}
	for i, s := range r.Steps {
		w := wants[i]
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
			if l.Level <= 3 && w.exit == 0 || strings.Contains(l.Text, "WARNING") {
				t.Errorf("%s: the kernel says: %s", w.script, l.Text)
			}
		}
	}
	return r
}

func TestKernel(t *testing.T) {
	for _, version := range []string{"6.12", "6.1"} {
		if testing.Short() && version != "6.12" {
			continue
		}
		t.Run(version, func(t *testing.T) { testKernel(t, fetched(t, version)) })
	}
}

func testKernel(t *testing.T, k *kernelUnderTest) {
	release := regexp.QuoteMeta(k.Release)
	file := func(name string, data []byte) vm.File { return vm.File{Name: "/root/" + name, Data: data} }
	pkg := func(p patch, change func(*manifest.Kernel)) vm.File {
		return file(strings.TrimPrefix(p.name, "lp_")+".lpatch", k.packageOf(t, p, change))
	}
	c := vm.Config{Kernel: k.Kernel, Modules: []string{"xfs"}, Timeout: 10 * time.Minute, Files: []vm.File{
		{Name: "/bin/livepatch", From: program(t, "livepatch/cmd/livepatch")},
		{Name: "/bin/bpf", From: program(t, "livepatch/internal/klp/testdata/bpf")},
		pkg(patch{name: "lp_statfs", function: "security_sb_statfs", sleep: 1}, nil),
		pkg(patch{name: "lp_one", function: "cmdline_proc_show", text: "number one"}, nil),
		pkg(patch{name: "lp_two", function: "version_proc_show", text: "number two"}, nil),
		pkg(patch{name: "lp_over", function: "cmdline_proc_show", text: "over"}, nil),
		pkg(patch{name: "lp_all", function: "cmdline_proc_show", text: "cumulative", replace: true}, nil),
		pkg(patch{name: "lp_busy", function: "fifo_open", sleep: 6}, nil),
		pkg(patch{name: "lp_other", function: "cmdline_proc_show"}, func(m *manifest.Kernel) { m.BuildID = bytes.Repeat([]byte{1}, 20) }),
		pkg(patch{name: "lp_gone", function: "no_such_function"}, nil),
		pkg(patch{name: "lp_version", function: "cmdline_proc_show", badVersion: true}, nil),
		pkg(patch{name: "lp_notrace", function: "native_sched_clock"}, nil),
		pkg(patch{name: "lp_module", function: "cmdline_proc_show"}, func(m *manifest.Kernel) {
			m.Objects = append(m.Objects, manifest.KernelObject{Name: "xfs", BuildID: bytes.Repeat([]byte{1}, 20)})
		}),
		file("probe.ko", k.compile(t, patch{name: "probe", function: "cmdline_proc_show", probe: true})),
	}}
	steps := slices.Concat(lifeSteps(release), refusedSteps(release), busySteps(), conflictSteps(), bpfSteps(), forceSteps())
	run(t, c, steps)
}

// lifeSteps apply, replace and revert.
func lifeSteps(release string) []want {
	return []want{
		{"livepatch status --kernel", 0, []string{`^no patches$`}},
		{"livepatch conflicts one.lpatch --kernel", 0, []string{`^no conflicts$`}},
		{"livepatch apply one.lpatch --kernel --dry-run", 0, []string{`^livepatch: nothing was changed; 1 function of kernel ` + release + ` could be patched now$`}},
		{"livepatch status --kernel", 0, []string{`^no patches$`}},
		{"livepatch apply one.lpatch --kernel && cat /proc/cmdline", 0, []string{`^vmlinux: cmdline_proc_show$`,
			`^livepatch: patched 1 function of kernel ` + release + `, all tasks switched within [0-9.]+ s$`, `^number one$`}},
		{"livepatch status --kernel", 0, []string{`^PATCH +STATE +OBJECT +FUNCTIONS$`, `^lp_one +enabled +vmlinux +cmdline_proc_show$`}},
		{"livepatch apply one.lpatch --kernel", 3, []string{`^kernel: livepatch lp_one is enabled \[already-applied\]$`, `^livepatch: nothing was changed$`}},
		{"livepatch apply one.lpatch --kernel --if-fits", 0, []string{`^livepatch: nothing was changed, nothing was to be done: livepatch lp_one is enabled$`}},
		{"livepatch apply over.lpatch --kernel", 3, []string{`^vmlinux: cmdline_proc_show: lp_one: its version of the function would lie beneath`, `\[function-claimed\]`}},
		{"livepatch apply two.lpatch --kernel && cat /proc/cmdline /proc/version", 0, []string{`^number one$`, `^number two$`}},
		{"livepatch apply all.lpatch --kernel && cat /proc/cmdline /proc/version", 0, []string{`^cumulative$`, `^Linux version`,
			`^livepatch: warning: lp_two is replaced, and with it its versions of version_proc_show, which this package does not replace$`,
			`^livepatch: lp_one was replaced; its module can be unloaded: livepatch revert --kernel lp_one$`}},
		{"livepatch status --kernel --json", 0, []string{`"name": "lp_all"`, `"state": "enabled"`, `"state": "no effect"`, `"build_id": "[0-9a-f]{40}"`}},
		{"livepatch revert --kernel lp-one", 0, []string{`^livepatch: lp_one had no effect any more; its module was unloaded$`}},
		{"livepatch revert --kernel lp_one", 3, []string{`\[not-applied\]$`, `^livepatch: nothing was changed$`}},
		{"livepatch revert --kernel --all && cat /proc/modules", 0, []string{`^livepatch: reverted 1 function$`, `!^lp_`}},
		{"livepatch apply one.lpatch --kernel && livepatch apply all.lpatch --kernel --unload-replaced && livepatch revert --kernel lp_all; cat /proc/modules", 0,
			[]string{`^livepatch: lp_one was replaced and unloaded$`, `!^lp_`}},
		{"grep -c quiet /proc/cmdline", 0, nil},
		{"livepatch revert --kernel --all", 0, []string{`^livepatch: nothing was changed: no livepatch is loaded$`}},
		{"livepatch apply one.lpatch --kernel --print-unit", 0, []string{`^ExecStart="/bin/livepatch" apply --kernel --if-fits "/root/one.lpatch"$`}},
	}
}

// refusedSteps are refused by the loader or by the kernel.
func refusedSteps(release string) []want {
	return []want{
		{"livepatch apply other.lpatch --kernel", 3, []string{`^kernel: the package is for the build 0101\S+ of ` + release + `, this is build [0-9a-f]{40} \[wrong-target\]$`}},
		{"livepatch apply other.lpatch --kernel --if-fits", 0, []string{`^livepatch: nothing was changed, nothing was to be done: the package is for`}},
		{"livepatch apply gone.lpatch --kernel", 3, []string{`^vmlinux: no_such_function: the running kernel has no such symbol \[symbol-not-found\]$`}},
		{"livepatch apply module.lpatch --kernel", 3, []string{`^xfs: the package is for build 0101\S+, the file that will be loaded is build [0-9a-f]{40}: /lib/modules/\S+/xfs.ko \[wrong-target\]$`}},
		{"modprobe xfs; livepatch apply module.lpatch --kernel", 3, []string{`^xfs: the package is for build 0101\S+, loaded is build [0-9a-f]{40} \[wrong-target\]$`}},
		{"livepatch apply version.lpatch --kernel", 1, []string{`^livepatch: error: load module lp_version: .*: `, `^kernel: lp_version: disagrees about version of symbol klp_enable_patch$`,
			`^        the module was made for a kernel in which this symbol has another type$`, `^livepatch: nothing was changed$`}},
		{"livepatch apply notrace.lpatch --kernel --json", 1, []string{`"state": "nothing was changed"`, `^kernel: livepatch: failed to find location for function 'native_sched_clock'$`,
			`^        ftrace has no site in this function`}},
		{"livepatch status --kernel; grep -c ^lp_ /proc/modules", 1, []string{`^no patches$`, `^0$`}},
	}
}

// busySteps have a task inside of the function, going forth and back.
func busySteps() []want {
	return []want{
		{"mkfifo /tmp/f; cat /tmp/f & sleep 1; livepatch apply busy.lpatch --kernel --timeout 3s", 5, []string{
			`^livepatch: error: the transition of lp_busy did not end within 3s$`, `^process \d+ \(cat\) waits in wait_for_partner, called by fifo_open$`,
			`^livepatch: hint: `, `^livepatch: rolled back$`}},
		{"livepatch apply busy.lpatch --kernel --timeout 1m & p=$!; until grep -qs 1 /sys/kernel/livepatch/lp_busy/transition && grep -qs 1 /sys/kernel/livepatch/lp_busy/enabled; do sleep 0.1; done; livepatch status --kernel; livepatch apply one.lpatch --kernel; echo exit $?; kill -INT $p; wait $p", 1, []string{
			`^lp_busy +enabling +vmlinux +fifo_open$`, `^lp_busy waits: process \d+ \(cat\) waits in wait_for_partner, called by fifo_open$`,
			`^livepatch: error: livepatch lp_busy is in transition \(enabling\); the kernel does one at a time$`, `^exit 5$`,
			`^livepatch: error: interrupted while tasks were switching$`, `^livepatch: rolled back$`}},
		{"echo >/tmp/f; livepatch status --kernel; grep -c ^lp_ /proc/modules", 1, []string{`^no patches$`, `^0$`}},
		{"livepatch apply busy.lpatch --kernel --timeout 20s; cat /tmp/f & sleep 1; livepatch revert lp_busy --kernel --timeout 2s --json", 5, []string{
			`"waiting": 1`, `"state": "D"`, `^process \d+ \(cat\) waits in msleep, called by sleeper$`, `^livepatch: rolled back$`}},
		{"livepatch status --kernel", 0, []string{`^lp_busy +enabled`}},
		{"livepatch revert lp_busy --kernel", 0, []string{`^livepatch: reverted 1 function$`}},
	}
}

// conflictSteps have probes on the function.
func conflictSteps() []want {
	const tracing = "/sys/kernel/tracing"
	return []want{
		{"insmod probe.ko; livepatch conflicts one.lpatch --kernel", 3, []string{
			`^vmlinux: cmdline_proc_show +blocks +kprobe cmdline_proc_show\+0x\d: has a post handler`, `^livepatch: 1 conflict$`}},
		{"livepatch apply one.lpatch --kernel", 3, []string{`\[function-claimed\]$`}},
		{"cat " + tracing + "/enabled_functions >/tmp/ef; cat /sys/kernel/debug/kprobes/list >/tmp/kp; rmmod probe; livepatch conflicts one.lpatch --enabled-functions /tmp/ef --kprobes /tmp/kp --json", 3,
			[]string{`"effect": "blocks"`, `"kind": "post-handler"`}},
		{"for at in 10 5; do echo p:mid cmdline_proc_show+$at 2>/dev/null >" + tracing + "/kprobe_events && break; done; echo 1 >" + tracing + "/events/kprobes/mid/enable; livepatch conflicts one.lpatch --kernel", 3, []string{
			`breaks +kprobe cmdline_proc_show\+0x[a5]: lies in the old body`}},
		{"livepatch apply one.lpatch --kernel && cat /proc/cmdline; cat " + tracing + "/kprobe_profile; livepatch revert lp_one --kernel", 0, []string{
			`^livepatch: warning: vmlinux: cmdline_proc_show: kprobe cmdline_proc_show\+0x[a5]: lies in the old body`, `^number one$`, `mid +0 +0$`}},
		{"echo 0 >" + tracing + "/events/kprobes/mid/enable; echo >" + tracing + "/kprobe_events; echo 'p:entry cmdline_proc_show' >" + tracing + "/kprobe_events; echo 1 >" + tracing + "/events/kprobes/entry/enable; " +
			"livepatch conflicts one.lpatch --kernel && livepatch apply one.lpatch --kernel && cat /proc/cmdline; cat " + tracing + "/kprobe_profile; livepatch revert lp_one --kernel", 0, []string{
			`none +kprobe cmdline_proc_show\+0x\d: sits on the function's entry`, `^no conflicts$`, `^number one$`, `entry +1 +0$`}},
	}
}

// bpfSteps attach BPF programs to the function: one that watches, and one that
// wins over the patch.
func bpfSteps() []want {
	const attach = "%s security_sb_statfs %d >/tmp/bpf & p=$!; until grep -q attached /tmp/bpf; do sleep 0.1; done; "
	return []want{
		{"stat -f / | grep -c Namelen", 0, []string{`^1$`}},
		{"bpf " + fmt.Sprintf(attach, "fentry", 0) + "livepatch conflicts statfs.lpatch --kernel && livepatch apply statfs.lpatch --kernel && stat -f /; kill $p", 0, []string{
			`^vmlinux: security_sb_statfs +none +BPF program "test_program" \(fentry, link \d+\): watches the function`, `^no conflicts$`, `^livepatch: patched 1 function`, `Input/output error$`}},
		{"bpf " + fmt.Sprintf(attach, "fmod_ret", -13) + "cat /sys/kernel/tracing/enabled_functions; livepatch conflicts statfs.lpatch --kernel; stat -f /; livepatch revert lp_statfs --kernel; livepatch apply statfs.lpatch --kernel; echo again; stat -f /; livepatch revert lp_statfs --kernel; kill $p", 0, []string{
			`may be: defeats +BPF program "test_program" \(fmod_ret, link \d+\): can end the call`, `^livepatch: 1 conflict$`, `Permission denied$`, `(?s)again\nstat: [^\n]*Permission denied$`,
			`^livepatch: warning: vmlinux: security_sb_statfs: BPF program "test_program" \(fmod_ret, link \d+\): can end`}},
	}
}

// forceSteps come last: the kernel keeps what was forced out until it is booted.
func forceSteps() []want {
	return []want{
		{"cat /tmp/f & p=$!; sleep 1; livepatch apply busy.lpatch --kernel --timeout 2s --force; e=$?; kill $p; exit $e", 0, []string{
			`^livepatch: warning: --force gives up what makes live patching safe`, `^livepatch: patched 1 function of kernel \S+, forced after \d+\.\d s$`}},
		{"cat /tmp/f & sleep 1; livepatch revert lp_busy --kernel --timeout 1s --force; livepatch status --kernel", 0, []string{
			`^livepatch: lp_busy is disabled; its module stays loaded: something holds it; the kernel keeps code that was forced out until the next boot$`,
			`^livepatch: reverted 1 function$`, `^lp_busy +no effect`}},
		{"livepatch apply busy.lpatch --kernel", 3, []string{`^kernel: the module lp_busy is loaded, though its patch is not in effect`}},
	}
}

func TestSignatureEnforced(t *testing.T) {
	k := fetched(t, "6.12")
	pkg := k.packageOf(t, patch{name: "lp_one", function: "cmdline_proc_show", text: "x"}, nil)
	signed := slices.Concat(k.compile(t, patch{name: "lp_one", function: "cmdline_proc_show"}), []byte("not PKCS#7"), make([]byte, 2), []byte{2}, make([]byte, 5), []byte{0, 0, 0, 10}, []byte("~Module signature appended~\n"))
	m := manifestOf(patch{name: "lp_one", function: "cmdline_proc_show"}, signed)
	m.Kernel.Release, m.Kernel.BuildID, m.Kernel.Signed = k.Release, k.buildID, true
	bad, err := pack.Write(&pack.Package{Manifest: m, Members: map[string][]byte{manifest.KernelMember: signed}})
	if err != nil {
		t.Fatal(err)
	}
	c := vm.Config{Kernel: k.Kernel, Append: "module.sig_enforce=1", Files: []vm.File{
		{Name: "/bin/livepatch", From: program(t, "livepatch/cmd/livepatch")}, {Name: "/root/one.lpatch", Data: pkg}, {Name: "/root/signed.lpatch", Data: bad},
	}}
	run(t, c, []want{
		{"livepatch apply one.lpatch --kernel", 3, []string{`^kernel: module\.sig_enforce is on and the module is not signed \[module-signature\]$`, `^livepatch: nothing was changed$`}},
		{"livepatch apply signed.lpatch --kernel", 1, []string{`^livepatch: error: load module lp_one: `, `^livepatch: nothing was changed$`}},
		{"sysctl -w kernel.modules_disabled=1 >/dev/null; livepatch apply one.lpatch --kernel", 3, []string{`\[modules-disabled\]`, `\[module-signature\]`}},
	})
}
