package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// The scripts run the real program: the test binary, started as livepatch.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"livepatch": main})
}

// TestScripts runs the stories in testdata/script. UPDATE_GOLDEN=1 rewrites
// their expected output. $BIN is the directory of objects and programs, $SAMPLE is the directory of the sample package and
// its program, $MODULES that of livepatch modules, $TREE the root of the source tree.
func TestScripts(t *testing.T) {
	tree, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: os.Getenv("UPDATE_GOLDEN") != "",
		Setup: func(env *testscript.Env) error {
			env.Values[programsKey] = programs{}
			env.Setenv("TREE", tree)
			env.Setenv("BIN", filepath.Join(tree, "testdata/binaries/x86_64-gcc"))
			env.Setenv("MODULES", filepath.Join(tree, "internal/modcheck/testdata"))
			env.Setenv("SAMPLE", filepath.Join(tree, "internal/check/testdata"))
			return nil
		},
		Condition: installed,
		Cmds:      map[string]func(*testscript.TestScript, bool, []string){"code": code, "flip": flip, "extract": extract, "start": start, "child": child, "ask": ask},
	})
}

// installed is the condition tool:NAME of scripts. Where CI is set the program
// has to be there. namespaces is the condition that new ones can be made, which
// takes root and is often forbidden in containers.
func installed(condition string) (bool, error) {
	if condition == "namespaces" {
		return exec.Command("unshare", "--pid", "--fork", "--mount-proc", "true").Run() == nil, nil
	}
	name, ok := strings.CutPrefix(condition, "tool:")
	if !ok {
		return false, fmt.Errorf("unknown condition %q", condition)
	}
	_, err := exec.LookPath(name)
	if err != nil && os.Getenv("CI") != "" {
		return false, err
	}
	return err == nil, nil
}

// code runs livepatch and compares its exit code: code 3 inspect x.
func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: code N [ARGS...]")
	}
	err := ts.Exec("livepatch", args[1:]...)
	got := "0"
	if exit, ok := err.(interface{ ExitCode() int }); ok {
		got = string(rune('0' + exit.ExitCode()))
	} else if err != nil {
		ts.Fatalf("run livepatch: %v", err)
	}
	if got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}

// flip changes the lowest bit of one byte of a file: flip FILE OFFSET.
func flip(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: flip FILE OFFSET")
	}
	path := ts.MkAbs(args[0])
	b, err := os.ReadFile(path)
	ts.Check(err)
	at, err := strconv.Atoi(args[1])
	ts.Check(err)
	b[at] ^= 1
	ts.Check(os.WriteFile(path, b, 0o644))
}
