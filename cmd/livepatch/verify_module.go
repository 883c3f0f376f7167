package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"livepatch/internal/check"
	"livepatch/internal/image"
	"livepatch/internal/kimage"
	"livepatch/internal/modcheck"
	"livepatch/internal/pack"
)

// kernelSet is what a module or the package of a kernel patch is verified
// against, and what has to be closed after that.
type kernelSet struct {
	modcheck.Set
	open []interface{ Close() error }
}

func (s *kernelSet) Close() {
	for _, x := range s.open {
		x.Close()
	}
}

// openSet opens the files that describe a kernel. Of a directory, the modules
// are taken that the patch asks for.
func openSet(c *cli.Context, wanted []string) (*kernelSet, error) {
	s := &kernelSet{}
	for _, path := range c.StringSlice("target") {
		if err := s.target(path, wanted); err != nil {
			s.Close()
			return nil, err
		}
	}
	if err := s.tables(c); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *kernelSet) target(path string, wanted []string) error {
	fi, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, bare(err))
	}
	if fi.IsDir() {
		return s.directory(path, wanted)
	}
	kind, err := image.KindOf(path)
	switch {
	case err != nil:
		return err
	case kind == kimage.KernelModule:
		return s.module(path)
	case kind != kimage.KernelImage:
		return fmt.Errorf("read %s: a %s is neither a kernel nor a module of one", path, kind)
	case s.Kernel != nil:
		return usageErrorf("%s is a second kernel image", path)
	}
	k, err := image.OpenKernel(path)
	if err != nil {
		return err
	}
	s.open = append(s.open, k)
	s.Kernel = k.Kernel
	return nil
}

func (s *kernelSet) module(path string) error {
	m, err := image.OpenModule(path)
	if err != nil {
		return err
	}
	s.open = append(s.open, m)
	if slices.ContainsFunc(s.Modules, func(x *kimage.Module) bool { return x.Name == m.Name }) {
		return usageErrorf("%s is a second module %s", path, m.Name)
	}
	s.Modules = append(s.Modules, m.Module)
	return nil
}

// directory looks for modules by the names of files, which kbuild gives them:
// the name of the module, with - or _.
func (s *kernelSet) directory(dir string, wanted []string) error {
	dir, err := filepath.EvalSymlinks(dir) // a walk does not enter a link
	if err != nil {
		return fmt.Errorf("read %s: %w", dir, bare(err))
	}
	return filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("read %s: %w", path, bare(err))
		}
		name, _, ok := strings.Cut(d.Name(), ".ko")
		name = strings.ReplaceAll(name, "-", "_")
		if !ok || !d.Type().IsRegular() || !slices.Contains(wanted, name) ||
			slices.ContainsFunc(s.Modules, func(x *kimage.Module) bool { return x.Name == name }) {
			return nil
		}
		return s.module(path)
	})
}

// tables reads the text files that say what an image without symbols lacks.
func (s *kernelSet) tables(c *cli.Context) error {
	for _, flag := range []string{"kallsyms", "system-map"} {
		path := c.String(flag)
		if path == "" {
			continue
		}
		if s.Symbols != nil {
			return hintHelp(usageErrorf("verify takes --kallsyms or --system-map, not both"), c.Command)
		}
		b, err := readFile(path)
		if err != nil {
			return err
		}
		list, err := kimage.ParseKallsyms(b)
		if err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		s.Symbols = slices.DeleteFunc(list, func(x kimage.Symbol) bool { return x.Module != "" })
	}
	if path := c.String("symvers"); path != "" {
		b, err := readFile(path)
		if err != nil {
			return err
		}
		if s.Exports, err = kimage.ParseSymvers(b); err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
	}
	return nil
}

// verifyModule checks a kernel module that is not in a package.
func verifyModule(c *cli.Context, path string, b []byte) error {
	if c.IsSet("pid") {
		return notAProcess(c, path)
	}
	info, err := modcheck.Describe(b)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	name := info.Name
	if name == "" {
		name = path
	}
	return verifyKernel(c, newPrinter(c), name, info.Wants(), func(s modcheck.Set) *check.Report { return modcheck.Check(b, s) })
}

// verifyKernelPackage checks a package that patches a kernel.
func verifyKernelPackage(c *cli.Context, p *printer, path string, pkg *pack.Package) error {
	if c.IsSet("pid") {
		return notAProcess(c, path)
	}
	k := pkg.Manifest.Kernel
	info, err := modcheck.Describe(pkg.Members[k.Payload.Member])
	if err != nil {
		return fmt.Errorf("read %s: %s: %w", path, k.Payload.Member, err)
	}
	return verifyKernel(c, p, pkg.Manifest.Name, info.Wants(), func(s modcheck.Set) *check.Report { return modcheck.Package(pkg, s) })
}

func notAProcess(c *cli.Context, path string) error {
	return hintHelp(usageErrorf("%s patches a kernel, not a process", path), c.Command)
}

// verifyKernel asks about a patch of a kernel beside the files of the command line.
func verifyKernel(c *cli.Context, p *printer, name string, wants []string, ask func(modcheck.Set) *check.Report) error {
	set, err := openSet(c, wants)
	if err != nil {
		return err
	}
	defer set.Close()
	var report *check.Report
	if err := image.Guard(func() error {
		report = ask(set.Set)
		return nil
	}); err != nil {
		return err
	}
	return printReport(p, name, report, "the kernel")
}
