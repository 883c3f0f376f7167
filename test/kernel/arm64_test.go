package kernel

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"livepatch/internal/testkit"
	"livepatch/internal/testkit/vm"
)

// builtARM64 is the kernel for arm64 with a livepatch core that scripts/kernel-arm64
// builds. That takes a quarter of an hour, so only the slow tier builds it; other runs
// take the one that is there.
func builtARM64(t testing.TB, args ...string) *target {
	t.Helper()
	if os.Getenv("LIVEPATCH_SLOW") == "" {
		cached := exec.Command("../../scripts/kernel-arm64", append([]string{"--cached"}, args...)...)
		if said, err := cached.CombinedOutput(); err != nil {
			t.Skipf("set LIVEPATCH_SLOW=1 to have the kernel built: %s", said)
		}
	}
	dir := vm.Script(t, "kernel-arm64", args...)
	testkit.Tool(t, "qemu-system-aarch64")
	k, err := vm.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return &target{k, "7.2"}
}

// An arm64Case is a case that patches this kernel: one of its own, in arm64, or one that
// all kernels have.
type arm64Case struct {
	*testCase
	patch string
}

func (k *target) arm64Case(t testing.TB, name string) *arm64Case {
	t.Helper()
	dir, own := filepath.Join("cases", name), filepath.Join("arm64", name)
	if exists(own) {
		dir = own
	}
	c := &arm64Case{testCase: readCase(t, dir)}
	for _, f := range []string{"patch", k.version + ".patch", "all.patch", "6.12.patch"} {
		if path := filepath.Join(dir, f); c.patch == "" && exists(path) {
			c.patch = path
		}
	}
	return c
}

// buildFrom runs livepatch build for a kernel of which everything is given.
func (k *target) buildFrom(t testing.TB, out string, patches []string, more ...string) string {
	t.Helper()
	args := append([]string{"build", "-o", out, "--arch", "arm64", "--kernel-src", k.Path("source"), "--config", k.Path("config"), "--symvers", k.Path("headers/Module.symvers"),
		"--target", k.Path("vmlinuz"), "--modules", k.Path("modules/kernel"), "--btf", k.Path("btf")}, more...)
	for _, p := range patches {
		args = append(args, "--patch", p)
	}
	if clang := k.Path("llvm/clang"); exists(clang) {
		args = append(args, "--cc", clang)
	}
	said, err := exec.Command(program(t, "livepatch"), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("build %s: %v\n%s", strings.Join(patches, " "), err, said)
	}
	return string(said)
}

// arm64Together are cases of which each patches other files, so that one package holds
// all: alternatives, also those with a callback; exceptions, jump labels, static
// variables, new ones, callbacks, code of a module.
var arm64Together = []string{"alternatives", "callbacks", "jump-label", "module", "new-global", "usercopy"}

// TestARM64 builds a package for a kernel with a livepatch core on another machine
// than the kernel's, and sees it work there and go again, with the module that it
// patches there before and after it; then beside other packages, and packages that nobody
// wrote.
func TestARM64(t *testing.T) {
	k := builtARM64(t)
	dir := t.TempDir()
	s := k.arm64Session(t, dir)
	s.allARM64(t, dir)
	for name, of := range map[string]string{"first": "changed-string", "third": "new-global"} {
		file := filepath.Join(dir, name+".lpatch")
		k.buildFrom(t, file, []string{k.arm64Case(t, of).patch}, "--no-replace")
		s.config.Files = append(s.config.Files, vm.File{Name: "/" + name + ".lpatch", From: file})
	}
	s.besideARM64(k.arm64Case(t, "module"))
	s.stubsARM64(t, dir)
	s.run(t)
}

// TestARM64Size does the first half on a kernel without CALL_OPS, for which functions
// begin otherwise.
func TestARM64Size(t *testing.T) {
	if os.Getenv("LIVEPATCH_SLOW") == "" {
		t.Skip("set LIVEPATCH_SLOW=1 for it")
	}
	k := builtARM64(t, "--size")
	dir := t.TempDir()
	s := k.arm64Session(t, dir)
	s.allARM64(t, dir)
	s.run(t)
}

// allARM64 adds the package of the cases that go together, and its steps.
func (s *session) allARM64(t *testing.T, dir string) {
	t.Helper()
	all := &testCase{name: "all", expect: map[string]string{}}
	var patches []string
	for _, name := range arm64Together {
		c := s.arm64Case(t, name)
		patches = append(patches, c.patch)
		all.add(c.testCase)
	}
	s.addARM64(t, dir, all, patches)
	s.verifyARM64(t, filepath.Join(dir, "all.lpatch"), all.modules)
}

// verifyARM64 has nothing about a package left open by the files of its kernel.
func (k *target) verifyARM64(t *testing.T, file string, modules []string) {
	t.Helper()
	args := []string{"verify", file, "--target", k.Path("vmlinuz"), "--btf", k.Path("btf"), "--symvers", k.Path("headers/Module.symvers")}
	for _, m := range modules {
		args = append(args, "--target", k.moduleFile(t, m))
	}
	if code, said := k.livepatch(t, args...); code != 0 || !strings.Contains(said, " 0 left to the kernel") {
		t.Errorf("verify: exit %d\n%s", code, said)
	}
}

// besideARM64 applies a small package, refuses one that is in its way, and has that of all
// cases take its place; the module that this one patches goes and comes again meanwhile.
func (s *session) besideARM64(module *arm64Case) {
	const look = "cut -d' ' -f1 /proc/loadavg | tr -s 0-9 '#'\n"
	s.doAll([]saying{
		{"fits", "livepatch verify /all.lpatch --running-kernel", 0, []string{`^all fits kernel 7\.\d`}},
		{"conflict of two", "livepatch conflicts /first.lpatch /third.lpatch --kernel", 3, []string{`\bloadavg_proc_show\b`, `^livepatch: 1 conflict$`}},
	})
	s.do("first", "livepatch apply /first.lpatch --kernel", applied("first"))
	s.do("in the way", "livepatch apply /third.lpatch --kernel", refused("first", "loadavg_proc_show"))
	s.doAll([]saying{{"conflict", "livepatch conflicts /third.lpatch --kernel", 3, []string{`^vmlinux: loadavg_proc_show  defeats  livepatch_first: `}}})
	s.do("still first", look, printed("load\n", ""))
	changed := func(name, command, always, own string) {
		s.do(name, command, func(t *testing.T, r *vm.StepResult) {
			if r.Exit != 0 {
				t.Errorf("exit %d", r.Exit)
			}
			transition(t, r.Log, moduleOf("all"), always, own)
		})
	}
	changed("in its place", "livepatch apply /all.lpatch --kernel", logApply, "livepatch test: pre_patch vmlinux\nlivepatch test: post_patch\n")
	s.do("status of one", "livepatch status --kernel; cat /sys/kernel/livepatch/*/enabled; ls /sys/kernel/livepatch", mentions("loadavg_proc_show", "bm_status_read", "1\nlivepatch_all\n"))
	const log = "livepatch: applying patch 'livepatch_all' to loading module 'binfmt_misc'\nlivepatch: reverting patch 'livepatch_all' on unloading module 'binfmt_misc'\n"
	// The variables of the patch stay where they are.
	s.do("module once", "modprobe binfmt_misc; "+module.observe+"\nrmmod binfmt_misc", printed(module.expect["patched with modules"], log))
	s.do("module twice", "modprobe binfmt_misc; "+module.observe+"\nrmmod binfmt_misc", printed(strings.Repeat("binfmt_misc\n", 3), log))
	changed("revert all", "livepatch revert all --kernel", logRevert, "livepatch test: pre_unpatch\nlivepatch test: post_unpatch\n")
	s.do("none", look+"rmmod livepatch_first; livepatch status --kernel", printed("#.#\nno patches\n", ""))
}

// stubsARM64 has a function whose type is known, and a system call, return at once.
func (s *session) stubsARM64(t *testing.T, dir string) {
	t.Helper()
	for name, args := range map[string][]string{"closed": {"--return", "-EPERM", "kallsyms_open"}, "same": {"--return", "7", "__arm64_sys_getppid"}} {
		file := filepath.Join(dir, name+".lpatch")
		code, said := s.stub(t, file, append([]string{"--btf", s.Path("btf"), "--symvers", s.Path("headers/Module.symvers")}, args...)...)
		if code != 0 || !strings.Contains(said, ", module livepatch_"+name) {
			t.Fatalf("%s: exit %d:\n%s", name, code, said)
		}
		s.config.Files = append(s.config.Files, vm.File{Name: "/" + name + ".lpatch", From: file})
	}
	const symbols = "head -c 16 /proc/kallsyms 2>&1 >/dev/null && echo yes || true"
	s.do("closed/before", symbols, printed("yes\n", ""))
	s.do("closed/apply", "livepatch apply /closed.lpatch --kernel", quiet(0))
	s.do("closed/patched", symbols, printed("head: /proc/kallsyms: Operation not permitted\n", ""))
	s.do("closed/revert", "livepatch revert closed --kernel", quiet(0))
	s.do("closed/reverted", symbols, printed("yes\n", ""))
	s.do("same/apply", "livepatch apply /same.lpatch --kernel", quiet(0))
	s.do("same/patched", "sh -c 'echo $PPID'", printed("7\n", ""))
	s.do("same/revert", "livepatch revert same --kernel", quiet(0))
	s.do("same/reverted", "test $(sh -c 'echo $PPID') -ne 7 && echo yes", printed("yes\n", ""))
}

// add puts what another case does behind what this one does. Where this case has modules, all is seen three times while
// the patch is on: before they come, after that, and anew with them.
func (c *testCase) add(other *testCase) {
	c.observe += "(\n" + other.observe + "\n)\n"
	c.modules = append(c.modules, other.modules...)
	later := []string{"patched later", "patched"} // what counts goes on
	again := []string{"patched"}
	if len(other.modules) > 0 {
		later, again = []string{"patched with modules"}, []string{"patched with modules"}
	}
	for phase, like := range map[string][]string{
		"before": {"before"}, "before with modules": {"before with modules", "before"},
		"patched": {"patched"}, "patched with modules": later, "patched again": again,
		"log of apply": {"log of apply"}, "log of apply again": {"log of apply again", "log of apply"}, "log of modprobe": {"log of modprobe"},
		"log of revert": {"log of revert"}, "log of revert with modules": {"log of revert with modules", "log of revert"},
	} {
		for _, name := range like {
			if want, ok := other.expect[name]; ok {
				c.expect[phase] += want
				break
			}
		}
	}
}

// arm64Session is a machine for this kernel.
func (k *target) arm64Session(t testing.TB, dir string) *session {
	return &session{target: k, config: vm.Config{Kernel: k.Kernel, Timeout: 20 * time.Minute, Limit: 5 * time.Minute, Files: crossBuilt(t, dir, "arm64")}}
}

// addARM64 builds the package of a case and adds its steps.
func (s *session) addARM64(t *testing.T, dir string, c *testCase, patches []string) {
	t.Helper()
	file := filepath.Join(dir, c.name+".lpatch")
	said := s.buildFrom(t, file, patches)
	if !regexp.MustCompile(`, module \w+`).MatchString(said) || strings.Contains(said, "direct calls") {
		t.Errorf("%s: not for the livepatch core:\n%s", c.name, said)
	}
	s.config.Files = append(s.config.Files, vm.File{Name: "/" + c.name + ".lpatch", From: file})
	s.config.Modules = append(s.config.Modules, c.modules...)
	s.addCase(&madeCase{c, file, moduleSaid(t, said)})
}

// arm64Alone are the cases of which each has a package of its own.
var arm64Alone = []string{"alternatives", "bug-table", "called-by-kernel", "callbacks", "changed-string", "function-pointer", "jump-label", "module", "new-global", "new-static", "shadow", "special-static", "static-local", "usercopy"}

// TestARM64Cases does it for each case alone.
func TestARM64Cases(t *testing.T) { eachARM64(t) }

// TestARM64CFI does it on a kernel that checks indirect calls, by clang: functions that are
// reached through pointers are replaced, the kernel calls new ones, and callbacks.
func TestARM64CFI(t *testing.T) { eachARM64(t, "--cfi") }

// TestARM64SizeCases does it on the kernel without CALL_OPS.
func TestARM64SizeCases(t *testing.T) { eachARM64(t, "--size") }

// eachARM64 sees each case alone come and go on one of these kernels.
func eachARM64(t *testing.T, args ...string) {
	t.Helper()
	if os.Getenv("LIVEPATCH_SLOW") == "" {
		t.Skip("set LIVEPATCH_SLOW=1 for it")
	}
	k := builtARM64(t, args...)
	dir := t.TempDir()
	s := k.arm64Session(t, dir)
	for _, name := range arm64Alone {
		c := k.arm64Case(t, name)
		s.addARM64(t, dir, c.testCase, []string{c.patch})
	}
	s.run(t)
}

// TestARM64Merge merges packages for this kernel into one, and sees all of them in effect.
func TestARM64Merge(t *testing.T) {
	if os.Getenv("LIVEPATCH_SLOW") == "" {
		t.Skip("set LIVEPATCH_SLOW=1 for it")
	}
	k := builtARM64(t)
	dir := t.TempDir()
	s := k.arm64Session(t, dir)
	var cases []*madeCase
	var files, modules []string
	for _, name := range []string{"alternatives", "jump-label", "module", "usercopy"} {
		c := k.arm64Case(t, name)
		file := filepath.Join(dir, name+".lpatch")
		cases = append(cases, &madeCase{c.testCase, file, moduleSaid(t, k.buildFrom(t, file, []string{c.patch}))})
		files, modules = append(files, file), append(modules, c.modules...)
	}
	all := filepath.Join(dir, "all.lpatch")
	said := livepatch(t, append([]string{"merge", "-o", all}, files...)...)
	k.verifyARM64(t, all, modules)
	s.config.Files = append(s.config.Files, vm.File{Name: "/all.lpatch", From: all})
	s.config.Modules = append(s.config.Modules, modules...)
	s.addMerged(cases, modules, said)
	s.run(t)
}
