package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"livepatch/elfpatch/diff"
	"livepatch/internal/build"
	"livepatch/internal/check"
	"livepatch/internal/compose"
	"livepatch/internal/image"
	"livepatch/internal/kimage"
	"livepatch/internal/pack"
	"livepatch/manifest"
)

func createCommand() *cli.Command {
	order := new(inputOrder)
	return &cli.Command{
		Name: "create", Usage: "make a package from before and after objects", Category: groupBuild,
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Required: true, Usage: "package `FILE` to write"},
			&cli.GenericFlag{Name: "target", Value: order.flag("target"), Usage: "executable, library, kernel image or module `FILE` to patch; repeatable"},
			&cli.GenericFlag{Name: "pair", Value: order.flag("pair"), Usage: "`ORIG.o=PATCHED.o`, objects of the --target before; repeatable"},
			&cli.GenericFlag{Name: "debug", Value: order.flag("debug"), Usage: "separate debug `FILE` of the --target before"},
			&cli.StringFlag{Name: "patch", Usage: "source patch `FILE` that the pairs come from: functions of which it only moved lines are left alone"},
			&cli.StringFlag{Name: "name", Usage: "`NAME` of the patch (default: that of the package file)"},
			dispatchFlag(), requiresFlag(), allowFlag(), signFlag(), reportFlag(), demangleFlag(), jsonFlag(),
		}, createKernelFlags()...),
		Description: `
Compares each pair of objects, proves that the first is the code of the target,
byte for byte apart from what linking changes, finds the variables that both
use, and writes what changed as a package. The target may be stripped. For a
kernel (vmlinux or vmlinuz, and modules of it) the package holds a livepatch
module; the image is given even if only modules change. All reasons against the
patch are printed at once. --report writes a page that shows what changed side
by side, what was proven, and what was refused. Exit codes: 3 refused, 4 nothing to patch.

Examples:
  livepatch create -o fix.lpatch --target ./server --pair old/net.o=new/net.o
  livepatch create -o fix.lpatch --target /usr/sbin/d --debug d.debug --pair a.o=b.o
  livepatch create -o fix.lpatch --target /boot/vmlinuz-6.1 --pair old/fork.o=new/fork.o
  livepatch create -o fix.lpatch --target vmlinuz --target xfs.ko.xz --pair old/xfs_file.o=new/xfs_file.o`,
		Action: func(c *cli.Context) error { return create(c, order) },
	}
}

// inputOrder records --target, --pair and --debug in the order in which they
// are given, which the library loses between different options.
type inputOrder struct{ list []input }

type input struct{ option, value string }

func (o *inputOrder) flag(option string) cli.Generic { return &orderedFlag{option, o} }

// orderedFlag is the value of one of the options.
type orderedFlag struct {
	option string
	order  *inputOrder
}

func (f *orderedFlag) Set(value string) error {
	f.order.list = append(f.order.list, input{f.option, value})
	return nil
}

func (f *orderedFlag) String() string { return "" }

// targetPaths is a target with what belongs to it.
type targetPaths struct {
	file, debug string
	pairs       [][2]string
}

// group gives each pair and debug file to the target before it.
func (o *inputOrder) group() ([]targetPaths, error) {
	var out []targetPaths
	for _, in := range o.list {
		if in.option == "target" {
			out = append(out, targetPaths{file: in.value})
			continue
		}
		if len(out) == 0 {
			return nil, usageErrorf("--%s %s comes before the --target that it belongs to", in.option, in.value)
		}
		t := &out[len(out)-1]
		if in.option == "debug" {
			if t.debug != "" {
				return nil, usageErrorf("--target %s has two debug files", t.file)
			}
			t.debug = in.value
			continue
		}
		orig, patched, ok := strings.Cut(in.value, "=")
		if !ok || orig == "" || patched == "" || strings.Contains(patched, "=") {
			return nil, usageErrorf("--pair %q is not ORIG.o=PATCHED.o", in.value)
		}
		t.pairs = append(t.pairs, [2]string{orig, patched})
	}
	if len(out) == 0 {
		return nil, usageErrorf("create needs --target")
	}
	return out, nil
}

func create(c *cli.Context, order *inputOrder) error {
	if _, err := takeArgs(c, 0, 0); err != nil {
		return err
	}
	p := newPrinter(c)
	targets, err := order.group()
	if err != nil {
		return hintHelp(err, c.Command)
	}
	way, err := dispatch(c)
	if err != nil {
		return hintHelp(err, c.Command)
	}
	allow, key, err := making(c, slices.Concat(ofSources, ofStubs))
	if err != nil {
		return err
	}
	var opened images
	defer opened.close()
	in, err := opened.inputs(c, targets)
	if err != nil {
		return err
	}
	if in.Kernel != nil {
		if err := kernelDispatch(c, way); err != nil {
			return err
		}
	}
	in.Name, in.Version, in.Dispatch = packageName(c), version, way
	in.Allow = allow
	if in.Requires, err = requirements(c, in.Kernel != nil); err != nil {
		return err
	}
	patches, err := useLines(c.String("patch"), &in)
	if err != nil {
		return err
	}
	if err := opened.record(targets, in.Record); err != nil {
		return err
	}
	return makePackage(c, p, in, key, patches)
}

// useLines tells each pair how a source patch moved lines. It returns the patch,
// for the page.
func useLines(file string, in *build.Inputs) ([]string, error) {
	if file == "" {
		return nil, nil
	}
	b, err := readFile(file)
	if err != nil {
		return nil, err
	}
	lines, err := diff.ParseLines(b)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	for _, t := range in.Targets {
		for i := range t.Pairs {
			t.Pairs[i].Lines = lines
		}
	}
	in.Record.Inputs = append(in.Record.Inputs, inputOf("patch", filepath.Base(file), b))
	return []string{file}, nil
}

// inputs opens the targets: those of a kernel, or programs.
func (o *images) inputs(c *cli.Context, targets []targetPaths) (in build.Inputs, err error) {
	kernel, err := anyKernel(targets)
	if err != nil {
		return in, err
	}
	if kernel {
		return o.kernelInputs(c, targets)
	}
	for _, f := range createKernelFlags() {
		if c.IsSet(f.Names()[0]) {
			return in, hintHelp(usageErrorf("--%s is for kernels; no --target is one", f.Names()[0]), c.Command)
		}
	}
	in.Record = &manifest.Build{}
	for _, t := range targets {
		if len(t.pairs) == 0 {
			return in, hintHelp(usageErrorf("--target %s has no --pair after it", t.file), c.Command)
		}
		target, err := o.target(t)
		if err != nil {
			return in, err
		}
		in.Targets = append(in.Targets, target)
	}
	return in, oneProgram(in.Targets)
}

// oneProgram refuses what no process could have: a second program. A library
// that can be run by itself has a name for those that need it.
func oneProgram(targets []build.Target) error {
	first := ""
	for _, t := range targets {
		d, err := t.File.Dynamic()
		if err != nil {
			return fmt.Errorf("read %s: %w", t.Name, err)
		}
		switch {
		case check.Kind(t.File) == manifest.KindLibrary || d != nil && d.Soname != "":
		case first != "":
			return hinted(usageErrorf("%s and %s are both programs, and no process runs two", first, t.Name), "make one package for each; libraries of a program may be in its package")
		default:
			first = t.Name
		}
	}
	return nil
}

// anyKernel tells whether one of the targets is a kernel image or a module.
// What cannot be told is left to who opens it as a program.
func anyKernel(targets []targetPaths) (bool, error) {
	for _, t := range targets {
		if _, err := os.Stat(t.file); err != nil {
			return false, fmt.Errorf("read %s: %w", t.file, bare(err))
		}
		switch kind, err := image.KindOf(t.file); {
		case err == nil && (kind == kimage.KernelImage || kind == kimage.KernelModule):
			return true, nil
		case err != nil && !errors.Is(err, kimage.ErrNotKernel):
			return false, err // packed as kernels are, and damaged
		}
	}
	return false, nil
}

func (o *images) target(t targetPaths) (out build.Target, err error) {
	out.Name = filepath.Base(t.file)
	if out.File, err = o.open(t.file); err != nil {
		return out, err
	}
	if t.debug != "" {
		if out.Debug, err = o.open(t.debug); err != nil {
			return out, err
		}
	}
	out.Pairs, err = o.pairs(t)
	return out, err
}

func (o *images) pairs(t targetPaths) (out []build.Pair, err error) {
	for _, paths := range t.pairs {
		pair := build.Pair{OrigName: filepath.Base(paths[0]), PatchedName: filepath.Base(paths[1])}
		if pair.Orig, err = o.open(paths[0]); err != nil {
			return nil, err
		}
		if pair.Patched, err = o.open(paths[1]); err != nil {
			return nil, err
		}
		out = append(out, pair)
	}
	return out, nil
}

func printCreated(p *printer, output string, result *build.Result, data []byte, once ...compose.Once) error {
	pkg := result.Package
	if p.json {
		printFindings(p, result.Findings)
		written, err := pack.Read(data) // as inspect shows it: lists are never null
		if err != nil {
			return fmt.Errorf("read what was written to %s: %w", output, err)
		}
		return p.JSON(struct {
			Package  string             `json:"package"`
			Bytes    int                `json:"bytes"`
			Digest   string             `json:"digest"`
			Manifest *manifest.Manifest `json:"manifest"`
			Once     []compose.Once     `json:"once,omitempty"`
		}{output, len(data), pack.Digest(data), written.Manifest, once})
	}
	if k := pkg.Manifest.Kernel; k != nil {
		printCreatedKernel(p, k)
	}
	for i := range pkg.Manifest.Targets {
		t := &pkg.Manifest.Targets[i]
		p.Printf("%s  %s %s\n", p.Paint(bold, t.Name), t.Machine, t.Kind)
		for _, f := range t.Functions {
			p.Printf("  replace  %-28s %#x  %d -> %d bytes, %s at %#x (%s)\n",
				p.names(f.Name), f.Address, f.Size, f.NewSize, f.Strategy, f.Site.Address, f.Proof)
		}
		for _, v := range t.Variables {
			p.Printf("  share    %-28s %s\n", p.names(v.Name), variableText(v, p.names))
		}
	}
	for _, f := range once {
		p.Printf("  once     %-28s %s  %s has the same code, %s is used\n", p.names(f.Function), f.Target, f.Left, f.Used)
	}
	printFindings(p, result.Findings)
	p.Printf("wrote %s: %d bytes, digest %s\n", output, len(data), pack.Digest(data)[:16])
	return nil
}

// variableText says where a shared variable is and how that is known.
func variableText(v manifest.Variable, names func(string) string) string {
	where := "thread-local"
	if v.Address != 0 {
		where = fmt.Sprintf("%#x", v.Address)
	}
	if v.Uses == 0 {
		return fmt.Sprintf("%s (%s)", where, names(v.Found))
	}
	return fmt.Sprintf("%s (%s, %s)", where, names(v.Found), plural(v.Uses, "use agrees", "uses agree"))
}
