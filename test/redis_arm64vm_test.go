//go:build linux && amd64

package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"livepatch/internal/testkit/vm"
)

// TestRedisOnArm64 patches Debian's redis for arm64 under load, in a machine with
// Debian's kernel that lets nobody but ptrace write code: verifies, applies, replaces
// the patch by another, and takes that back; what loaders leave that are killed in the
// middle of a change is finished or taken back.
func TestRedisOnArm64(t *testing.T) {
	if os.Getenv("LIVEPATCH_SLOW") == "" {
		t.Skip("set LIVEPATCH_SLOW=1 for it")
	}
	k := vm.Fetched(t, "--arch", "arm64", "6.12")
	files := vm.Script(t, "redis-arm64")
	dir := t.TempDir()
	program := filepath.Join(dir, "livepatch")
	build := exec.Command("go", "build", "-o", program, "livepatch/cmd/livepatch")
	build.Env = append(os.Environ(), "GOARCH=arm64", "CGO_ENABLED=0")
	server := filepath.Join(files, "root/usr/bin/redis-check-rdb")
	killat := exec.Command("go", "build", "-o", filepath.Join(dir, "killat"), "./testdata/killat")
	killat.Env = build.Env
	cmds := []*exec.Cmd{build, killat}
	for _, name := range []string{"fix", "next"} {
		cmds = append(cmds, exec.Command(livepatchProgram(t), "create", "--name", name, "-o", filepath.Join(dir, name+".lpatch"), "--target", server,
			"--pair", filepath.Join(files, "t_string.before.o")+"="+filepath.Join(files, "t_string.after.o")))
	}
	for _, cmd := range cmds {
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", cmd, err, out)
		}
	}
	c := vm.Config{
		Kernel: k, Counted: true, Timeout: time.Hour, Limit: time.Hour, Append: "proc_mem.force_override=never",
		Files: []vm.File{
			{Name: "/livepatch", From: program}, {Name: "/killat", From: filepath.Join(dir, "killat")}, {Name: "/redis-server", From: server},
			{Name: "/fix.lpatch", From: filepath.Join(dir, "fix.lpatch")}, {Name: "/next.lpatch", From: filepath.Join(dir, "next.lpatch")},
			{Name: "/redis-cli", From: filepath.Join(files, "root/usr/bin/redis-cli")},
			{Name: "/redis-benchmark", From: filepath.Join(files, "root/usr/bin/redis-benchmark")},
		},
		Steps: []vm.Step{{Name: "redis", Script: redisScript}},
	}
	libs, err := filepath.Glob(filepath.Join(files, "root/*/aarch64-linux-gnu/*.so*"))
	more, err2 := filepath.Glob(filepath.Join(files, "root/usr/lib/aarch64-linux-gnu/*.so*"))
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	for _, lib := range append(libs, more...) {
		c.Files = append(c.Files, vm.File{Name: "/lib/" + filepath.Base(lib), From: lib})
	}
	r, err := vm.Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	s := r.Steps[0]
	t.Logf("%v of %v:\n%s", s.Elapsed, r.Elapsed, s.Output)
	if s.Exit != 0 {
		t.Errorf("exit %d", s.Exit)
	}
	var said []string
	for line := range strings.Lines(s.Output) {
		if word, ok := strings.CutPrefix(line, "said "); ok {
			said = append(said, strings.TrimSpace(word))
		}
	}
	for _, did := range []string{"rolled back", "finished"} {
		if !strings.Contains(s.Output, did+", ") {
			t.Errorf("no change was %s by repair", did)
		}
	}
	if got, want := strings.Join(said, " "), "5 10 10 5 10 10 5"+strings.Repeat(" 5", 14)+" 10"; got != want {
		t.Errorf("lengths %q, want %q", got, want)
	}
	for _, l := range s.Log {
		if l.Level <= 3 {
			t.Errorf("the kernel says: %s", l.Text)
		}
	}
}

// redisScript has clients ask for a length without a pause, and changes the
// server meanwhile.
const redisScript = `set -e
cli="/redis-cli -s /tmp/redis"
patience="--timeout 60s --max-pause 10s"
/redis-server --port 0 --unixsocket /tmp/redis --save '' --appendonly no --dir /tmp >/tmp/log &
server=$!
until $cli ping 2>/dev/null | grep -q PONG; do sleep 1; done
$cli set key 12345
/redis-benchmark -s /tmp/redis -q -n 3000000 -c 8 strlen key >/tmp/load 2>&1 &
load=$!
sleep 2
say() { echo "said $($cli strlen key)"; }
say
for i in 1 2; do
	/livepatch verify --pid $server /fix.lpatch
	/livepatch apply --pid $server $patience /fix.lpatch
	/livepatch status --pid $server
	say
	/livepatch retarget --pid $server $patience /next.lpatch
	say
	/livepatch revert --pid $server $patience next
	say
done
# Loaders are killed at their writes, the last of which is that the change is made,
# and what they have left is finished or taken back.
/killat 0 /livepatch apply --pid $server $patience /fix.lpatch | tee /tmp/through
writes=$(sed -n 's/^killat: \([0-9]*\) writes, killed false$/\1/p' /tmp/through)
/livepatch revert --pid $server $patience fix
for n in 1 $((writes / 3)) $((writes * 2 / 3)) $((writes - 3)) $((writes - 2)) $((writes - 1)) $writes; do
	for remedy in --rollback --finish; do
		/killat $n /livepatch apply --pid $server $patience /fix.lpatch
		/livepatch status --pid $server
		/livepatch repair --pid $server $patience $remedy
		if /livepatch status --pid $server --json | grep -q '"applied"'; then
			[ "$($cli strlen key)" = 10 ]
			/livepatch revert --pid $server $patience fix
		fi
		say
	done
done
/livepatch revert --reclaim --pid $server $patience
/livepatch status --pid $server
kill -0 $load
kill $load
! grep -i error /tmp/load
$cli info stats | grep total_commands
$cli shutdown nosave || true
wait $server
# One that starts is patched by livepatch watch.
mkdir /tmp/packages
cp /fix.lpatch /tmp/packages
/livepatch keygen -o /tmp/key
/livepatch sign --key /tmp/key /tmp/packages/fix.lpatch
/livepatch watch --dir /tmp/packages --key /tmp/key.pub $patience >/tmp/watched 2>&1 &
watcher=$!
/redis-server --port 0 --unixsocket /tmp/redis --save '' --appendonly no --dir /tmp >/tmp/log &
server=$!
until /livepatch status --pid $server --json | grep -q '"applied"'; do sleep 1; done
until $cli ping 2>/dev/null | grep -q PONG; do sleep 1; done
$cli set key 12345
say
kill $watcher
wait $watcher || true
cat /tmp/watched
`
