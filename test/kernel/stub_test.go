package kernel

import (
	"path/filepath"
	"testing"
	"time"

	"livepatch/internal/testkit/vm"
)

// stub runs livepatch stub for functions of the kernel image.
func (k *target) stub(t testing.TB, out string, args ...string) (int, string) {
	t.Helper()
	return k.livepatch(t, append([]string{"stub", "-o", out, "--target", filepath.Join(k.Dir, "vmlinuz")}, args...)...)
}

// Functions of running kernels return at once what was asked for, and do what they
// did once the patch is gone: an error, a constant of a system call, a static function
// of procfs, through the livepatch core and by a direct call.
func TestStub(t *testing.T) {
	for _, v := range []string{"6.1", "6.12"} {
		t.Run(v, func(t *testing.T) {
			k := fetched(t, v)
			s := k.session(t)
			s.config.Timeout, s.config.Limit = 20*time.Minute, 5*time.Minute
			dir := t.TempDir()
			add := func(name string, args ...string) {
				file := filepath.Join(dir, name+".lpatch")
				if code, said := k.stub(t, file, args...); code != 0 {
					t.Fatalf("%s: exit %d:\n%s", name, code, said)
				}
				s.config.Files = append(s.config.Files, vm.File{Name: "/" + name + ".lpatch", From: file})
			}
			add("closed", "--return", "-EPERM", "cmdline_proc_show")
			add("same", "--return", "0x7fffffffff", "__x64_sys_getpid", "__x64_sys_getppid")
			add("quick", "--return", "-EPERM", "--flavour", "direct", "cmdline_proc_show")
			add("vlan", "--target", k.moduleFile(t, "8021q"), "--return", "-EPERM", "vlan_seq_show")
			s.config.Modules = append(s.config.Modules, "8021q")
			s.do("closed/verify", "livepatch verify /closed.lpatch --running-kernel >/dev/null", quiet(0))
			s.do("closed/before", "grep -c console /proc/cmdline", printed("1\n", ""))
			s.do("closed/apply", "livepatch apply /closed.lpatch --kernel", quiet(0))
			s.do("closed/patched", "cat /proc/cmdline 2>&1 || true", printed("cat: read error: Operation not permitted\n", ""))
			s.do("closed/revert", "livepatch revert livepatch_closed --kernel", quiet(0))
			s.do("closed/reverted", "grep -c console /proc/cmdline", printed("1\n", ""))
			s.do("same/apply", "livepatch apply /same.lpatch --kernel", quiet(0))
			// The shell asks for both when it starts, and takes the lower 32 bits.
			s.do("same/patched", "sh -c 'echo $$ $PPID'", printed("-1 4294967295\n", ""))
			s.do("same/revert", "livepatch revert livepatch_same --kernel", quiet(0))
			s.do("same/reverted", "test $(sh -c 'echo $$') -gt 1 && echo yes", printed("yes\n", ""))
			s.do("quick/verify", "livepatch verify /quick.lpatch --running-kernel >/dev/null", quiet(0))
			s.do("quick/apply", "livepatch apply /quick.lpatch --kernel", quiet(0))
			s.do("quick/patched", "cat /proc/cmdline 2>&1 || true", printed("cat: read error: Operation not permitted\n", ""))
			s.do("quick/revert", "livepatch revert quick --kernel", quiet(0))
			s.do("quick/reverted", "grep -c console /proc/cmdline", printed("1\n", ""))
			// A function of a module, by the type information of that.
			s.do("vlan/before", "modprobe 8021q && grep -c 'VLAN Dev' /proc/net/vlan/config", printed("1\n", "8021q: 802.1Q VLAN Support v1.8"))
			s.do("vlan/apply", "livepatch apply /vlan.lpatch --kernel", quiet(0))
			s.do("vlan/patched", "cat /proc/net/vlan/config 2>&1 || true", printed("cat: read error: Operation not permitted\n", ""))
			s.do("vlan/revert", "livepatch revert vlan --kernel", quiet(0))
			s.do("vlan/reverted", "grep -c 'VLAN Dev' /proc/net/vlan/config", printed("1\n", ""))
			s.run(t)
		})
	}
}
