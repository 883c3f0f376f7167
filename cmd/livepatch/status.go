package main

import (
	"errors"
	"fmt"
	"slices"
	"text/tabwriter"

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
			jsonFlag(),
		}),
		Description: `
Reads what is applied from the memory of the processes themselves; they are not
stopped. Without a selector it looks at every process that it may look at: all
for root, your own otherwise. Reverted patches are listed as long as their
memory is mapped. A patch is shown as interrupted, with the number of writes
that are in memory, if livepatch was killed half-way; revert takes it back.

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

// processStatus is what status tells of one process.
type processStatus struct {
	PID     int           `json:"pid"`
	Patches []live.Report `json:"patches"`
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
	var list []processStatus
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

func statusOf(p *printer, pids []int) ([]processStatus, error) {
	list := []processStatus{}
	for i, pid := range pids {
		p.Progress("looking at process", i+1, len(pids))
		found, err := process.Status(pid)
		if err != nil {
			return nil, err
		}
		list = append(list, newStatus(pid, found))
	}
	return list, nil
}

// statusOfAll lists the processes that have patches. Others end while it
// looks, or have no memory; those that it may not look at are counted.
func statusOfAll(p *printer) ([]processStatus, error) {
	pids, err := process.All()
	if err != nil {
		return nil, err
	}
	list, denied := []processStatus{}, 0
	for i, pid := range pids {
		p.Progress("looking at process", i+1, len(pids))
		found, err := process.Status(pid)
		var no refusal.Refusal
		switch {
		case errors.As(err, &no) && no.Code == refusal.NoPermission:
			denied++
		case err == nil && len(found) > 0:
			list = append(list, newStatus(pid, found))
		}
	}
	if denied > 0 {
		p.Note("%s may not be looked at; run livepatch as root to see all", plural(denied, "process", "processes"))
	}
	return list, nil
}

func newStatus(pid int, found []live.Found) processStatus {
	s := processStatus{pid, []live.Report{}}
	for i := range found {
		s.Patches = append(s.Patches, found[i].Report())
	}
	return s
}

func printStatus(p *printer, list []processStatus) error {
	var rows []string
	for _, s := range list {
		for _, r := range s.Patches {
			names := ""
			for i, f := range r.Functions {
				if i > 0 {
					names += " "
				}
				names += f.Name
			}
			rows = append(rows, fmt.Sprintf("%d\t%s\t%s\t%s\t%d\t%s", s.PID, r.Name, r.Condition(), r.Target, r.Size, names))
		}
	}
	if len(rows) == 0 {
		p.Printf("no patches\n")
		return nil
	}
	p.clear()
	p.wrote = true
	w := tabwriter.NewWriter(p.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "PID\tPATCH\tSTATE\tTARGET\tBYTES\tFUNCTIONS")
	for _, row := range rows {
		fmt.Fprintln(w, row)
	}
	return w.Flush()
}
