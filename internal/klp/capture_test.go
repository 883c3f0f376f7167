package klp

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/txtar"

	"livepatch/internal/testkit/vm"
)

// captured is what TestCapture writes: the files of a machine in which a
// livepatch waits for a task, another is enabled, a third was replaced, and
// probes and tracers of several kinds are attached.
const captured = "../kstate/testdata/6.12.txtar"

const captureScript = `
mount -t securityfs securityfs /sys/kernel/security
mkfifo /tmp/f; cat /tmp/f & sleep 1
insmod one.ko; insmod two.ko; sleep 3
insmod all.ko; sleep 3; insmod probe.ko
cd /sys/kernel/tracing
echo 'p:mid cmdline_proc_show+10' >kprobe_events
echo 'p:entry stat_open' >>kprobe_events
echo 'r:out uptime_proc_show' >>kprobe_events
for p in mid entry out; do echo 1 >events/kprobes/$p/enable; done
echo loadavg_proc_show >set_ftrace_filter; echo function >current_tracer
echo "$(cat /sys/kernel/tracing/kprobe_events)"
insmod /root/busy.ko; sleep 1
emit() {
	if [ -d "$1" ]; then echo "-- ${1#/}/ --"; else echo "-- ${1#/} --"; base64 "$1" 2>/dev/null; fi
}
cat=$(pidof cat | cut -d' ' -f1)
echo @@@
for f in $(find /sys/kernel/livepatch ! -name force) /sys/kernel/notes /sys/kernel/security/lockdown \
	/sys/module/module/parameters/sig_enforce /proc/sys/kernel/osrelease /proc/sys/kernel/modules_disabled /proc/sys/kernel/ftrace_enabled \
	/sys/kernel/tracing/enabled_functions /sys/kernel/debug/kprobes/list /proc/self/status \
	/proc/$cat/task/$cat/stat /proc/$cat/task/$cat/stack /proc/$cat/task/$cat/patch_state \
	/proc/2/task/2/stat /proc/2/task/2/stack /proc/2/task/2/patch_state; do emit $f; done
for m in lp_one lp_two lp_all lp_busy xfs; do for f in initstate refcnt taint srcversion notes/.note.gnu.build-id; do
	[ -e /sys/module/$m/$f ] && emit /sys/module/$m/$f
done; done
echo "-- sys/kernel/btf/vmlinux --"; echo "-- proc/kallsyms --"
grep -E ' (cmdline_proc_show|fifo_open|xfs_file_open|version_proc_show|inc_inflight_move_tail|_text)(	|$)' /proc/kallsyms | base64
echo @@@
echo; echo >/tmp/f
`

// TestCapture writes the captured files anew if UPDATE_CAPTURE is set.
func TestCapture(t *testing.T) {
	if os.Getenv("UPDATE_CAPTURE") == "" {
		t.Skip("UPDATE_CAPTURE is not set; the files are in the tree")
	}
	k := fetched(t, "6.12")
	c := vm.Config{Kernel: k.Kernel, Modules: []string{"xfs"}}
	for _, p := range []patch{
		{name: "one", function: "cmdline_proc_show", text: "x"}, {name: "two", function: "version_proc_show", text: "x"},
		{name: "all", function: "cmdline_proc_show", text: "x", replace: true}, {name: "busy", function: "fifo_open", sleep: 1},
		{name: "probe", function: "version_proc_show", probe: true},
	} {
		file := p.name + ".ko"
		if !p.probe {
			p.name = "lp_" + p.name
		}
		c.Files = append(c.Files, vm.File{Name: "/root/" + file, Data: k.compile(t, p)})
	}
	c.Steps = []vm.Step{{Name: "capture", Script: "modprobe xfs\n" + captureScript}}
	r, err := vm.Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(r.Steps[0].Output, "@@@\n")
	text, _, ok := strings.Cut(text, "@@@\n")
	if !ok {
		t.Fatal(r.Steps[0].Output)
	}
	a := txtar.Parse([]byte(strings.ReplaceAll(text, "\r", "")))
	a.Comment = []byte("Files of a machine with Debian's kernel " + k.Release + ", written by TestCapture of internal/klp.\n" +
		"Names of directories end with /, those of files in base64 with .base64.\n")
	for i := range a.Files {
		f := &a.Files[i]
		if strings.HasSuffix(f.Name, "/") {
			continue
		}
		b, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(string(f.Data), "\n", ""))
		if err != nil {
			t.Fatalf("%s: %v", f.Name, err)
		}
		if utf8.Valid(b) && !strings.Contains(string(b), "\x00") && strings.HasSuffix("\n"+string(b), "\n") {
			f.Data = b
		} else {
			f.Name += ".base64"
		}
	}
	if err := os.MkdirAll(filepath.Dir(captured), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(captured, txtar.Format(a), 0o644); err != nil {
		t.Fatal(err)
	}
}
