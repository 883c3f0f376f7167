package main

import (
	"slices"

	"github.com/urfave/cli/v2"

	"livepatch/internal/process"
)

func applyCommand() *cli.Command {
	return &cli.Command{
		Name: "apply", Usage: "patch running processes", ArgsUsage: "PKG", Category: groupRun,
		Flags: slices.Concat(selectorFlags(), loaderFlags(), []cli.Flag{jsonFlag()}),
		Description: `
Maps the patch into each process, stops all their threads, checks that no
thread is inside or will return into what is replaced, redirects the functions
and lets the threads go on. If a thread is in the way, they go on too and it is
tried again until --timeout; the exit code is 5 then and nothing was changed.
No sleep is cut short: if all threads sleep or wait with a time limit, it takes
until the first one wakes up, so --timeout must be longer than that.
The last line says what became of the target.

With --json the result holds a journal of every byte that was written.

Examples:
  livepatch apply fix.lpatch --pid 4182
  livepatch apply fix.lpatch --exe /usr/sbin/server --max-pause 5ms
  livepatch apply fix.lpatch --pid 4182 --dry-run`,
		Action: apply,
	}
}

func apply(c *cli.Context) error {
	args, err := takeArgs(c, 1, 1)
	if err != nil {
		return err
	}
	p := newPrinter(c)
	pids, err := mustSelect(c)
	if err != nil {
		return err
	}
	opt, err := loaderOptions(c, p)
	if err != nil {
		return err
	}
	pkg, _, err := readPackage(args[0])
	if err != nil {
		return err
	}
	res, err := process.Apply(pids, pkg, opt)
	if err != nil {
		return err
	}
	return printChange(p, res, "patched")
}
