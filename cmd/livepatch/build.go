package main

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"livepatch/internal/build"
	"livepatch/internal/image"
	"livepatch/internal/pack"
	"livepatch/internal/report"
	"livepatch/internal/sign"
	"livepatch/manifest"
)

func buildCommand() *cli.Command {
	return &cli.Command{
		Name: "build", Usage: "make a package from a source patch", Category: groupBuild,
		Flags: slices.Concat([]cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Required: true, Usage: "package `FILE` to write"},
			&cli.StringSliceFlag{Name: "patch", Required: true, Usage: "source patch `FILE`, applied in the order given; repeatable"},
			&cli.StringSliceFlag{Name: "target", Usage: "executable, library, kernel image or module `FILE` to patch; repeatable"},
			&cli.StringFlag{Name: "name", Usage: "`NAME` of the patch (default: that of the package file)"},
			&cli.StringFlag{Name: "patch-version", Usage: "`VERSION` of the patch, for the manifest"},
			&cli.StringFlag{Name: "description", Usage: "one line of `TEXT` for the manifest"},
			&cli.StringSliceFlag{Name: "cve", Usage: "`ID` of what the patch fixes, CVE-2024-1234; repeatable"},
			dispatchFlag(), requiresFlag(), allowFlag(), signFlag(), reportFlag(), demangleFlag(), jsonFlag(),
		}, buildKernelFlags(), buildProgramFlags()),
		Description: `
Compiles what the patch touches, before and after, with the compiler and flags
of the target's own build; proves that what was compiled as before is the code
of the target; and makes a package as create does. The source tree is not
changed. --report writes a page that shows all of it to a reviewer. Exit codes: 3
refused, 4 nothing to patch.

Examples:
  livepatch build -o fix.lpatch --patch fix.patch --kernel $(uname -r) --debian
  livepatch build -o fix.lpatch --patch fix.patch --kernel-src linux --config config-6.12 \
      --symvers Module.symvers --target vmlinuz-6.12 --modules /lib/modules/6.12/kernel
  livepatch build -o fix.lpatch --patch fix.patch --src server-1.2 --target /usr/sbin/server`,
		Action: buildAction,
	}
}

func buildAction(c *cli.Context) error {
	if _, err := takeArgs(c, 0, 0); err != nil {
		return err
	}
	p := newPrinter(c)
	record, err := buildRecord(c)
	if err != nil {
		return hintHelp(err, c.Command)
	}
	kernel := c.IsSet("kernel") || c.IsSet("kernel-src")
	never := ofStubs
	if kernel {
		never = slices.Concat(ofSources, ofStubs)
	}
	allow, key, err := making(c, never)
	if err != nil {
		return err
	}
	var opened images
	defer opened.close()
	way, err := dispatch(c)
	if err != nil {
		return hintHelp(err, c.Command)
	}
	compile := opened.buildProgram
	if err := ofTheOther(c, kernel); err != nil {
		return hintHelp(err, c.Command)
	}
	if kernel {
		if err := kernelDispatch(c, way); err != nil {
			return err
		}
		compile = opened.buildKernel
	}
	// From here on the objects before and after are there, and record says from
	// what they were made.
	in, err := compile(c, p, record)
	if c.Context.Err() != nil {
		return errInterrupted
	}
	if errors.Is(err, build.ErrNothingToPatch) {
		p.Note("%v", err)
		return statusError(exitNothing)
	}
	if err != nil {
		return reportRefused(c, p, report.Input{Name: packageName(c), Record: record}, c.StringSlice("patch"), err)
	}
	in.Name, in.Version, in.Record, in.Allow, in.Dispatch = packageName(c), version, record, allow, way
	if in.Requires, err = requirements(c, in.Kernel != nil); err != nil {
		return err
	}
	return makePackage(c, p, in, key, c.StringSlice("patch"))
}

// ofTheOther refuses flags that only programs have, for a kernel, and the other
// way around.
func ofTheOther(c *cli.Context, kernel bool) error {
	flags, what := buildKernelFlags(), "kernels; --kernel or --kernel-src names one"
	if kernel {
		flags, what = buildProgramFlags(), "programs, and this is a kernel"
	}
	for _, f := range flags {
		if name := f.Names()[0]; c.IsSet(name) {
			return usageErrorf("--%s is for %s", name, what)
		}
	}
	return nil
}

// errInterrupted says that the user ended the command; nothing was written.
var errInterrupted = errors.New("interrupted; nothing was written")

// runBuild runs the pipeline and signs, if there is a key; a file that shrinks meanwhile is an error.
func runBuild(in build.Inputs, key sign.PrivateKey) (result *build.Result, data []byte, err error) {
	err = image.Guard(func() (err error) {
		if result, err = build.Run(in); err != nil {
			return err
		}
		if !key.IsZero() {
			if err := result.Package.Sign(key); err != nil {
				return err
			}
		}
		data, err = pack.Write(result.Package)
		return err
	})
	return result, data, err
}

// packageName is --name, or the name of the package file.
func packageName(c *cli.Context) string {
	if name := c.String("name"); name != "" {
		return name
	}
	return strings.TrimSuffix(filepath.Base(c.String("output")), ".lpatch")
}

// checkName refuses a name that no patch can have before anything is made.
func checkName(c *cli.Context) error {
	err := manifest.CheckName(packageName(c))
	switch {
	case err == nil:
		return nil
	case c.String("name") != "":
		return hintHelp(usageErrorf("--name: %v", err), c.Command)
	}
	return hinted(usageErrorf("--output: %v", err), "name the patch with --name")
}

// buildRecord begins the manifest's record of the build.
func buildRecord(c *cli.Context) (*manifest.Build, error) {
	record := &manifest.Build{Description: c.String("description"), Version: c.String("patch-version"), CVE: c.StringSlice("cve")}
	for _, id := range record.CVE {
		if !manifest.ValidCVE(id) {
			return nil, usageErrorf("--cve %q is not of the form CVE-2024-1234", id)
		}
	}
	return record, nil
}
