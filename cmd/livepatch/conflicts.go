package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/urfave/cli/v2"

	"livepatch/internal/klp"
	"livepatch/internal/kstate"
	"livepatch/internal/pack"
)

func conflictsCommand() *cli.Command {
	return &cli.Command{
		Name: "conflicts", Usage: "show who else claims the functions of packages", ArgsUsage: "PKG...", Category: groupLook,
		Flags: append(selectorFlags(),
			&cli.StringFlag{Name: "enabled-functions", Usage: "copy `FILE` of /sys/kernel/tracing/enabled_functions"},
			&cli.StringFlag{Name: "kprobes", Usage: "copy `FILE` of /sys/kernel/debug/kprobes/list"},
			&cli.StringFlag{Name: "livepatch-dir", Usage: "copy `DIR` of /sys/kernel/livepatch"},
			&cli.StringFlag{Name: "error-injection", Usage: "copy `FILE` of /sys/kernel/debug/error_injection/list"},
			jsonFlag(),
		),
		Description: `
Packages of programs, with each other and, with a selector, with the patches of
processes: functions that both replace, where the later one does not say that it
builds on the other (create --requires). apply would refuse it. The processes are
not stopped.

Before packages are loaded into a kernel: which of their functions somebody
else has attached to, and what would come of it. Another livepatch, or another
of the packages, whose version of a function would lose its effect; a kprobe
with a post handler or another user of ftrace that redirects the function, so
that loading fails; a kprobe in the old body, which never fires again; a BPF
program that may end calls before the fix is reached. Those that only watch
are listed too. The exit code is 3 if there is anything but watchers.

It reads the running kernel with --kernel, else copies of its files, taken
from any machine; what no file is given for is taken to be empty.

Examples:
  livepatch conflicts a.lpatch b.lpatch
  livepatch conflicts fix.lpatch --pid 4182
  livepatch conflicts fix.lpatch --kernel
  livepatch conflicts fix.lpatch --enabled-functions ef.txt --kprobes kprobes.txt
  livepatch conflicts a.lpatch b.lpatch --kernel --json`,
		Action: conflicts,
	}
}

func conflicts(c *cli.Context) error {
	args, err := takeArgs(c, 1, -1)
	if err != nil {
		return err
	}
	p := newPrinter(c)
	var pkgs []*pack.Package
	programs := 0
	for _, path := range args {
		pkg, _, err := readPackage(path)
		if err != nil {
			return err
		}
		if pkg.Manifest.Kernel == nil {
			programs++
		}
		pkgs = append(pkgs, pkg)
	}
	if programs == len(pkgs) {
		return processConflicts(c, p, pkgs)
	}
	for _, name := range []string{"pid", "exe", "service"} {
		if c.IsSet(name) {
			return hintHelp(usageErrorf("--%s is for packages of programs", name), c.Command)
		}
	}
	facts, err := conflictFacts(c, p)
	if err != nil {
		return err
	}
	var plans []kstate.Plan
	for i, path := range args {
		pkg := pkgs[i]
		if err := forKernels(path, pkg); err != nil {
			return err
		}
		k := pkg.Manifest.Kernel
		if facts.Release != "" && facts.Release != k.Release {
			p.Warn("%s is for kernel %s, this is %s", path, k.Release, facts.Release)
		}
		plans = append(plans, kstate.Plan{Name: pkg.Manifest.Name, Kernel: k})
	}
	for _, u := range facts.Unknown {
		p.Warn("%s cannot be read (%s)", u.What, u.Why)
	}
	return printConflicts(p, kstate.Conflicts(plans, facts))
}

// conflictFacts takes the facts from the running kernel or from files.
func conflictFacts(c *cli.Context, p *printer) (*kstate.Facts, error) {
	captured := false
	for _, name := range []string{"enabled-functions", "kprobes", "livepatch-dir", "error-injection"} {
		captured = captured || c.IsSet(name)
	}
	switch {
	case captured && c.Bool("kernel"):
		return nil, hintHelp(usageErrorf("conflicts takes --kernel or copies of its files, not both"), c.Command)
	case !captured && !c.Bool("kernel"):
		return nil, hintHelp(usageErrorf("conflicts needs --kernel, or --enabled-functions and --kprobes"), c.Command)
	case c.Bool("kernel"):
		p.Progress("reading the state of the kernel", 0, 0)
		return klp.Facts()
	}
	return capturedFacts(c)
}

func capturedFacts(c *cli.Context) (*kstate.Facts, error) {
	f := &kstate.Facts{}
	for _, in := range []struct {
		flag string
		take func([]byte)
	}{
		{"enabled-functions", func(b []byte) { f.Traced = kstate.ParseEnabledFunctions(b) }},
		{"kprobes", func(b []byte) { f.Kprobes = kstate.ParseKprobes(b) }},
		{"error-injection", func(b []byte) { f.Injectable = kstate.ParseErrorInjection(b) }},
	} {
		path := c.String(in.flag)
		if path == "" {
			continue
		}
		b, err := readFile(path)
		if err != nil {
			return nil, err
		}
		in.take(b)
	}
	dir := c.String("livepatch-dir")
	if dir == "" {
		return f, nil
	}
	var err error
	if _, err = os.Stat(dir); err == nil {
		f.Patches, err = kstate.ReadPatchDir(os.DirFS(dir))
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", dir, bare(err))
	}
	return f, nil
}

func printConflicts(p *printer, list []kstate.Conflict) error {
	bad := 0
	for i := range list {
		if list[i].Effect != kstate.Harmless {
			bad++
		}
	}
	if p.json {
		if err := p.JSON(list); err != nil {
			return err
		}
	} else {
		w := p.table()
		for i := range list {
			c := &list[i]
			effect := string(c.Effect)
			if !c.Certain {
				effect = "may be: " + effect
			}
			fmt.Fprintf(w, "%s\t%s\t%s: %s\n", printable(c.Where()), effect, printable(c.Who), printable(c.Text))
		}
		if err := w.Flush(); err != nil {
			return errors.Join(err)
		}
	}
	if bad > 0 {
		p.Note("%s", plural(bad, "conflict", "conflicts"))
		return statusError(exitRefused)
	}
	if !p.json {
		p.Printf("no conflicts\n")
	}
	return nil
}
