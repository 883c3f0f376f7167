package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"livepatch/internal/check"
	"livepatch/internal/image"
	"livepatch/internal/pack"
	"livepatch/internal/process"
)

func verifyCommand() *cli.Command {
	return &cli.Command{
		Name: "verify", Usage: "check a package against its target, changing nothing", ArgsUsage: "PKG", Category: groupLook,
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "target", Usage: "executable or library `FILE` to check against; repeatable"},
			&cli.IntFlag{Name: "pid", Usage: "process `N` to check against"},
			jsonFlag(),
		},
		Description: `
Asks every question that the loader would ask. With --target the files answer:
identity, old function bodies, bytes at the patch sites, imports, relocations
of the payload, and whether each redirect leads to its replacement. Dynamic
imports are looked up in all files given. What only a process can tell is
marked "later". With --pid the process answers, all but what depends on the
moment: which functions are in use. It is not stopped. The exit code is 3 when
an answer is no.

Examples:
  livepatch verify fix.lpatch --target /usr/bin/server
  livepatch verify fix.lpatch --pid 4182
  livepatch verify fix.lpatch --target ./server --target /lib/x86_64-linux-gnu/libc.so.6`,
		Action: verify,
	}
}

func verify(c *cli.Context) error {
	args, err := takeArgs(c, 1, 1)
	if err != nil {
		return err
	}
	paths, pid := c.StringSlice("target"), c.Int("pid")
	switch {
	case len(paths) == 0 && !c.IsSet("pid"):
		return hintHelp(usageErrorf("verify needs --target or --pid"), c.Command)
	case len(paths) > 0 && c.IsSet("pid"):
		return hintHelp(usageErrorf("verify takes --target or --pid, not both"), c.Command)
	case c.IsSet("pid") && pid <= 0:
		return hintHelp(usageErrorf("%d is no process", pid), c.Command)
	}
	p := newPrinter(c)
	pkg, _, err := readPackage(args[0])
	if err != nil {
		return err
	}
	if len(paths) == 0 {
		return verifyProcess(p, pid, pkg)
	}
	return verifyFiles(p, paths, pkg)
}

func verifyProcess(p *printer, pid int, pkg *pack.Package) error {
	if err := process.Verify(pid, pkg, process.Options{Progress: p.Progress}); err != nil {
		return err
	}
	if p.json {
		return p.JSON(map[string]any{"pid": pid, "status": check.OK})
	}
	p.Printf("%s fits process %d\n", pkg.Manifest.Name, pid)
	return nil
}

func verifyFiles(p *printer, paths []string, pkg *pack.Package) error {
	var files []check.File
	for _, path := range paths {
		img, err := image.Open(path)
		if err != nil {
			return err
		}
		defer img.Close()
		files = append(files, check.File{Path: path, ELF: img.File})
	}
	var report *check.Report
	err := image.Guard(func() error {
		report = check.Package(pkg, files)
		return nil
	})
	if err != nil {
		return err
	}
	return printReport(p, pkg.Manifest.Name, report)
}

func printReport(p *printer, name string, r *check.Report) error {
	if p.json {
		if err := p.JSON(r); err != nil {
			return err
		}
	} else {
		for _, x := range r.Results {
			if x.Status == check.Refused {
				continue // listed at the end, with its code
			}
			what := x.What
			if x.Where != "" {
				what += " " + x.Where
			}
			mark := p.Paint(green, fmt.Sprintf("%-5s", x.Status))
			if x.Status == check.Later {
				mark = p.Paint(yellow, fmt.Sprintf("%-5s", x.Status))
			}
			p.Printf("%s  %s: %s: %s\n", mark, x.Target, what, x.Text)
		}
	}
	if list := r.Refusals(); len(list) > 0 {
		return list.Err()
	}
	if !p.json {
		p.Printf("%s fits: %s, %d left to the process\n", name, plural(r.Count(check.OK), "check passed", "checks passed"), r.Count(check.Later))
	}
	return nil
}
