package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"livepatch/internal/process"
)

func repairCommand() *cli.Command {
	return &cli.Command{
		Name: "repair", Usage: "end what a livepatch that was killed has left half done", ArgsUsage: "", Category: groupRun,
		Flags: slices.Concat(processFlags(), loaderFlags(), []cli.Flag{
			&cli.BoolFlag{Name: "finish", Usage: "make what is missing of the change", DisableDefaultText: true},
			&cli.BoolFlag{Name: "rollback", Usage: "take back what is there of the change", DisableDefaultText: true},
			jsonFlag(),
		}),
		Description: `
If livepatch is killed while it changes the patches of a process, the process
runs on, each function old or new. The record of the change lies in the process:
which patches come and go, what was to be written, what is. repair finds it,
whoever began the change, and ends it with the same checks as apply and revert.

Without --finish or --rollback a change is finished if all of it was written, in
all processes that it was about, and taken back otherwise. Processes that
belonged to the change and were not selected are named: they need the same, and
what was done to one of them is done to the others.
Memory of a patch to which nothing leads yet is marked as reverted; the next
apply of the same package uses it. The handler of breakpoints that a change with
--switch int3 has left behind is taken out. A process that was forked during such
a change has a copy of all that and is repaired in the same way.

The exit code is 0 if all is in order afterwards, 3 if a place was overwritten by
somebody else, 5 if the target was busy.

Examples:
  livepatch repair --pid 4182
  livepatch repair --pid 4182 --finish
  livepatch repair --exe /usr/sbin/server --rollback --dry-run`,
		Action: repair,
	}
}

func repair(c *cli.Context) error {
	if _, err := takeArgs(c, 0, 0); err != nil {
		return err
	}
	p := newPrinter(c)
	if c.Bool("finish") && c.Bool("rollback") {
		return hintHelp(usageErrorf("--finish does not go with --rollback"), c.Command)
	}
	pids, err := mustSelect(c)
	if err != nil {
		return err
	}
	opt, err := loaderOptions(c, p)
	if err != nil {
		return err
	}
	var remedy process.Remedy
	switch {
	case c.Bool("finish"):
		remedy = process.Finish
	case c.Bool("rollback"):
		remedy = process.RollBack
	}
	res, err := process.Repair(pids, remedy, opt)
	if err != nil {
		return err
	}
	return printRepaired(p, res)
}

func printRepaired(p *printer, r *process.Repaired) error {
	if p.json {
		if err := p.JSON(r); err != nil {
			return err
		}
	}
	did := 0
	for _, one := range r.Processes {
		if one.Did == process.DidNothing && one.Handlers == 0 {
			continue
		}
		did++
		if p.json {
			continue
		}
		if one.Handlers > 0 {
			p.Printf("process %d  %s\n", one.PID, plural(one.Handlers, "handler of breakpoints", "handlers of breakpoints"))
		}
		if one.Did == process.DidNothing {
			continue
		}
		what := "memory"
		if one.Kind != "" {
			what = one.Kind
		}
		p.Printf("process %d  %s of %s  %s, %s\n", one.PID, what, strings.Join(one.Patches, ", "), p.Paint(bold, one.Did), plural(one.Writes, "write", "writes"))
	}
	for _, n := range r.Notes {
		p.Warn("%s", n)
	}
	if len(r.Others) > 0 {
		p.Hint("the change was also about %s: repair them too", numbers(r.Others))
	}
	switch {
	case did == 0:
		p.Note("nothing was changed; nothing needs repair")
	case r.DryRun:
		p.Note("nothing was changed; %s could be repaired now, stopped for %s to find out", plural(did, "process", "processes"), milliseconds(r.Pause.Total))
	default:
		p.Note("repaired %s, paused %s", plural(did, "process", "processes"), milliseconds(r.Pause.Total))
	}
	return nil
}

// numbers lists processes.
func numbers(pids []int) string {
	words := make([]string, len(pids))
	for i, pid := range pids {
		words[i] = fmt.Sprintf("process %d", pid)
	}
	return strings.Join(words, ", ")
}
