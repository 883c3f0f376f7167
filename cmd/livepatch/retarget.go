package main

import (
	"slices"

	"github.com/urfave/cli/v2"

	"livepatch/internal/process"
)

func retargetCommand() *cli.Command {
	return &cli.Command{
		Name: "retarget", Usage: "put a patch in the place of all others of running processes", ArgsUsage: "PKG", Category: groupRun,
		Flags: slices.Concat(processFlags(), loaderFlags(), switchFlags(), requireFlags(), []cli.Flag{jsonFlag()}),
		Description: `
Applies a package and reverts every patch that is applied, as one change. The
redirect of a function that both replace is led from one replacement to the
other: no call reaches neither, and none the original. Functions that only the
old patches replace become the originals again; the last lines name them.

This is for cumulative packages, that hold all earlier fixes. A package that is
made to go on top of others (create --requires) is applied with apply.

If the process has no patch it is what apply does. Checks, exit codes and the
last line are those of apply.

Examples:
  livepatch retarget fix-2.lpatch --pid 4182
  livepatch retarget fix-2.lpatch --exe /usr/sbin/server --dry-run`,
		Action: retarget,
	}
}

func retarget(c *cli.Context) error {
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
	pkg, err := readTrusted(c, args[0])
	if err != nil {
		return err
	}
	if pkg.Manifest.Kernel != nil {
		return hinted(usageErrorf("%s patches the kernel, not processes", args[0]), "livepatch apply %s --kernel replaces earlier livepatches by itself", args[0])
	}
	res, err := process.Retarget(pids, pkg, opt)
	if err != nil {
		return err
	}
	if !p.json {
		for _, name := range res.Reverted {
			p.Printf("replaced patch %s\n", name)
		}
		for _, name := range res.Unpatched {
			p.Printf("function %s is the original again\n", name)
		}
	}
	return printChange(p, res, "patched")
}
