package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"

	"github.com/urfave/cli/v2"

	"livepatch/internal/pack"
	"livepatch/internal/process"
)

// The exit codes of run for a program that cannot be started, as those of
// env(1) and the shell.
const (
	exitCannotRun = 126
	exitNotFound  = 127
)

func runCommand() *cli.Command {
	return &cli.Command{
		Name: "run", Usage: "start a program that is patched before it runs", ArgsUsage: "PKG... -- COMMAND ARGUMENTS...", Category: groupRun,
		Flags: requireFlags(),
		Description: `
Becomes COMMAND, with the packages applied before its first instruction: before
main, its constructors and, with the GNU C library, those of its libraries. The
number of the process, its parent, terminal, signals and exit code are
COMMAND's own. Nothing is left of livepatch but the patch; nothing is printed.

All packages have to fit, in the order given: to COMMAND or to libraries that it
starts with. Libraries that it opens later (dlopen) and programs that it starts
itself are not patched; livepatch watch does that. If a package does not fit,
COMMAND does not run an instruction of its own: it exits with the code that
apply would have given, 3 if refused, and standard error has the reasons. If it
is not there the exit code is 127, if it cannot be executed 126.

Programs that get privileges when they are started (set-user-ID, file
capabilities) are refused unless livepatch has CAP_SYS_PTRACE, because the
kernel would start them without.

Examples:
  livepatch run fix.lpatch -- redis-server /etc/redis/redis.conf
  livepatch run --require-key release.key.pub fix.lpatch -- ./server --port 8080`,
		Action: runPatched,
	}
}

func runPatched(c *cli.Context) error {
	newPrinter(c)
	paths, command, ok := splitArgs(c)
	if !ok || len(paths) == 0 || len(command) == 0 {
		return hintHelp(usageErrorf("run needs %s", c.Command.ArgsUsage), c.Command)
	}
	launch := &process.Launch{Args: command, Env: os.Environ(), Assistant: []string{os.Args[0], assistWord}}
	for _, path := range paths {
		pkg, err := processPackage(c, path)
		if err != nil {
			return err
		}
		launch.Packages = append(launch.Packages, pkg)
	}
	var err error
	if launch.Path, err = exec.LookPath(command[0]); err != nil {
		return notStarted(command[0], err)
	}
	err = process.Run(launch)
	var told *process.ToldError
	switch {
	case errors.As(err, &told):
		return statusError(told.Exit)
	case errors.Is(err, process.ErrExec):
		return notStarted(command[0], err)
	}
	return err
}

// processPackage reads a package that the command line and the machine trust
// and that is for processes.
func processPackage(c *cli.Context, path string) (*pack.Package, error) {
	pkg, err := readTrusted(c, path)
	if err == nil && pkg.Manifest.Kernel != nil {
		return nil, hinted(usageErrorf("%s patches the kernel, not processes", path), "livepatch apply %s --kernel", path)
	}
	return pkg, err
}

// A startError is that of a program that could not be started.
type startError struct {
	error
	exit int
}

func (e *startError) Unwrap() error { return e.error }

func notStarted(name string, err error) error {
	exit := exitCannotRun
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		exit = exitNotFound
	}
	var e *exec.Error
	if errors.As(err, &e) {
		err = fmt.Errorf("run %s: %w", name, bare(e.Err))
	}
	return &startError{err, exit}
}

// assistWord is the hidden command by which run starts its helper.
const assistWord = "__assist"

// assist is the helper of run.
func assist(app *cli.App, args []string) int {
	app.Metadata[printerKey] = &printer{out: app.Writer, err: app.ErrWriter, errColor: colored(app.ErrWriter), command: "run"}
	err := process.Assist(args[:2], len(args) == 2, func(err error) int { return reportError(app, hintScript(err)) })
	return exitCode(err)
}

// hintScript adds to the refusal of a script what to run instead.
func hintScript(err error) error {
	var script *process.ScriptError
	if errors.As(err, &script) {
		return hinted(err, "%s is a script, which %s runs: name the program that the package is for", printable(script.Path), printable(script.Interpreter))
	}
	return err
}
