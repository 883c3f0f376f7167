package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"livepatch/internal/testkit"
)

// programs are those that a script runs, by the name that it gave them.
type programs map[string]*program

// programsKey is where a script keeps them.
const programsKey = "programs"

type program struct {
	cmd *exec.Cmd
	in  io.Writer
	out *bufio.Reader
}

// start runs a program that answers lines, until the script ends, and sets a
// variable to its process: start NAME PROGRAM [ARGS...].
func start(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: start NAME PROGRAM [ARGS...]")
	}
	cmd := exec.Command(args[1], args[2:]...)
	in, err := cmd.StdinPipe()
	ts.Check(err)
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	ts.Defer(func() {
		if err := testkit.Kill(cmd); err != nil {
			ts.Logf("%v", err)
		}
	})
	ts.Value(programsKey).(programs)[args[0]] = &program{cmd, in, bufio.NewReader(out)}
	ts.Setenv(args[0], strconv.Itoa(cmd.Process.Pid))
}

// child sets a variable to the only child of a program that was started, as soon as
// it runs a file of that name: child NAME PARENT COMMAND.
func child(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: child NAME PARENT COMMAND")
	}
	parent := ts.Value(programsKey).(programs)[args[1]]
	if parent == nil {
		ts.Fatalf("no program %s was started", args[1])
	}
	of := fmt.Sprintf("\nPPid:\t%d\n", parent.cmd.Process.Pid)
	for range 1000 {
		list, err := filepath.Glob("/proc/[0-9]*/status")
		ts.Check(err)
		for _, path := range list {
			b, _ := os.ReadFile(path)
			if text := string(b); strings.HasPrefix(text, "Name:\t"+args[2]+"\n") && strings.Contains(text, of) {
				ts.Setenv(args[0], filepath.Base(filepath.Dir(path)))
				return
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	ts.Fatalf("%s has no child %s", args[1], args[2])
}

// ask sends a line to a program and compares the answer: ask NAME LINE ANSWER.
func ask(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: ask NAME LINE ANSWER")
	}
	p := ts.Value(programsKey).(programs)[args[0]]
	if p == nil {
		ts.Fatalf("no program %s was started", args[0])
	}
	defer testkit.Bound(p.cmd)()
	_, err := io.WriteString(p.in, args[1]+"\n")
	ts.Check(err)
	answer, err := p.out.ReadString('\n')
	ts.Check(err)
	if answer = strings.TrimSuffix(answer, "\n"); answer != args[2] {
		ts.Fatalf("%s: %s answers %q, not %q", args[1], args[0], answer, args[2])
	}
}
