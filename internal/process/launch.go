package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"livepatch/internal/pack"
)

// A Start is a process that starts a program under our control.
type Start struct {
	PID int
	TID int // of the thread that will start the program
}

// The process that is asked to run a program becomes the program, so that its
// number, its parent, its terminal and the signals sent to it are the program's
// from the start. Somebody else has to patch it: a helper, which traces it from
// before the execve until the patch is applied. The helper is no child of the
// program, which would not expect one: it is started by a process in between
// that ends at once.
//
// Helper and process talk through two pipes. The helper writes its number; it is
// answered with a request; it writes that it traces the process, or the exit
// code with which the process is to end.

// A Launch is a program that is to be run.
type Launch struct {
	Path     string
	Args     []string // the first is the program's name
	Env      []string
	Packages []*pack.Package // in the order in which they are applied

	// Assistant is the command line by which this program, started once more,
	// calls Assist.
	Assistant []string
}

// ErrExec is within the error of a program that the kernel did not start.
var ErrExec = errors.New("run")

// A ToldError says that the helper has said why the program is not run.
type ToldError struct{ Exit int }

func (e *ToldError) Error() string {
	return fmt.Sprintf("the program was not run: exit code %d", e.Exit)
}

// request is what the helper is asked for.
type request struct {
	Start
	Packages    [][]byte
	Path        string // of the program
	Interpreter string // that runs it, if it is a script
}

// statusFD is where the helper finds the pipe for its answers.
const statusFD = 3

// Run makes this process the program of l, patched before it runs. It returns
// only if the program was not started; the error is a *ToldError if the user has
// been told why.
func Run(l *Launch) error {
	req := request{Path: l.Path}
	var err error
	if req.Interpreter, err = interpreterOf(l.Path); err != nil {
		return err
	}
	for _, p := range l.Packages {
		b, err := pack.Write(p)
		if err != nil {
			return err
		}
		req.Packages = append(req.Packages, b)
	}
	to, from, err := startAssistant(l.Assistant)
	if err != nil {
		return fmt.Errorf("start a helper: %w", err)
	}
	defer to.Close()
	defer from.Close()
	var pid int
	if _, err := fmt.Fscanf(from, "pid %d\n", &pid); err != nil {
		return fmt.Errorf("start a helper: it says nothing: %w", err)
	}
	return become(l, &req, pid, func() error {
		if err := json.NewEncoder(to).Encode(&req); err != nil {
			return fmt.Errorf("ask the helper: %w", err)
		}
		var exit int
		if _, err := fmt.Fscanf(from, "exit %d\n", &exit); err != nil {
			return fmt.Errorf("the helper has ended: %w", err)
		}
		if exit != 0 {
			return &ToldError{exit}
		}
		return nil
	})
}

// startAssistant starts the helper and returns the pipes to and from it.
func startAssistant(args []string) (to, from *os.File, err error) {
	ask, to, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer ask.Close()
	from, tell, err := os.Pipe()
	if err != nil {
		to.Close()
		return nil, nil, err
	}
	defer tell.Close()
	err = again(args, ask, tell).Run()
	if err != nil {
		to.Close()
		from.Close()
	}
	return to, from, err
}

// again is this program once more, with the pipes of the helper.
func again(args []string, ask, tell *os.File) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = args
	cmd.Stdin, cmd.Stderr, cmd.ExtraFiles = ask, os.Stderr, []*os.File{tell}
	return cmd
}

// Assist is the helper. args is its own command line; called with no argument
// behind the last of it, it is the process in between. refused tells the user an
// error and returns the exit code for it.
func Assist(args []string, between bool, refused func(error) int) error {
	tell := os.NewFile(statusFD, "status")
	if between {
		cmd := again(append(args, "trace"), os.Stdin, tell)
		detached(cmd)
		return cmd.Start()
	}
	if _, err := fmt.Fprintf(tell, "pid %d\n", os.Getpid()); err != nil {
		return err
	}
	traced := false
	err := assist(os.Stdin, func() error {
		traced = true
		_, err := io.WriteString(tell, "exit 0\n")
		return errors.Join(err, tell.Close())
	}, refused)
	if err != nil && !traced {
		_, err = fmt.Fprintf(tell, "exit %d\n", refused(err))
	}
	return err
}

func assist(ask io.Reader, ready func() error, refused func(error) int) error {
	var req request
	if err := json.NewDecoder(ask).Decode(&req); err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	var pkgs []*pack.Package
	for _, b := range req.Packages {
		p, err := pack.Read(b)
		if err != nil {
			return err
		}
		pkgs = append(pkgs, p)
	}
	return PatchAtStart(req.Start, pkgs, ready, func(err error) int { return refused(req.ofScript(err)) })
}
