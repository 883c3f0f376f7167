package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"livepatch/internal/compose"
	"livepatch/internal/kstate"
	"livepatch/internal/pack"
	"livepatch/internal/process"
)

// processConflicts compares packages of programs with each other, and with what
// is applied in the selected processes.
func processConflicts(c *cli.Context, p *printer, pkgs []*pack.Package) error {
	for _, name := range []string{"kernel", "enabled-functions", "kprobes", "livepatch-dir", "error-injection"} {
		if c.IsSet(name) {
			return hintHelp(usageErrorf("--%s is for packages of kernels", name), c.Command)
		}
	}
	pids, err := selected(c)
	if err != nil {
		return err
	}
	if len(pkgs) < 2 && len(pids) == 0 {
		return hintHelp(usageErrorf("conflicts of one package of a program needs --pid, --exe or --service"), c.Command)
	}
	conflict := func(pkg, target, function, kind, who, text string) kstate.Conflict {
		return kstate.Conflict{Package: pkg, Object: target, Function: function, Kind: kind, Effect: kstate.Blocks, Certain: true, Who: who, Text: text}
	}
	all := []kstate.Conflict{}
	among, err := compose.Conflicts(pkgs)
	if err != nil {
		return err
	}
	for _, x := range among {
		all = append(all, conflict(x.Package, x.Target, x.Function, "package", "package "+x.Other, "both replace it, and "+x.Package+" does not build on it"))
	}
	for _, pid := range pids {
		for _, pkg := range pkgs {
			list, err := process.Conflicts(pid, pkg)
			if err != nil {
				return err
			}
			for _, x := range list {
				all = append(all, conflict(pkg.Manifest.Name, x.Target, x.Function, "patch", fmt.Sprintf("patch %s of process %d", x.Owner, pid),
					"it is applied and has replaced it, and "+pkg.Manifest.Name+" does not build on it"))
			}
		}
	}
	return printConflicts(p, all)
}
