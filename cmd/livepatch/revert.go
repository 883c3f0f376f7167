package main

import (
	"slices"

	"github.com/urfave/cli/v2"

	"livepatch/internal/process"
)

func revertCommand() *cli.Command {
	return &cli.Command{
		Name: "revert", Usage: "take a patch back out of running processes or the kernel", ArgsUsage: "NAME", Category: groupRun,
		Flags: slices.Concat(selectorFlags(), loaderFlags(), kernelFlags(), []cli.Flag{
			&cli.BoolFlag{Name: "all", Usage: "kernel: every livepatch, whoever made it", DisableDefaultText: true},
			jsonFlag(),
		}),
		Description: `
Writes the bytes back that were there before the patch. The package is not
needed: the process holds the record of what was written. The patch's memory
stays mapped, in case something still holds an address in it; status shows it.
NAME is the name of the patch, as status and inspect show it.

With --kernel the patch is disabled, and its module is unloaded when no task
runs its code any more. NAME is that of the package, or of the livepatch as
status --kernel shows it. If that takes longer than --timeout the patch is
enabled again (exit code 5). Modules of patches that were replaced are only
unloaded.

Examples:
  livepatch revert fix --pid 4182
  livepatch revert fix --exe /usr/sbin/server
  livepatch revert fix --kernel
  livepatch revert --kernel --all`,
		Action: revert,
	}
}

func revert(c *cli.Context) error {
	least := 1
	if c.Bool("all") {
		least = 0
	}
	if c.Bool("kernel") && least > 0 && c.NArg() == 0 {
		return hinted(usageErrorf("revert needs NAME, or --all"), "livepatch status --kernel shows the names")
	}
	args, err := takeArgs(c, least, least)
	if err != nil {
		return err
	}
	p := newPrinter(c)
	kernel, err := selectsKernel(c, "force", "all")
	if err != nil {
		return err
	}
	if kernel {
		return revertKernel(c, p, args)
	}
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
