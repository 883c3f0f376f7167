package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"livepatch/internal/fit"
	"livepatch/internal/process"
	"livepatch/internal/refusal"
	"livepatch/internal/sign"
	"livepatch/internal/watch"
)

func scanCommand() *cli.Command {
	return &cli.Command{
		Name: "scan", Usage: "list the processes that packages fit, and those that run deleted files", Category: groupRun,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "dir", Usage: "directory `DIR` of packages, named *" + watch.Suffix},
			jsonFlag(),
		},
		Description: `
Looks at every process that it may look at, without stopping it: all for root,
your own otherwise. It lists

  - the packages of --dir that fit the process, by build-id, and whether they
    are applied, missing, or were reverted there. Signatures are not judged;
  - executables and libraries that the process runs though they were deleted or
    replaced since, as by an upgrade: a program that needs a restart or a patch.

Examples:
  livepatch scan
  livepatch scan --dir /var/lib/livepatch --json`,
		Action: scan,
	}
}

// scanned is what scan tells of one process.
type scanned struct {
	PID      int           `json:"pid"`
	Command  string        `json:"command"`
	Packages []scannedPack `json:"packages"`
	Deleted  []string      `json:"deleted"` // files that it executes and that are not there any more
}

// scannedPack is a package that fits a process.
type scannedPack struct {
	File  string    `json:"file"`
	Name  string    `json:"name"`
	State fit.State `json:"state"`
}

func scan(c *cli.Context) error {
	if _, err := takeArgs(c, 0, 0); err != nil {
		return err
	}
	p := newPrinter(c)
	var files []string
	var pkgs []*fit.Package
	if dir := c.String("dir"); dir != "" {
		var err error
		files, pkgs, err = watch.ReadDir(dir, trusted(sign.Policy{}), func(err error) { p.Warn("%s", printable(err.Error())) })
		if err != nil {
			return err
		}
	}
	list, err := scanAll(p, files, pkgs)
	if err != nil {
		return err
	}
	if p.json {
		return p.JSON(list)
	}
	return printScan(p, list)
}

// scanAll lists the processes of which there is something to say.
func scanAll(p *printer, files []string, pkgs []*fit.Package) ([]scanned, error) {
	pids, err := process.All()
	if err != nil {
		return nil, err
	}
	list, denied := []scanned{}, 0
	for i, pid := range pids {
		p.Progress("looking at process", i+1, len(pids))
		err := process.Look(pid, func(s *process.Seen) {
			found := scanned{PID: pid, Command: s.Command, Packages: []scannedPack{}, Deleted: []string{}}
			found.Deleted = append(found.Deleted, s.Deleted...)
			images := watch.Images(s)
			for i, pkg := range pkgs {
				if pkg.Fits(images) {
					found.Packages = append(found.Packages, scannedPack{files[i], pkg.Name, pkg.StateIn(s.Patches)})
				}
			}
			if len(found.Packages)+len(found.Deleted) > 0 {
				list = append(list, found)
			}
		})
		var no refusal.Refusal
		if errors.As(err, &no) && no.Code == refusal.NoPermission {
			denied++
		}
	}
	if denied > 0 {
		p.Note("%s may not be looked at; run livepatch as root to see all", plural(denied, "process", "processes"))
	}
	return list, nil
}

func printScan(p *printer, list []scanned) error {
	if len(list) == 0 {
		p.Printf("nothing found\n")
		return nil
	}
	w := p.table()
	fmt.Fprintln(w, "PID\tCOMMAND\tPACKAGES\tDELETED FILES")
	for _, s := range list {
		var packs []string
		for _, k := range s.Packages {
			packs = append(packs, fmt.Sprintf("%s %s", k.Name, k.State))
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\n", s.PID, oneCell(s.Command), orDash(packs), orDash(s.Deleted))
	}
	return w.Flush()
}

// oneCell keeps a name in its cell of a table.
func oneCell(s string) string { return strings.ReplaceAll(printable(s), "\n", " ") }

func orDash(list []string) string {
	if len(list) == 0 {
		return "-"
	}
	return oneCell(strings.Join(list, ", "))
}
