package main

import (
	"fmt"
	"os"
	"slices"

	"github.com/urfave/cli/v2"

	"livepatch/internal/check"
	"livepatch/internal/image"
	"livepatch/internal/kimage"
	"livepatch/internal/modcheck"
	"livepatch/internal/pack"
	"livepatch/internal/sign"
)

// kernelSet is what a module or the package of a kernel patch is verified
// against, and the files that it is from.
type kernelSet struct {
	modcheck.Set
	images
}

// open opens the files that describe a kernel. Of a directory, the modules
// are taken that the patch asks for.
func (s *kernelSet) open(c *cli.Context, wanted []string) error {
	for _, path := range c.StringSlice("target") {
		if err := s.target(path, wanted); err != nil {
			return err
		}
	}
	return s.tables(c)
}

func (s *kernelSet) target(path string, wanted []string) error {
	fi, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, bare(err))
	}
	if fi.IsDir() {
		return s.directory(path, wanted)
	}
	k, m, err := s.kernel(path)
	switch {
	case err != nil:
		return err
	case k != nil && s.Kernel != nil:
		return usageErrorf("%s is a second kernel image", path)
	case m != nil && s.has(m.Name):
		return usageErrorf("%s is a second module %s", path, m.Name)
	case k != nil:
		s.Kernel = k
	default:
		s.Modules = append(s.Modules, m)
	}
	return nil
}

// has tells whether there is a module of that name.
func (s *kernelSet) has(name string) bool {
	return slices.ContainsFunc(s.Modules, func(m *kimage.Module) bool { return m.Name == name })
}

func (s *kernelSet) directory(dir string, wanted []string) error {
	missing := map[string]bool{}
	for _, name := range wanted {
		missing[name] = !s.has(name)
	}
	found, err := s.modules(dir, missing)
	s.Modules = append(s.Modules, found...)
	return err
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
		var err error
		if s.Exports, err = readSymvers(path); err != nil {
			return err
		}
	}
	return s.types(c)
}

// types reads the type information of an image that has none, or other.
func (s *kernelSet) types(c *cli.Context) error {
	path := c.String("btf")
	if path == "" {
		return nil
	}
	if s.Kernel == nil {
		return hintHelp(usageErrorf("--btf is type information of a kernel image, and --target names none"), c.Command)
	}
	b, err := readFile(path)
	if err != nil {
		return err
	}
	if _, err := kimage.ABIFromBTF(b, s.Kernel.Machine); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	s.Kernel.BTF = b
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
	return verifyKernel(c, name, info.Wants(), func(s modcheck.Set) *check.Report { return modcheck.Check(b, s) })
}

// verifyKernelPackage checks a package that patches a kernel.
func verifyKernelPackage(c *cli.Context, path string, pkg *pack.Package, policy sign.Policy) error {
	if c.IsSet("pid") {
		return notAProcess(c, path)
	}
	k := pkg.Manifest.Kernel
	info, err := modcheck.Describe(pkg.Members[k.Payload.Member])
	if err != nil {
		return fmt.Errorf("read %s: %s: %w", path, k.Payload.Member, err)
	}
	return verifyKernel(c, pkg.Manifest.Name, info.Wants(), func(s modcheck.Set) *check.Report {
		r := modcheck.Package(pkg, s)
		r.Sign(pkg, policy)
		return r
	})
}

func notAProcess(c *cli.Context, path string) error {
	return hintHelp(usageErrorf("%s patches a kernel, not a process", path), c.Command)
}

// verifyKernel asks about a patch of a kernel beside the files of the command line.
func verifyKernel(c *cli.Context, name string, wants []string, ask func(modcheck.Set) *check.Report) error {
	var set kernelSet
	defer set.close()
	if err := set.open(c, wants); err != nil {
		return err
	}
	var report *check.Report
	if err := image.Guard(func() error {
		report = ask(set.Set)
		return nil
	}); err != nil {
		return err
	}
	return printReport(newPrinter(c), name, report, "the kernel")
}
