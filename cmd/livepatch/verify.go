package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"livepatch/internal/check"
	"livepatch/internal/image"
	"livepatch/internal/kimage"
	"livepatch/internal/pack"
	"livepatch/internal/process"
	"livepatch/internal/refusal"
	"livepatch/internal/sign"
)

func verifyCommand() *cli.Command {
	return &cli.Command{
		Name: "verify", Usage: "check a package or kernel module against its target, changing nothing", ArgsUsage: "PKG|MODULE.ko", Category: groupLook,
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "target", Usage: "executable, library, kernel image or module `FILE` to check against; repeatable"},
			&cli.IntFlag{Name: "pid", Usage: "process `N` to check against", DefaultText: "none"},
			&cli.BoolFlag{Name: "running-kernel", Usage: "check a kernel package against this machine's kernel, as apply would", DisableDefaultText: true},
			&cli.StringFlag{Name: "kallsyms", Usage: "symbols of the kernel, as /proc/kallsyms prints them, from `FILE`"},
			&cli.StringFlag{Name: "system-map", Usage: "symbols of the kernel, from System.map `FILE`"},
			&cli.StringFlag{Name: "symvers", Usage: "exported symbols of the kernel, from Module.symvers `FILE`"},
			&cli.StringFlag{Name: "btf", Usage: "type information of the kernel, from `FILE` (default: that in the image)"},
			&cli.StringSliceFlag{Name: "key", Usage: "public key `FILE` that must have signed the package; repeatable, all of them must have"},
			trustDirFlag(),
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

Signatures are checked as apply would: with --key, each of the keys must have
signed; if there is a trust directory, one of its keys must have. With neither,
whose signatures a package has is said and not judged.

A livepatch module of a kernel (.ko, compressed or not, built by any tool) or
a package that holds one is checked against the kernel's image and modules: format,
structures, symbols and positions, patch sites, checksums of imports,
relocations, special sections, landing pads, mitigations, unwind tables.
A directory given as target, such as /lib/modules/RELEASE, is searched for the
modules that the patch is about. What the given files cannot tell is marked
"later".

Examples:
  livepatch verify fix.lpatch --target /usr/bin/server
  livepatch verify fix.lpatch --pid 4182
  livepatch verify fix.lpatch --running-kernel
  livepatch verify fix.lpatch --key release.key.pub
  livepatch verify fix.lpatch --target ./server --target /lib/x86_64-linux-gnu/libc.so.6
  livepatch verify livepatch-fix.ko --target /boot/vmlinuz-$(uname -r) --target /lib/modules/$(uname -r)`,
		Action: verify,
	}
}

func verify(c *cli.Context) error {
	args, err := takeArgs(c, 1, 1)
	if err != nil {
		return err
	}
	paths, pid := c.StringSlice("target"), c.Int("pid")
	running := c.Bool("running-kernel")
	trusted := c.IsSet("key") || c.IsSet("trust-dir")
	tables := c.IsSet("kallsyms") || c.IsSet("system-map") || c.IsSet("symvers") || c.IsSet("btf")
	switch {
	case running && (len(paths) > 0 || tables || c.IsSet("pid")):
		return hintHelp(usageErrorf("verify takes --running-kernel or files and processes, not both"), c.Command)
	case len(paths) == 0 && !c.IsSet("pid") && !tables && !running && !trusted:
		return hintHelp(usageErrorf("verify needs --target, --pid, --running-kernel or --key"), c.Command)
	case (len(paths) > 0 || tables) && c.IsSet("pid"):
		return hintHelp(usageErrorf("verify takes --target or --pid, not both"), c.Command)
	case c.IsSet("pid") && pid <= 0:
		return hintHelp(usageErrorf("%d is no process", pid), c.Command)
	}
	p := newPrinter(c)
	if running {
		pkg, err := kernelPackage(args[0])
		if err != nil {
			return err
		}
		return verifyRunningKernel(c, p, pkg)
	}
	b, err := readFile(args[0])
	if err != nil {
		return err
	}
	if kind, err := kimage.KindOf(b); err == nil && kind != kimage.Program {
		if trusted {
			return hintHelp(usageErrorf("%s is a module, and keys are for packages", args[0]), c.Command)
		}
		return verifyModule(c, args[0], b)
	}
	pkg, err := parsePackage(args[0], b)
	if err != nil {
		return err
	}
	policy, err := trustPolicy(c, "key")
	if err != nil {
		return err
	}
	switch {
	case len(paths) == 0 && !tables && !c.IsSet("pid"):
		r := &check.Report{}
		r.Sign(pkg, policy)
		return printReport(p, pkg.Manifest.Name, r, "the target")
	case pkg.Manifest.Kernel != nil:
		return verifyKernelPackage(c, args[0], pkg, policy)
	case tables:
		return hintHelp(usageErrorf("--kallsyms, --system-map, --symvers and --btf are for patches of kernels"), c.Command)
	case len(paths) == 0:
		return verifyProcess(p, pid, pkg, policy)
	}
	return verifyFiles(p, paths, pkg, policy)
}

func verifyProcess(p *printer, pid int, pkg *pack.Package, policy sign.Policy) error {
	err := process.Verify(pid, pkg, process.Options{Progress: p.Progress})
	if list := refusal.Of(err); err == nil || list != nil {
		err = append(policy.Judge(pkg.Signatures), list...).Err()
	}
	if err != nil {
		return err
	}
	if p.json {
		return p.JSON(map[string]any{"pid": pid, "status": check.OK, "signatures": check.Signers(pkg, policy)})
	}
	p.Printf("%s fits process %d\n", pkg.Manifest.Name, pid)
	return nil
}

func verifyFiles(p *printer, paths []string, pkg *pack.Package, policy sign.Policy) error {
	var opened images
	defer opened.close()
	var files []check.File
	for _, path := range paths {
		f, err := opened.open(path)
		if err != nil {
			return err
		}
		files = append(files, check.File{Path: path, ELF: f})
	}
	var report *check.Report
	err := image.Guard(func() error {
		report = check.Package(pkg, files)
		return nil
	})
	if err != nil {
		return err
	}
	report.Sign(pkg, policy)
	return printReport(p, pkg.Manifest.Name, report, "the process")
}

// printReport prints what was asked about a patch; later is who answers what
// files cannot.
func printReport(p *printer, name string, r *check.Report, later string) error {
	if p.json {
		if r.Signatures == nil {
			r.Signatures = []check.Signer{} // of a module
		}
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
			p.Printf("%s  %s\n", mark, printable(x.Target+": "+what+": "+x.Text))
		}
	}
	if list := r.Refusals(); len(list) > 0 {
		return list.Err()
	}
	if !p.json {
		p.Printf("%s fits: %s, %d left to %s\n", printable(name), plural(r.Count(check.OK), "check passed", "checks passed"), r.Count(check.Later), later)
	}
	return nil
}
