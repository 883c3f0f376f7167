package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"livepatch/internal/testkit"
	"livepatch/internal/testkit/vm"
)

// TestKernelScripts runs scripts that need kernels of Debian: $KERNEL is the directory of
// scripts/kernel with a 6.12, $OTHER that of a 6.1, both with the objects of
// scripts/kernel-objects. $KERNEL_NAME and $OTHER_NAME are the directories with the pairs of
// objects of the case NAME.
func TestKernelScripts(t *testing.T) {
	dirs := map[string]string{}
	for name, series := range map[string]string{"KERNEL": "6.12", "OTHER": "6.1"} {
		for line := range strings.Lines(vm.Script(t, "kernel-objects", "--cached", "--kernel", series, "--cases")) {
			if f := strings.Fields(line); len(f) == 2 {
				dirs[name+"_"+strings.ReplaceAll(f[0], "-", "_")] = f[1]
			}
		}
		dirs[name] = vm.Script(t, "kernel", "--cached", "--source", series)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/kernel",
		Setup: func(env *testscript.Env) error {
			env.Setenv("BIN", filepath.Join(testkit.Root(t), "testdata/binaries/x86_64-gcc"))
			for name, dir := range dirs {
				env.Setenv(name, dir)
			}
			return nil
		},
		Condition: installed,
		Cmds:      map[string]func(*testscript.TestScript, bool, []string){"code": code},
	})
}
