//go:build linux && amd64

package test

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

// TestWatchUnderSystemd has systemd start the unit of watch, as it comes, in a machine:
// it patches a service that systemd has confined, whenever that starts.
func TestWatchUnderSystemd(t *testing.T) {
	systemd := "/lib/systemd/systemd"
	for _, tool := range []string{systemd, "systemctl", "ldd"} {
		testkit.Tool(t, tool)
	}
	k := vm.Fetched(t, "6.12")
	c := vm.Config{
		Kernel: k, Timeout: 15 * time.Minute, Limit: 12 * time.Minute,
		Init: systemd + " --log-target=kmsg --show-status=no", Append: "systemd.default_standard_output=kmsg ",
	}
	add := func(name, from string) { c.Files = append(c.Files, vm.File{Name: name, From: from}) }
	add("/usr/bin/systemctl", "/usr/bin/systemctl")
	add(systemd, systemd)
	for _, name := range []string{"sysinit", "basic", "local-fs", "multi-user", "shutdown"} {
		path := "/lib/systemd/system/" + name + ".target"
		c.Files = append(c.Files, vm.File{Name: path, From: path, Mode: 0o644})
	}
	program := filepath.Join(binaries, "x86_64-gcc/prog.stripped")
	dynamic := []string{systemd, "/usr/bin/systemctl", program, livepatchProgram(t)}
	if executor := systemd + "-executor"; exists(executor) { // since version 255
		add(executor, executor)
		dynamic = append(dynamic, executor)
	}
	for _, file := range libraries(t, dynamic...) {
		add(file, file)
	}
	add("/usr/local/bin/livepatch", livepatchProgram(t))
	add("/usr/bin/prog.stripped", program)
	pkg, key := signedPackage(t, program)
	add("/var/lib/livepatch/fix.lpatch", pkg)
	add("/etc/livepatch/release.key.pub", key)
	unit, err := os.ReadFile("../contrib/livepatch-watch.service")
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{
		"livepatch-watch.service": string(unit),
		"default.target":          "[Unit]\nRequires=multi-user.target\nAfter=multi-user.target\n",
		"server.service":          confined,
	} {
		c.Files = append(c.Files, vm.File{Name: "/etc/systemd/system/" + name, Data: []byte(data), Mode: 0o644})
	}
	for name, data := range map[string]string{"/etc/passwd": "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n", "/etc/group": "root:x:0:\nnogroup:x:65534:\n", "/etc/os-release": "ID=debian\n", "/etc/machine-id": strings.Repeat("1", 32) + "\n"} {
		c.Files = append(c.Files, vm.File{Name: name, Data: []byte(data), Mode: 0o644})
	}
	c.Steps = []vm.Step{{Name: "boot", Script: systemdScript}}
	r, err := vm.Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	s := r.Steps[0]
	t.Logf("%v of %v:\n%s", s.Elapsed, r.Elapsed, s.Output)
	for _, want := range []string{
		`(?m)^ActiveState=active$`,
		`(?m)^Seccomp:\t2$`, // of the service; that of livepatch is
		`(?m)^watch 0$`,
		`(?m)^first 1011$`,
		`(?m)^again 1011$`,
		`(?m)^reverted 104$`,
		`(?m)^after a restart of watch 106$`, // what was taken back stays so
	} {
		if !regexp.MustCompile(want).MatchString(s.Output) {
			t.Errorf("no %s", want)
		}
	}
	if s.Exit != 0 {
		t.Errorf("exit %d", s.Exit)
		for _, l := range s.Log {
			t.Log(l.Text)
		}
	}
}

// libraries lists what programs need to run: the files that ldd names, if it knows
// the program for a dynamic one.
func libraries(t *testing.T, programs ...string) (files []string) {
	t.Helper()
	seen := map[string]bool{}
	for _, p := range programs {
		out, err := exec.Command("ldd", p).CombinedOutput()
		if err != nil && !strings.Contains(string(out), "not a dynamic executable") {
			t.Fatalf("ldd %s: %v: %s", p, err, out)
		}
		for _, word := range strings.Fields(string(out)) {
			if strings.HasPrefix(word, "/") && !seen[word] {
				seen[word] = true
				files = append(files, word)
			}
		}
	}
	return files
}

// signedPackage makes a package for a program and a key.
func signedPackage(t *testing.T, program string) (pkg, key string) {
	t.Helper()
	dir, objects := t.TempDir(), filepath.Dir(program)
	pkg, key = filepath.Join(dir, "fix.lpatch"), filepath.Join(dir, "release.key")
	for _, args := range [][]string{
		{"keygen", "-o", key},
		{"create", "-o", pkg, "--target", program, "--pair", filepath.Join(objects, "counter.O2.before.o") + "=" + filepath.Join(objects, "counter.O2.after.o")},
		{"sign", "--key", key, pkg},
	} {
		if out, err := exec.Command(livepatchProgram(t), args...).CombinedOutput(); err != nil {
			t.Fatalf("livepatch %s: %v\n%s", args[0], err, out)
		}
	}
	return pkg, key + ".pub"
}

// confined is a service as distributions confine theirs.
const confined = `[Service]
ExecStart=/usr/bin/prog.stripped 4
StandardInput=file:/run/in
StandardOutput=truncate:/run/out
User=nobody
NoNewPrivileges=yes
ProtectSystem=strict
SystemCallFilter=@system-service
MemoryDenyWriteExecute=yes
`

const systemdScript = `
PATH=$PATH:/usr/bin:/usr/local/bin
mkfifo /run/in
chmod 666 /run/in
sleep 1000 <>/run/in &
await() { for i in $(seq 900); do "$@" >/tmp/said 2>&1 && return; sleep 0.2; done; echo "never: $*"; cat /tmp/said; exit 1; }
property() { systemctl show -p "$1" --value "$2"; }
active() { [ "$(property ActiveState "$1")" = active ]; }
server() { property MainPID server; }
applied() { livepatch status --pid "$(server)" | grep applied; }
answered() { [ $(wc -l </run/out) -gt $1 ]; }
ask() {
	before=$(wc -l </run/out)
	echo tick 0 >/run/in
	await answered $before
	echo "$1 $(tail -n1 /run/out)"
}
await active default.target
systemctl enable --now livepatch-watch 2>&1 || exit 1
readlink /etc/systemd/system/*.wants/livepatch-watch.service
systemctl start server
await active livepatch-watch
systemctl show -p ActiveState livepatch-watch
await active server
grep ^Seccomp: /proc/$(server)/status
echo watch $(grep ^Seccomp: /proc/$(property MainPID livepatch-watch)/status | cut -f2)
await applied
ask first
systemctl restart server
await applied
ask again
livepatch revert fix --pid $(server)
ask reverted
systemctl restart livepatch-watch
await active livepatch-watch
sleep 2
ask "after a restart of watch"
systemctl stop livepatch-watch
property Result livepatch-watch
`

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
