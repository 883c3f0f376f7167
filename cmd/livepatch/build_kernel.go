package main

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"

	"github.com/urfave/cli/v2"

	"livepatch/elfpatch/diff"
	"livepatch/internal/build"
	"livepatch/internal/image"
	"livepatch/internal/kbuild"
	"livepatch/internal/kimage"
	"livepatch/internal/refusal"
	"livepatch/internal/srcpatch"
	"livepatch/manifest"
)

// buildKernelFlags are the flags of build that only kernels take.
func buildKernelFlags() []cli.Flag {
	return slices.Concat([]cli.Flag{
		&cli.StringFlag{Name: "kernel", Usage: "kernel: `RELEASE`, as uname -r prints it, or a series such as 6.12; with --debian"},
		&cli.BoolFlag{Name: "debian", Usage: "kernel: fetch Debian's packages of the --kernel", DisableDefaultText: true},
		&cli.StringFlag{Name: "arch", Usage: "kernel: `MACHINE` that it is for, amd64 or arm64 (default: that of the release or image; for a series this one)"},
		&cli.StringFlag{Name: "suite", Usage: "kernel: `SUITE` of Debian to look in (default: that of the release)"},
		&cli.StringFlag{Name: "kernel-src", Usage: "kernel: source `DIR`, with --config and --target VMLINUX"},
		&cli.StringFlag{Name: "modules", Usage: "kernel: `DIR` with its modules"},
		&cli.StringFlag{Name: "cc", Usage: "kernel: `COMPILER` (default: the one that the configuration names)"},
		&cli.StringFlag{Name: "module-src", Usage: "kernel: source `DIR` of modules that are not in its tree; the patches are of it, the modules --target"},
		&cli.StringFlag{Name: "build-path", Usage: "kernel: `DIR` in which those modules were built (default: --module-src)"},
		&cli.StringSliceFlag{Name: "make-var", Usage: "kernel: `NAME=VALUE` of make that those modules were built with; repeatable"},
		&cli.IntFlag{Name: "max-objects", Value: 100, Usage: "kernel: `NUMBER` of objects that a patch may touch"},
	}, createKernelFlags())
}

// A kernelSite is where the parts of a kernel are.
type kernelSite struct {
	files   kernelPaths
	source  string
	image   string
	modules string         // directory with the modules, "" if none was given
	targets []string       // other files given with --target
	module  *kbuild.Module // whose source is patched instead of the kernel's, or nil
	work    string         // directory of ours, kept
	ours    bool           // the source is of the cache: nobody changes it

	// compiler fetches the distribution's own; nil where that cannot be had.
	compiler func(context.Context) (path string, err error)
}

// kernelBuild is what buildKernel knows.
type kernelBuild struct {
	*images
	c     *cli.Context
	p     *printer
	site  *kernelSite
	ahead *imageAhead
	id    kernelIdentity // of the image
	cc    *kbuild.Compiler
	dir   string // for the objects
	done  func() // when they were read
}

// buildKernel compiles the objects that the patches touch and opens the image
// and modules that they belong to.
func (o *images) buildKernel(c *cli.Context, p *printer, record *manifest.Build) (in build.Inputs, err error) {
	b := &kernelBuild{images: o, c: c, p: p}
	if b.site, err = findKernelSite(c, p); err != nil {
		return in, err
	}
	b.ahead = o.readAhead(b.site.image)
	if b.id, err = b.ahead.identity(b.site.work); err != nil {
		return in, err
	}
	if arch := c.String("arch"); arch != "" && b.id.Machine != machines[arch] {
		return in, usageErrorf("--arch %s: %s is for %v", arch, filepath.Base(b.site.image), b.id.Machine)
	}
	tree, err := readPatches(c.StringSlice("patch"), b.site.patched(), record)
	if err != nil {
		return in, b.site.inKernel(err)
	}
	lines, err := diff.ParseLines(tree.Diff())
	if err != nil {
		return in, fmt.Errorf("tell how lines moved: %w", err)
	}
	objects, err := b.compile(tree)
	if err != nil {
		return in, err
	}
	if len(objects) == 0 {
		return in, build.ErrNothingToPatch
	}
	in, paths, err := b.inputs(objects, lines)
	if err != nil {
		return in, err
	}
	described, err := kernelFiles(c, in.Kernel, b.site.image, b.site.files)
	if err != nil {
		return in, err
	}
	record.Inputs = append(append(record.Inputs, described...), manifest.Input{Role: "target", Name: filepath.Base(b.site.image), SHA256: b.id.SHA256})
	err = b.record(record, objects, paths)
	b.done()
	return in, err
}

// machines are those of kernels, by Debian's names.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// closing is a function that gives something back.
type closing func() error

func (c closing) Close() error { return c() }

// readPatches applies the patches, in order, to the files of a tree in memory.
func readPatches(paths []string, source string, record *manifest.Build) (*srcpatch.Tree, error) {
	root, err := os.OpenRoot(source)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", source, bare(err))
	}
	defer root.Close()
	tree := srcpatch.NewTree(func(name string) ([]byte, bool, error) { return readBelow(root, name) })
	for _, file := range paths {
		b, err := readFile(file)
		if err != nil {
			return nil, err
		}
		patch, err := srcpatch.Parse(file, b)
		if err != nil {
			return nil, err
		}
		if err := tree.Apply(patch); err != nil {
			return nil, err
		}
		record.Inputs = append(record.Inputs, inputOf("patch", filepath.Base(file), b))
	}
	return tree, nil
}

// readBelow reads a regular file below a directory. A link on the way is
// refused: what is patched would be another file than the name says.
func readBelow(root *os.Root, name string) ([]byte, bool, error) {
	for part := name; part != "."; part = path.Dir(part) {
		fi, err := root.Lstat(part)
		switch {
		case os.IsNotExist(err):
			if part == name {
				continue
			}
		case err != nil:
			return nil, false, fmt.Errorf("%s: %w", name, bare(err))
		case fi.Mode()&os.ModeSymlink != 0:
			return nil, false, refusal.New(refusal.PatchPath, name, "%s is a symbolic link", part)
		case part == name && !fi.Mode().IsRegular():
			return nil, false, fmt.Errorf("%s: this is no regular file", name)
		}
	}
	b, err := root.ReadFile(name)
	if os.IsNotExist(err) {
		return nil, false, nil
	}
	return b, err == nil, err
}

// compile makes the objects in a directory that goes when the command ends.
func (b *kernelBuild) compile(tree *srcpatch.Tree) (objects []*kbuild.Object, err error) {
	if b.dir, b.done, err = b.scratch(); err != nil {
		return nil, err
	}
	k := &kbuild.Kernel{
		Source: b.site.source, Config: b.site.files.config, Symvers: b.site.files.symvers, Release: b.id.Release,
		Machine: b.id.Machine, Banner: b.id.Banner, CC: b.c.String("cc"), Work: b.site.work, Immutable: b.site.ours, Progress: b.p.Progress,
	}
	ctx := b.c.Context
	b.cc, err = k.FindCompiler(ctx)
	var wrong refusal.Refusal
	if errors.As(err, &wrong) && wrong.Code == refusal.WrongCompiler && b.site.compiler != nil && k.CC == "" {
		if k.Path, err = b.site.compiler(ctx); err == nil {
			b.cc, err = k.FindCompiler(ctx)
		}
	}
	if err != nil {
		return nil, err
	}
	if err := b.checkModules(); err != nil {
		return nil, err
	}
	// What cannot be covered at all is said before minutes are spent.
	warnings, err := kbuild.Check(tree, b.site.module != nil)
	if err != nil {
		return nil, err
	}
	for _, w := range warnings {
		b.p.Warn("%s", w)
	}
	t, err := k.Prepare(ctx, b.cc)
	if err != nil {
		return nil, err
	}
	if b.site.module != nil {
		if t, err = t.Module(*b.site.module, b.dir); err != nil {
			return nil, err
		}
	}
	objects, notes, err := t.Compile(ctx, kbuild.Request{Changes: tree, Dir: b.dir, Limit: b.c.Int("max-objects")})
	for _, n := range notes {
		b.p.Warn("%s", n)
	}
	if b.site.files.objtool == "" && err == nil {
		b.site.files.objtool = t.Objtool() // made from the kernel's own source
	}
	return objects, err
}

// checkModules makes sure that the modules whose source is patched come from the
// kernel's compiler: any may have built them.
func (b *kernelBuild) checkModules() error {
	if b.site.module == nil {
		return nil
	}
	var wrong refusal.List
	for _, file := range b.site.targets {
		m, err := b.openModule(file)
		if err != nil {
			return err
		}
		if s := m.File.Section(".comment"); s != nil {
			wrong = append(wrong, refusal.Of(b.cc.CheckModule(filepath.Base(file), s.Data))...)
		}
	}
	return wrong.Err()
}

// scratch makes a directory that is removed when the command ends, and before
// if nothing in it is needed any more: done begins with it.
func (o *images) scratch() (dir string, done func(), err error) {
	dir, err = os.MkdirTemp("", "livepatch-build-")
	if err != nil {
		return "", nil, fmt.Errorf("make a directory for objects: %w", err)
	}
	remove := sync.OnceValue(func() error { return os.RemoveAll(dir) })
	*o = append(*o, closing(remove))
	return dir, func() { go remove() }, nil
}

// inputs opens the objects and what they are linked into; modules are the files
// of those.
func (b *kernelBuild) inputs(objects []*kbuild.Object, lines *diff.LineShift) (in build.Inputs, modules []string, err error) {
	img, err := b.ahead.keep(b.id, b.site.work)
	if err != nil {
		return in, nil, err
	}
	in.Kernel = &build.Kernel{Image: img.Kernel, Sites: b.ahead.sites, NoReplace: b.c.Bool("no-replace")}
	pairs := map[string][]build.Pair{}
	for _, o := range objects {
		pair := build.Pair{OrigName: path.Base(o.Name), PatchedName: path.Base(o.Name), Lines: lines}
		for _, s := range o.Checksums {
			pair.Checksums = append(pair.Checksums, build.Checksum(s))
		}
		if pair.Plain, err = b.open(o.Plain); err != nil {
			return in, nil, err
		}
		if pair.Orig, err = b.open(o.Orig); err != nil {
			return in, nil, err
		}
		if pair.Patched, err = b.open(o.Patched); err != nil {
			return in, nil, err
		}
		pairs[o.Module] = append(pairs[o.Module], pair)
	}
	paths := []targetPaths{{file: b.site.image}}
	if p := pairs[kbuild.Vmlinux]; p != nil {
		in.Targets = append(in.Targets, build.Target{Name: filepath.Base(b.site.image), Pairs: p})
	}
	names := map[string]bool{}
	for name := range pairs {
		if name != kbuild.Vmlinux {
			names[name] = true
		}
	}
	files, err := b.moduleFiles(names)
	if err != nil {
		return in, nil, err
	}
	for _, name := range slices.Sorted(mapKeys(files)) {
		m, err := b.openModule(files[name])
		switch {
		case err != nil:
			return in, nil, err
		case m.Name != name:
			return in, nil, fmt.Errorf("read %s: this is not the module %s", files[name], name)
		}
		modules = append(modules, files[name])
		paths = append(paths, targetPaths{file: files[name]})
		in.Targets = append(in.Targets, build.Target{Name: filepath.Base(files[name]), Module: m, Pairs: pairs[name]})
	}
	for _, f := range b.site.targets { // one without a change may be what others need
		if slices.Contains(modules, f) {
			continue
		}
		m, err := b.openModule(f)
		if err != nil {
			return in, nil, err
		}
		modules = append(modules, f)
		in.Kernel.Modules = append(in.Kernel.Modules, m)
	}
	return in, modules, b.neighbours(&in, paths)
}

// openModule opens a file that has to be a module.
func (b *kernelBuild) openModule(file string) (*kimage.Module, error) {
	_, m, err := b.kernel(file)
	if err == nil && m == nil {
		err = usageErrorf("--target %s is no module of a kernel", file)
	}
	return m, err
}

// moduleFiles finds the files of modules, by name.
func (b *kernelBuild) moduleFiles(names map[string]bool) (map[string]string, error) {
	files := map[string]string{}
	for _, f := range b.site.targets {
		if name, ok := moduleFile(filepath.Base(f)); ok && names[name] {
			files[name] = f
		}
	}
	if len(files) == len(names) {
		return files, nil
	}
	if b.site.modules != "" {
		if err := findModules(b.site.modules, names, files); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(mapKeys(names)) {
		if files[name] == "" {
			return nil, hinted(fmt.Errorf("the patch changes the module %s, whose file is not known", name),
				"give it with --target, or the directory of all modules with --modules")
		}
	}
	return files, nil
}

// record writes down what the package is made from, besides the kernel.
func (b *kernelBuild) record(record *manifest.Build, objects []*kbuild.Object, modules []string) error {
	record.Compiler = b.cc.Version
	add := func(role, name, file string) {
		in := b.input(role, file)
		in.Name = name
		record.Inputs = append(record.Inputs, in)
	}
	return image.Guard(func() error {
		for _, o := range objects {
			add("before", o.Name, o.Orig)
			add("after", o.Name, o.Patched)
			add("plain", o.Name, o.Plain)
			record.Units = append(record.Units, manifest.Unit{Source: o.Source, Object: path.Base(o.Name), Flags: o.Flags})
		}
		for _, file := range modules {
			add("target", filepath.Base(file), file)
		}
		manifest.SortInputs(record.Inputs)
		return nil
	})
}
