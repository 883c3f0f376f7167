package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"livepatch/internal/live"
	"livepatch/internal/process"
	"livepatch/internal/refusal"
)

func statusCommand() *cli.Command {
	return &cli.Command{
		Name: "status", Usage: "show the patches of running processes or the kernel", ArgsUsage: "", Category: groupRun,
		Flags: slices.Concat(selectorFlags(), []cli.Flag{
			&cli.BoolFlag{Name: "all", Usage: "every process; the same as no selector", DisableDefaultText: true},
			demangleFlag(), jsonFlag(),
		}),
		Description: `
Reads what is applied from the memory of the processes themselves; they are not
stopped. Without a selector it looks at every process that it may look at: all
for root, your own otherwise. Reverted patches are listed as long as their
memory is mapped, with its size and why it stays (revert --reclaim). A patch is shown as interrupted, with the number of writes
that are in memory, if livepatch was killed half-way; repair ends that.

With --kernel it shows every livepatch of the running kernel, whoever made it,
as /sys/kernel/livepatch does, the tasks that a transition waits for, and
modules of livepatches that are loaded without effect.

Examples:
  livepatch status --pid 4182
  livepatch status --exe /usr/sbin/server --json
  livepatch status --all
  livepatch status --kernel`,
		Action: showStatus,
	}
}

func showStatus(c *cli.Context) error {
	if _, err := takeArgs(c, 0, 0); err != nil {
		return err
	}
	p := newPrinter(c)
	kernel, err := selectsKernel(c)
	if err != nil {
		return err
	}
	if kernel {
		return statusOfKernel(c, p)
	}
	pids, err := selected(c)
	if err != nil {
		return err
	}
	var list []*process.Report
	switch all := len(pids) == 0; {
	case !all && c.Bool("all"):
		return hintHelp(usageErrorf("--all goes without --pid and --exe"), c.Command)
	case all:
		list, err = statusOfAll(p)
	default:
		list, err = statusOf(p, pids)
	}
	if err != nil {
		return err
	}
	if p.json {
		return p.JSON(list)
	}
	return printStatus(p, list)
}

func statusOf(p *printer, pids []int) ([]*process.Report, error) {
	list := []*process.Report{}
	for i, pid := range pids {
		p.Progress("looking at process", i+1, len(pids))
		found, err := process.Status(pid)
		if err != nil {
			return nil, err
		}
		list = append(list, found)
	}
	return list, nil
}

// statusOfAll lists the processes that have patches. Others end while it
// looks, or have no memory; those that it may not look at are counted.
func statusOfAll(p *printer) ([]*process.Report, error) {
	pids, err := process.All()
	if err != nil {
		return nil, err
	}
	list, denied := []*process.Report{}, 0
	for i, pid := range pids {
		p.Progress("looking at process", i+1, len(pids))
		found, err := process.Status(pid)
		var no refusal.Refusal
		switch {
		case errors.As(err, &no) && no.Code == refusal.NoPermission:
			denied++
		case err == nil && len(found.Patches) > 0:
			list = append(list, found)
		}
	}
	if denied > 0 {
		p.Note("%s may not be looked at; run livepatch as root to see all", plural(denied, "process", "processes"))
	}
	return list, nil
}

// printStatus lists patches, and which of them each function belongs to if it is
// not the one of the line.
func printStatus(p *printer, list []*process.Report) error {
	var rows []string
	for _, s := range list {
		for i := range s.Patches {
			r := &s.Patches[i]
			rows = append(rows, fmt.Sprintf("%d\t%s\t%s\t%s\t%d\t%s", s.PID, r.Name, r.Condition(), r.Target, r.Size, patchedFunctions(p, r)))
		}
	}
	if len(rows) == 0 {
		p.Printf("no patches\n")
		return nil
	}
	w := p.table()
	fmt.Fprintln(w, "PID\tPATCH\tSTATE\tTARGET\tBYTES\tFUNCTIONS")
	for _, row := range rows {
		fmt.Fprintln(w, row)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	printRetired(p, list)
	for _, s := range list {
		switch c := s.Change; {
		case c != nil && !c.Alive:
			p.Hint("livepatch repair --pid %d ends the %s that was interrupted there", s.PID, c.Kind)
		case c == nil && s.Handlers > 0:
			p.Hint("livepatch repair --pid %d takes out a handler of breakpoints that a change has left behind", s.PID)
		}
	}
	return nil
}

// printRetired lists memory of patches that are not in force, and why it stays.
func printRetired(p *printer, list []*process.Report) {
	first := true
	for _, s := range list {
		for i := range s.Patches {
			r := &s.Patches[i]
			if r.Retired == nil {
				continue
			}
			if first {
				p.Printf("\nretired memory\n")
				first = false
			}
			p.Printf("%d  %s  %s  %d bytes: %s\n", s.PID, r.Name, r.Target, r.Retired.Bytes, r.Retired.Reason)
		}
	}
}

func patchedFunctions(p *printer, r *live.Report) string {
	var names []string
	for _, f := range r.Functions {
		name := p.names(f.Name)
		if n := len(f.Versions); n > 0 && r.State == live.Applied.String() && f.Versions[n-1] != r.Name {
			name += " (now of " + f.Versions[n-1] + ")"
		}
		names = append(names, name)
	}
	return strings.Join(names, " ")
}
