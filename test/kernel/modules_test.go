package kernel

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"livepatch/internal/testkit/vm"
)

// TestTwoModules patches two modules by one package, once built from two patches
// and once merged from two packages: one module is there before the patch, the
// other comes while it is loaded, and the first one goes before the patch does. On
// one kernel; on both with LIVEPATCH_SLOW.
func TestTwoModules(t *testing.T) {
	const early, late = "8021q", "nf_conntrack"
	const show = "head -n 1 /proc/net/vlan/config; [ ! -e /proc/net/stat/nf_conntrack ] || head -n 1 /proc/net/stat/nf_conntrack | cut -d' ' -f 1-2"
	tried := []string{"6.12"}
	if os.Getenv("LIVEPATCH_SLOW") != "" {
		tried = []string{"6.1", "6.12"}
	}
	for _, v := range tried {
		t.Run(v, func(t *testing.T) {
			k := fetched(t, v)
			dir := t.TempDir()
			build := func(name string, want []string, patches ...string) string {
				file := filepath.Join(dir, name+".lpatch")
				code, said := k.build(t, file, patches)
				if code != 0 {
					t.Fatalf("%s: exit %d:\n%s", name, code, said)
				}
				if d := cmp.Diff(want, replaced(said)); d != "" {
					t.Errorf("%s (-want +got)\n%s", name, d)
				}
				return file
			}
			vlan, conntrack := "testdata/build/vlan.patch", "testdata/build/conntrack.patch"
			functions := []string{early + " vlan_seq_show", late + " ct_cpu_seq_show"}
			built := build("built", functions, vlan, conntrack)
			merged := filepath.Join(dir, "merged.lpatch")
			livepatch(t, "merge", "-o", merged, build("vlan", functions[:1], vlan), build("conntrack", functions[1:], conntrack))

			s := k.session(t)
			s.config.Modules = []string{early, late}
			s.do("early", "modprobe "+early+"; "+show, printsLast("VLAN Dev name	 | VLAN ID\n"))
			s.config.Files = append(s.config.Files, vm.File{Name: "/built.lpatch", From: built}, vm.File{Name: "/merged.lpatch", From: merged})
			s.do("built/apply", "livepatch apply /built.lpatch --kernel && "+show, printsLast("VLAN name	 | VLAN ID\n"))
			s.do("built/late", "modprobe "+late+"; "+show, printsLast("VLAN name	 | VLAN ID\nentries of\n"))
			s.do("built/revert", "livepatch revert built --kernel && "+show, printsLast("VLAN Dev name	 | VLAN ID\nentries \n"))
			s.do("merged/apply", "livepatch apply /merged.lpatch --kernel && "+show, printsLast("VLAN name	 | VLAN ID\nentries of\n"))
			s.do("merged/without", "rmmod "+early+" && livepatch revert merged --kernel && modprobe "+early+" && "+show, printsLast("VLAN Dev name	 | VLAN ID\nentries \n"))
			s.run(t)
		})
	}
}

// printsLast is the check that a step ends well, that what it printed ends with a
// text, and that the kernel does not complain.
func printsLast(want string) func(t *testing.T, r *vm.StepResult) {
	return func(t *testing.T, r *vm.StepResult) {
		quiet(0)(t, r)
		if !strings.HasSuffix(r.Output, want) {
			t.Errorf("it does not print last\n%s", want)
		}
	}
}
