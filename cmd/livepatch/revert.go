package main

import (
	"slices"

	"github.com/urfave/cli/v2"

	"livepatch/internal/process"
)

func revertCommand() *cli.Command {
	return &cli.Command{
		Name: "revert", Usage: "take a patch back out of running processes", ArgsUsage: "NAME", Category: groupRun,
		Flags: slices.Concat(selectorFlags(), loaderFlags(), []cli.Flag{jsonFlag()}),
		Description: `
Writes the bytes back that were there before the patch. The package is not
needed: the process holds the record of what was written. The patch's memory
stays mapped, in case something still holds an address in it; status shows it.
NAME is the name of the patch, as status and inspect show it.

Examples:
  livepatch revert fix --pid 4182
  livepatch revert fix --exe /usr/sbin/server`,
		Action: revert,
	}
}

func revert(c *cli.Context) error {
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
	res, err := process.RevertAll(pids, args[0], opt)
	if err != nil {
		return err
	}
	return printChange(p, res, "reverted")
}
