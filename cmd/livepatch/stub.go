package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"livepatch/elfpatch"
	"livepatch/fentry"
	"livepatch/internal/build"
	"livepatch/internal/kimage"
	"livepatch/internal/stub"
	"livepatch/manifest"
)

func stubCommand() *cli.Command {
	flags := []cli.Flag{
		&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Required: true, Usage: "package `FILE` to write"},
		&cli.StringSliceFlag{Name: "target", Required: true, Usage: "kernel image or module `FILE`; repeatable, one is the image"},
		&cli.StringFlag{Name: "return", Usage: "`VALUE` to return: a number, or an error such as -EPERM; nothing if left out"},
		&cli.StringFlag{Name: "name", Usage: "`NAME` of the patch (default: that of the package file)"},
		dispatchFlag(), allowFlag(), signFlag(), reportFlag(), jsonFlag(),
	}
	for _, f := range createKernelFlags() {
		if f.Names()[0] != "objtool" { // there is nothing for it to find
			flags = append(flags, f)
		}
	}
	return &cli.Command{
		Name: "stub", Usage: "make a package that makes kernel functions return at once", ArgsUsage: "FUNC[,POS]...", Category: groupBuild,
		Flags: flags,
		Description: `
Makes a package, without any source, in which functions of a kernel do nothing
and return a value at once, until the real fix is there. A static function that
has namesakes is named with its position among them, as kallsyms counts. Refused
are functions that ftrace cannot redirect, that never return, that take or give
back a lock for their callers, and values that the type of the function, as the
kernel's own type information has it, does not let callers understand. The last
two can be allowed (--allow stub-lock, stub-return). What else callers expect of
the function, only who knows it can say.

Examples:
  livepatch stub -o hotfix.lpatch --target /boot/vmlinuz-6.1 --return -EPERM do_vfs_ioctl
  livepatch stub -o off.lpatch --target vmlinuz --target xfs.ko.xz --return -ENOTTY xfs_file_ioctl`,
		Action: makeStub,
	}
}

func makeStub(c *cli.Context) error {
	args, err := takeArgs(c, 1, -1)
	if err != nil {
		return err
	}
	p := newPrinter(c)
	value, err := stubValue(c)
	if err != nil {
		return hintHelp(err, c.Command)
	}
	way, err := dispatch(c)
	if err != nil {
		return hintHelp(err, c.Command)
	}
	if err := kernelDispatch(c, way); err != nil {
		return err
	}
	allow, key, err := making(c, ofSources)
	if err != nil {
		return err
	}
	var opened images
	defer opened.close()
	in, err := opened.stubInputs(c, args, value)
	if err != nil {
		return err
	}
	in.Name, in.Version, in.Allow, in.Dispatch = packageName(c), version, allow, way
	return makePackage(c, p, in, key, nil)
}

// stubValue reads --return.
func stubValue(c *cli.Context) (v stub.Value, err error) {
	text := c.String("return")
	if !c.IsSet("return") {
		return v, nil
	}
	v.Given = true
	if rest, neg := strings.CutPrefix(text, "-"); neg && stub.Errno(rest) > 0 {
		v.Int = -int64(stub.Errno(rest))
		return v, nil
	}
	if v.Int, err = strconv.ParseInt(text, 0, 64); err != nil {
		return v, usageErrorf("--return %q is neither a number of 64 bits nor an error such as -EPERM", text)
	}
	return v, nil
}

// stubTarget is a file that may have the functions.
type stubTarget struct {
	build.Target
	file  *elfpatch.File
	table interface {
		Named(name string) []int
		Sympos(i int) int
	}
	symbol func(i int) kimage.Symbol
}

// stubInputs opens the targets and makes the pairs.
func (o *images) stubInputs(c *cli.Context, funcs []string, value stub.Value) (in build.Inputs, err error) {
	in.Kernel = &build.Kernel{NoReplace: c.Bool("no-replace")}
	var targets []*stubTarget
	var paths []targetPaths
	imagePath := ""
	for _, file := range c.StringSlice("target") {
		t, image, err := o.kernelTarget(targetPaths{file: file})
		switch {
		case err != nil:
			return in, err
		case image != nil && in.Kernel.Image != nil:
			return in, usageErrorf("--target %s is a second kernel image", file)
		case image != nil:
			in.Kernel.Image, imagePath = image, file
			targets = append(targets, &stubTarget{t, image.File, image, func(i int) kimage.Symbol { return image.Symbols[i] }})
		default:
			m := t.Module
			targets = append(targets, &stubTarget{t, m.Linked, m, func(i int) kimage.Symbol { return m.Symbols[i] }})
		}
		paths = append(paths, targetPaths{file: file})
	}
	if in.Kernel.Image == nil {
		return in, hinted(usageErrorf("a module can be patched only together with its kernel"), "add --target VMLINUZ")
	}
	in.Record = &manifest.Build{}
	files := kernelPaths{symvers: c.String("symvers"), btf: c.String("btf"), config: c.String("config")}
	if in.Record.Inputs, err = kernelFiles(c, in.Kernel, imagePath, files); err != nil {
		return in, err
	}
	if err := addStubs(&in, targets, funcs, value); err != nil {
		return in, err
	}
	if err := o.neighbours(&in, paths); err != nil {
		return in, err
	}
	return in, o.record(paths, in.Record)
}

// addStubs makes the pairs of the functions and gives them to their targets.
func addStubs(in *build.Inputs, targets []*stubTarget, funcs []string, value stub.Value) error {
	makers := map[*stubTarget]*stub.Maker{}
	for _, arg := range funcs {
		t, fn, err := findStub(targets, arg)
		if err != nil {
			return err
		}
		if makers[t] == nil {
			if makers[t], err = stubMaker(in, t); err != nil {
				return err
			}
		}
		pair, err := makers[t].Make(fn, value)
		if err != nil {
			return err
		}
		t.Pairs = append(t.Pairs, build.Pair{
			OrigName: pair.Name, PatchedName: pair.Name, Orig: pair.Orig, Patched: pair.After, Made: true, Findings: pair.Findings,
		})
	}
	for _, t := range targets {
		switch {
		case len(t.Pairs) > 0:
			in.Targets = append(in.Targets, t.Target)
		case t.Module != nil:
			in.Kernel.Modules = append(in.Kernel.Modules, t.Module)
		}
	}
	return nil
}

// stubMaker makes ready for functions of a target. The type information of a module goes
// on from that of the kernel, or of one of its own sections where it was built outside.
func stubMaker(in *build.Inputs, t *stubTarget) (*stub.Maker, error) {
	finder, err := fentry.NewFinder(t.file, fentry.Options{})
	if err != nil {
		return nil, fmt.Errorf("look for patch sites of %s: %w", t.Name, err)
	}
	var base, types []byte
	if t.Module != nil {
		base = in.Kernel.Image.BTF
		if s := t.Module.File.Section(".BTF.base"); s != nil {
			base = s.Data
		}
		if s := t.Module.File.Section(".BTF"); s != nil && base != nil {
			types = s.Data
		}
	} else {
		types = in.Kernel.Image.BTF
		in.Kernel.Sites = func() (*fentry.Finder, error) { return finder, nil }
	}
	m, err := stub.NewMaker(in.Kernel.Image.File, t.file, finder, base, types)
	if err != nil {
		return nil, fmt.Errorf("read the type information of %s: %w", t.Name, err)
	}
	return m, nil
}

// findStub finds the one function that "NAME" or "NAME,POS" names.
func findStub(targets []*stubTarget, arg string) (in *stubTarget, fn stub.Function, err error) {
	name, pos, positioned := strings.Cut(arg, ",")
	n, err := strconv.Atoi(pos)
	if positioned && (err != nil || n < 0) {
		return nil, fn, usageErrorf("%q is not FUNC or FUNC,POS", arg)
	}
	var places []string
	for _, t := range targets {
		for _, i := range t.table.Named(name) {
			s := t.symbol(i)
			if !strings.ContainsRune("tTwW", rune(s.Type)) || positioned && t.table.Sympos(i) != n {
				continue
			}
			in, fn = t, stub.Function{Name: s.Name, Addr: s.Addr, Size: s.Size}
			places = append(places, fmt.Sprintf("%s,%d in %s at %#x", name, t.table.Sympos(i), filepath.Base(t.Name), s.Addr))
		}
	}
	switch {
	case len(places) == 0:
		return nil, fn, fmt.Errorf("no target has a function %s", arg)
	case len(places) > 1:
		slices.Sort(places)
		return nil, fn, hinted(fmt.Errorf("%s is not the name of one function: %s", arg, strings.Join(places, "; ")), "give its position: %s", strings.Fields(places[0])[0])
	}
	return in, fn, nil
}
