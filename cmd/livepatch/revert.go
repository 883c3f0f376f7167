package main

import (
	"slices"

	"github.com/urfave/cli/v2"

	"livepatch/internal/process"
)

func revertCommand() *cli.Command {
	return &cli.Command{
		Name: "revert", Usage: "take a patch back out of running processes or the kernel", ArgsUsage: "NAME", Category: groupRun,
		Flags: slices.Concat(selectorFlags(), loaderFlags(), switchFlags(), kernelFlags(), []cli.Flag{
			&cli.StringFlag{Name: "to", Usage: "every patch that was applied after `NAME`"},
			&cli.BoolFlag{Name: "all", Usage: "every patch; kernel: every livepatch, whoever made it", DisableDefaultText: true},
			&cli.BoolFlag{Name: "clear-sites", Usage: "also what dispatch slot leaves at the entries of functions", DisableDefaultText: true},
			&cli.BoolFlag{Name: "reclaim", Usage: "unmap the memory of reverted patches, where nobody can use it any more; without NAME, of all", DisableDefaultText: true},
			jsonFlag(),
		}),
		Description: `
Writes the bytes back that were there before the patch. The package is not
needed: the process holds the record of what was written. The patch's memory
stays mapped, in case something still holds an address in it; status shows its
size, and why it stays. --reclaim unmaps it, also later, if it is proven that
nothing leads to it and no thread and no memory of the process holds an address
in it; to find out, all threads are stopped while memory is looked through, for
--max-pause at most.
NAME is the name of the patch, as status and inspect show it. A patch on which
others rest is not taken back without them: --to takes back what came after it,
--all takes back everything; either is one change, as apply is. With
--switch int3 threads run on, as with apply. Entries that lead through records
(dispatch slot) stay as they are, and the records lead to the old bodies again;
--clear-sites takes them away, too, also of a patch that was reverted before.

With --kernel the patch is disabled, and its module is unloaded when no task
runs its code any more. NAME is that of the package, or of the livepatch as
status --kernel shows it. If that takes longer than --timeout the patch is
enabled again (exit code 5). Modules of patches that were replaced are only
unloaded.

Examples:
  livepatch revert fix --pid 4182
  livepatch revert fix --exe /usr/sbin/server
  livepatch revert --to fix-1 --pid 4182
  livepatch revert fix --clear-sites --pid 4182
  livepatch revert --reclaim --pid 4182
  livepatch revert fix --kernel
  livepatch revert --kernel --all`,
		Action: revert,
	}
}

func revert(c *cli.Context) error {
	least := 1
	switch {
	case c.Bool("all") && c.String("to") != "":
		return hintHelp(usageErrorf("--all does not go with --to"), c.Command)
	case c.Bool("all"), c.String("to") != "":
		least = 0
	case c.Bool("reclaim") && c.NArg() == 0 && !c.Bool("kernel"):
		return reclaim(c)
	}
	if c.Bool("kernel") && least > 0 && c.NArg() == 0 {
		return hinted(usageErrorf("revert needs NAME, or --all"), "livepatch status --kernel shows the names")
	}
	args, err := takeArgs(c, least, least)
	if err != nil {
		return err
	}
	p := newPrinter(c)
	kernel, err := selectsKernel(c, "force")
	switch {
	case err != nil:
		return err
	case kernel && c.String("to") != "":
		return hintHelp(usageErrorf("--to does not go with --kernel"), c.Command)
	case kernel && c.Bool("clear-sites"):
		return hintHelp(usageErrorf("--clear-sites does not go with --kernel"), c.Command)
	case kernel && c.Bool("reclaim"):
		return hintHelp(usageErrorf("--reclaim does not go with --kernel"), c.Command)
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
	what := process.Removal{To: c.String("to"), All: c.Bool("all"), ClearSites: c.Bool("clear-sites")}
	if len(args) > 0 {
		what.Name = args[0]
	}
	res, err := process.Remove(pids, what, opt)
	if c.Bool("reclaim") && isNotApplied(err) {
		return reclaimOf(p, pids, what.Name, opt)
	}
	if err != nil {
		return err
	}
	if c.Bool("reclaim") {
		res.Reclaimed, err = process.Reclaim(pids, what.Name, opt)
	}
	if perr := printChange(p, res, "reverted"); perr != nil {
		return perr
	}
	switch {
	case err != nil:
		p.Warn("its memory stays mapped: %v", err)
	case res.Reclaimed != nil:
		printReclaimed(p, res.Reclaimed)
	}
	return nil
}
