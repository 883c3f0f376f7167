package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"livepatch/internal/pack"
	"livepatch/internal/process"
	"livepatch/internal/sign"
	"livepatch/internal/watch"
)

// The defaults of watch.
const (
	watchInterval = time.Second
	watchTimeout  = 2 * time.Second
)

func watchCommand() *cli.Command {
	return &cli.Command{
		Name: "watch", Usage: "apply signed packages to processes as they start", Category: groupRun,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "dir", Required: true, Usage: "directory `DIR` of packages, named *" + watch.Suffix},
			&cli.StringSliceFlag{Name: "key", Required: true, Usage: "public key `FILE` that must have signed a package; repeatable, all of them must have"},
			trustDirFlag(),
			&cli.BoolFlag{Name: "once", Usage: "only the processes that run now, then end", DisableDefaultText: true},
			&cli.BoolFlag{Name: "poll", Usage: "do not ask the kernel for news of processes, look through all of them at every interval", DisableDefaultText: true},
			&cli.DurationFlag{Name: "interval", Usage: "look through the directory and all processes every `D`", Value: watchInterval},
			&cli.DurationFlag{Name: "max-pause", Usage: "let the target run again rather than stop it longer than `D`", DefaultText: process.DefaultMaxPause.String()},
			&cli.DurationFlag{Name: "timeout", Usage: "try it again later when a target was busy for `D`", Value: watchTimeout},
			&cli.BoolFlag{Name: "scan-memory", Usage: "accept programs that switch stacks: look through all their memory while they stand", DisableDefaultText: true},
			jsonFlag(),
		},
		Description: `
Applies every package of the directory to every process that it fits, by
build-id: to those that run and to those that start. Needs root to see all
processes. News of processes comes from the kernel (the process connector),
which tells root in the initial namespaces; elsewhere all processes are looked
through at every interval. A program runs unpatched until then; livepatch run
leaves no such gap. docs/new-processes.md says how long it is.

Packages that are added later are noticed; one that is removed stays applied
where it is. A package that the keys have not signed, or that is damaged, is
reported once. A package is never applied twice to a process, and not again
where it was reverted. What fails is tried again after 1 s, then later each
time, up to 10 minutes.

One line for each action goes to standard output, with --json one JSON object.
It ends at the first interrupt or SIGTERM, when the packages at hand are done;
with --once the exit code is 1 if a package could not be applied somewhere.
contrib/livepatch-watch.service is a systemd unit.

Examples:
  livepatch watch --dir /var/lib/livepatch --key /etc/livepatch/release.key.pub
  livepatch watch --dir patches --key release.key.pub --once --json`,
		Action: watchProcesses,
	}
}

func watchProcesses(c *cli.Context) error {
	if _, err := takeArgs(c, 0, 0); err != nil {
		return err
	}
	p := newPrinter(c)
	for _, name := range []string{"interval", "max-pause", "timeout"} {
		if c.IsSet(name) && c.Duration(name) <= 0 {
			return hintHelp(usageErrorf("--%s must be positive", name), c.Command)
		}
	}
	policy, err := trustPolicy(c, "key")
	if err != nil {
		return err
	}
	cfg := watch.Config{
		Dir: c.String("dir"), Interval: c.Duration("interval"), Once: c.Bool("once"), Poll: c.Bool("poll"),
		Parse: trusted(policy),
		Machine: watch.Host{Options: process.Options{
			MaxPause: c.Duration("max-pause"), Timeout: c.Duration("timeout"), ScanMemory: c.Bool("scan-memory"),
		}},
		Log: func(e watch.Event) { p.watched(&e) },
	}
	failed, err := watch.Run(c.Context, cfg)
	if err == nil && cfg.Once && failed > 0 {
		return statusError(exitError)
	}
	return err
}

// trusted reads packages that have the signatures that are demanded.
func trusted(policy sign.Policy) watch.Parse {
	return func(path string, b []byte) (*pack.Package, error) {
		pkg, err := parsePackage(path, b)
		if err != nil {
			return nil, err
		}
		if list := policy.Judge(pkg.Signatures); len(list) > 0 {
			return nil, inFile(path, list.Err())
		}
		return pkg, nil
	}
}

// watched prints one event on one line.
func (p *printer) watched(e *watch.Event) {
	if p.json {
		b, err := json.Marshal(e)
		if err != nil {
			p.errorLine(err.Error())
			return
		}
		p.Printf("%s\n", b)
		return
	}
	p.Printf("%s\n", strings.ReplaceAll(printable(watchedLine(e)), "\n", " "))
}

func watchedLine(e *watch.Event) string {
	who := fmt.Sprintf("process %d (%s): %s", e.PID, e.Command, e.Package)
	switch e.Event {
	case watch.Watching:
		if e.Reason != "" {
			return fmt.Sprintf("watching %s; %s: all processes are looked through instead", e.File, e.Reason)
		}
		return "watching " + e.File
	case watch.Found:
		return fmt.Sprintf("package %s: %s for %s", e.File, e.Package, strings.Join(e.Targets, ", "))
	case watch.Bad:
		return fmt.Sprintf("package %s is not used: %s", e.File, e.Reason)
	case watch.Gone:
		return fmt.Sprintf("package %s is gone; what it has patched stays", e.File)
	case watch.Applied:
		line := fmt.Sprintf("%s applied, %s, paused %s", who, plural(e.Functions, "function", "functions"), milliseconds(e.Pause))
		if e.After > 0 {
			line += fmt.Sprintf(", %s after its start", milliseconds(e.After))
		}
		return line
	case watch.Failed:
		return fmt.Sprintf("%s not applied, again in %v: %s", who, e.Retry, e.Reason)
	case watch.Lost:
		if e.Reason != "" {
			return e.Reason + "; all processes are looked through instead"
		}
		return "news of processes was lost; all are looked through"
	}
	return e.Reason
}
