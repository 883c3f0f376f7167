package kernel

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"livepatch/internal/testkit"
	"livepatch/internal/testkit/vm"
)

// TestDirectARM64Objects patches Debian's unmodified kernel for arm64 by changes of its
// source. A static function shows more, with the static variables of the running kernel, a
// new function and a new variable; another has all that the kernel's tables name places in
// code for: alternatives, also those with a callback, a jump label, an exception, a warning.
// The objects are made by the cross compiler, another revision than the kernel's; the proof
// shows that it makes the same code of these files.
func TestDirectARM64Objects(t *testing.T) {
	k := &target{vm.Fetched(t, "--arch", "arm64", "6.12"), "6.12"}
	dir := t.TempDir()
	k.directARM64(t, func(name string, c arm64Change, file string) (int, string) {
		before, after := k.withHeaders(t, filepath.Join(dir, name), c.source, c.patch)
		return k.livepatch(t, "create", "-o", file, "--symvers", k.Path("headers/Module.symvers"), "--config", k.Path("headers/.config"),
			"--target", k.Path("vmlinuz"), "--no-replace", "--pair", before+"="+after)
	})
}

// TestDirectARM64Build has build make the packages, with the kernel's own compiler, which
// an emulator runs.
func TestDirectARM64Build(t *testing.T) {
	if os.Getenv("LIVEPATCH_SLOW") == "" {
		t.Skip("set LIVEPATCH_SLOW=1 for it")
	}
	k := &target{vm.Fetched(t, "--arch", "arm64", "6.12"), "6.12"}
	k.directARM64(t, func(_ string, c arm64Change, file string) (int, string) {
		return k.build(t, file, []string{c.patch}, "--arch", "arm64", "--no-replace")
	})
}

// An arm64Change is a patch of one source, and what the package says of it.
type arm64Change struct {
	source, patch string
	want          []string
}

var arm64Changes = map[string]arm64Change{
	"fs":     {"fs/filesystems.c", "testdata/arm64/direct.patch", []string{"replace  filesystems_proc_show ", "share    file_systems "}},
	"tables": {"fs/proc/version.c", "testdata/arm64/tables.patch", []string{"replace  version_proc_show ", "share    sched_schedstats "}},
}

// directARM64 has packages made of the changes and looks at them in the running kernel.
func (k *target) directARM64(t *testing.T, make func(name string, c arm64Change, file string) (int, string)) {
	dir := t.TempDir()
	s := &session{target: k, config: vm.Config{Kernel: k.Kernel, Timeout: 20 * time.Minute, Limit: 5 * time.Minute, Modules: []string{"sysv"}, Files: crossBuilt(t, dir, "arm64")}}
	for name, c := range arm64Changes {
		file := filepath.Join(dir, name+".lpatch")
		code, said := make(name, c, file)
		if code != 0 {
			t.Fatalf("%s: exit %d\n%s", name, code, said)
		}
		for _, want := range append(c.want, "module livepatch_"+name+", direct calls") {
			if !strings.Contains(said, want) {
				t.Errorf("no %q in\n%s", want, said)
			}
		}
		s.config.Files = append(s.config.Files, vm.File{Name: "/" + name + ".lpatch", From: file})
	}
	s.doAll(objectSteps)
	s.do("warning", "renice -n 7 -p $$ >/dev/null; cat /proc/version >/dev/null", func(t *testing.T, r *vm.StepResult) {
		for _, want := range []string{`(?m)^<\d> nice 7$`, `(?m)^<\d> WARNING: .*fs/proc/version.c:\d+ (?:at )?version_proc_show\+.* \[livepatch_tables\]$`} {
			if !regexp.MustCompile(want).MatchString(logText(r.Log)) {
				t.Errorf("the kernel did not log %s", want)
			}
		}
	})
	s.doAll(objectEnd)
	s.run(t)
}

// features prints what the processor has as the tables patch does.
const features = `for f in paca bti atomics; do printf "$f %d " $(grep -m1 Features /proc/cpuinfo | grep -cw $f); done`

var objectSteps = []saying{
	{"before", "head -n 1 /proc/filesystems; livepatch verify /fs.lpatch --running-kernel; livepatch verify /tables.lpatch --running-kernel", 0, []string{`^nodev\tsysfs$`}},
	{"apply", `livepatch apply /fs.lpatch --kernel && for i in 1 2; do head -n 1 /proc/filesystems; done
set -- $(head -n 1 /proc/filesystems); test $(wc -l </proc/filesystems) = $(($3 + 1)) && echo "all $1"`, 0, []string{`patched 1 function`, `^1 of \d+$`, `^2 of \d+$`, `^all 3$`}},
	// What a module adds to the kernel's own list is seen by the new code.
	{"shared", `set -- $(head -n 1 /proc/filesystems); a=$3; modprobe sysv; set -- $(head -n 1 /proc/filesystems); echo "more $(($3 > a)), $(grep -c sysv /proc/filesystems)"`, 0, []string{`^more 1, 1$`}},
	// The key is the kernel's; it changes the new code too, whenever it changes.
	{"tables", `livepatch apply /tables.lpatch --kernel && cd /proc/sys/kernel && for n in 0 1 0; do echo $n >sched_schedstats; head -n 1 /proc/version; done; ` + features, 0, []string{
		`^paca 1 bti 1 atomics 1 schedstats 0 fault -14 read 1$`, `^paca 1 bti 1 atomics 1 schedstats 1 fault -14 read 2$`, `^paca 1 bti 1 atomics 1 schedstats 0 fault -14 read 3$`,
		`^paca 1 bti 1 atomics 1 $`}},
}

var objectEnd = []saying{
	{"revert", "livepatch revert --all --kernel; head -n 1 /proc/filesystems; grep -c paca /proc/version; grep -c . /sys/kernel/tracing/enabled_functions", 1, []string{
		`livepatch_fs is retired until the next boot`, `reverted 2 functions`, `^nodev\tsysfs$`, `^0\n0$`}},
	{"again", "livepatch apply /fs.lpatch --kernel; head -n 1 /proc/filesystems; livepatch revert --all --kernel; head -n 1 /proc/filesystems", 0, []string{
		`^\d+ of \d+$`, `^nodev\tsysfs$`}},
}

// withHeaders compiles a file of the kernel before and after a patch, in a new directory, with the package of
// headers alone, as a module would be, but built in. The file is that of the same package
// of sources that the kernels for this machine have.
func (k *target) withHeaders(t *testing.T, dir, source, patch string) (before, after string) {
	t.Helper()
	cc := testkit.Tool(t, "aarch64-linux-gnu-gcc-12")
	from := filepath.Join(vm.Fetched(t, "--source", k.version).Path("source"), source)
	base := filepath.Base(source)
	object := strings.TrimSuffix(base, ".c") + ".o"
	headers, work := filepath.Join(dir, "headers"), filepath.Join(dir, "work")
	k.linkHeaders(t, headers)
	for _, d := range []string{work, filepath.Join(work, filepath.Dir(source))} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put := func(name string, data []byte) {
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(work, source)
	put(filepath.Join(filepath.Dir(file), "Kbuild"), []byte("obj-y := "+object+"\n"))
	put(file, testkit.Read(t, from))
	if internal := filepath.Join(filepath.Dir(from), "internal.h"); exists(internal) {
		put(filepath.Join(filepath.Dir(file), "internal.h"), testkit.Read(t, internal))
	}
	compile := func(to string) string {
		testkit.Run(t, "make", "-s", "-C", headers, "M="+filepath.Dir(file), "ARCH=arm64", "CROSS_COMPILE=aarch64-linux-gnu-", "CC="+cc, "KCFLAGS=-ffunction-sections", object)
		to = filepath.Join(dir, to)
		if err := os.Rename(strings.TrimSuffix(file, ".c")+".o", to); err != nil {
			t.Fatal(err)
		}
		return to
	}
	before = compile("before.o")
	testkit.Run(t, "patch", "-s", "-d", work, "-p1", "-i", filepath.Join(testkit.Root(t), "test/kernel", patch))
	return before, compile("after.o")
}

// linkHeaders makes a tree of the package of headers, whose Makefile names another one by
// the place where it would be installed.
func (k *target) linkHeaders(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	from, err := filepath.EvalSymlinks(k.Path("headers"))
	if err != nil {
		t.Fatal(err)
	}
	common, err := filepath.EvalSymlinks(k.Path("headers-common"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{".config", ".kernelvariables", "Module.symvers", "arch", "include", "scripts", "tools"} {
		if err := os.Symlink(filepath.Join(from, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "Makefile"), []byte("include "+common+"/Makefile\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}
