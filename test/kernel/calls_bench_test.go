package kernel

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"livepatch/internal/testkit/vm"
)

// ways are how a kernel is patched, with the options of stub for each.
var ways = map[string][]string{
	"klp": {"--flavour", "klp"}, "direct": {"--flavour", "direct"}, "shared": {"--flavour", "direct", "--dispatch", "shared"},
}

// spares are system calls that nobody makes while the memory of patches is measured.
const spares = "acct adjtimex fanotify_init fanotify_mark flistxattr fremovexattr fsetxattr fgetxattr getcpu get_mempolicy io_cancel io_destroy io_getevents io_setup io_submit ioprio_get " +
	"ioprio_set kcmp keyctl lgetxattr listxattr llistxattr lremovexattr lsetxattr mbind migrate_pages mincore mlockall move_pages msgctl msgget msgrcv"

// BenchmarkPatchedCall measures a system call that looks a constant up (0, the
// highest priority of SCHED_NORMAL), unpatched and patched by code that returns it,
// and the memory that a kernel allocates by pages for each function of a patch, in one
// machine for each kernel. An emulator counts instructions, not what they cost a
// processor.
func BenchmarkPatchedCall(b *testing.B) {
	for _, k := range []struct {
		name, prefix, number string
		args, ways           []string
	}{
		{"6.1", "__x64_sys_", "146", []string{"6.1"}, []string{"klp", "direct", "shared"}},
		{"6.12", "__x64_sys_", "146", []string{"6.12"}, []string{"klp", "direct", "shared"}},
		{"arm64", "__arm64_sys_", "125", []string{"--arch", "arm64", "6.12"}, []string{"direct", "shared"}},
	} {
		b.Run(k.name, func(b *testing.B) {
			t := &target{vm.Fetched(b, k.args...), k.name}
			dir := b.TempDir()
			c := vm.Config{Kernel: t.Kernel, CPUs: 1, Timeout: 20 * time.Minute, Limit: 5 * time.Minute, Files: crossBuilt(b, dir, t.Arch)}
			call := "/bin/probe calls " + k.number + " 1000"
			do := func(name, script string) { c.Steps = append(c.Steps, vm.Step{Name: name, Script: script}) }
			do("unpatched", call)
			first := k.prefix + "sched_get_priority_max"
			many := strings.Fields(first + " " + k.prefix + strings.ReplaceAll(spares, " ", " "+k.prefix))
			for _, way := range k.ways {
				for name, functions := range map[string][]string{way: {first}, way + "-many": many} {
					file := filepath.Join(dir, name+".lpatch")
					args := append([]string{"--name", "by-" + name, "--return", "0", "--allow", "stub-lock", "--config", t.Path("config"), "--symvers", t.Path("headers/Module.symvers")}, ways[way]...)
					if code, said := t.stub(b, file, append(args, functions...)...); code != 0 {
						b.Fatalf("%s: exit %d:\n%s", name, code, said)
					}
					c.Files = append(c.Files, vm.File{Name: "/" + name + ".lpatch", From: file})
				}
				if way != "klp" {
					do("", fmt.Sprintf("cd /tmp && tar xf /%s.lpatch && insmod payload/1.ko 2>/dev/null; true", way))
				}
				do("one "+way, memoryOf(way))
				do(way, call)
				do("", revert(way))
				do("many "+way, memoryOf(way+"-many"))
				do("", revert(way+"-many"))
			}
			do("reverted", call)
			for b.Loop() {
				report(b, c)
			}
		})
	}
}

// memoryOf applies a package and prints by how many bytes what is allocated by pages
// grew: code and data of modules, and the code that ftrace makes for its users.
func memoryOf(name string) string {
	const sum = "$(awk '{s+=$2} END {print s}' /proc/vmallocinfo)"
	return fmt.Sprintf("a=%s; livepatch apply /%s.lpatch --kernel >/tmp/out 2>&1 || cat /tmp/out; b=%s; echo $((b-a))", sum, name, sum)
}

func revert(name string) string {
	return "livepatch revert by-" + name + " --kernel >/tmp/out 2>&1 || cat /tmp/out"
}

// report runs the machine once and reports what it measured.
func report(b *testing.B, c vm.Config) {
	r, err := vm.Run(context.Background(), c)
	if err != nil {
		b.Fatal(err)
	}
	values := map[string]float64{}
	for _, s := range r.Steps {
		v, err := strconv.ParseFloat(strings.TrimSpace(s.Output), 64)
		if s.Exit != 0 || err != nil && strings.TrimSpace(s.Output) != "" {
			b.Fatalf("%s: exit %d: %s", s.Name, s.Exit, s.Output)
		}
		values[s.Name] = v
	}
	more := float64(len(strings.Fields(spares)))
	for name, v := range values {
		way, isMany := strings.CutPrefix(name, "many ")
		switch {
		case isMany:
			b.ReportMetric((v-values["one "+way])/more, way+"-B/function")
		case name != "" && !strings.HasPrefix(name, "one "):
			b.ReportMetric(v, name+"-ns/call")
		}
	}
}
