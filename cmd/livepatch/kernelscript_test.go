package main

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"livepatch/internal/testkit/vm"
)

// TestKernelScripts runs scripts that need kernels of Debian: $KERNEL is the directory of
// scripts/kernel with a 6.12, $OTHER that of a 6.1, both with the objects of
// scripts/kernel-objects.
func TestKernelScripts(t *testing.T) {
	dirs := map[string]string{}
	for name, series := range map[string]string{"KERNEL": "6.12", "OTHER": "6.1"} {
		vm.Script(t, "kernel-objects", "--cached", "--kernel", series, "--cases")
		dirs[name] = vm.Script(t, "kernel", "--cached", "--source", series)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/kernel",
		Setup: func(env *testscript.Env) error {
			for name, dir := range dirs {
				env.Setenv(name, dir)
			}
			return nil
		},
		Condition: installed,
		Cmds:      map[string]func(*testscript.TestScript, bool, []string){"code": code},
	})
}
