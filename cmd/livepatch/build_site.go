package main

import (
	"context"
	"crypto/sha256"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/urfave/cli/v2"

	"livepatch/internal/distro"
	"livepatch/internal/image"
	"livepatch/internal/kbuild"
	"livepatch/internal/kimage"
	"livepatch/internal/refusal"
	"livepatch/internal/srcpatch"
)

func mapKeys[V any](m map[string]V) iter.Seq[string] { return maps.Keys(m) }

// findKernelSite finds the parts of the kernel that the options name, and the
// module apart from it.
func findKernelSite(c *cli.Context, p *printer) (*kernelSite, error) {
	module, err := givenModule(c)
	if err != nil {
		return nil, hintHelp(err, c.Command)
	}
	s, err := findKernel(c, p)
	if err != nil {
		return nil, err
	}
	if s.module = module; module != nil && len(s.targets) == 0 {
		return nil, hintHelp(usageErrorf("--module-src needs the module with --target"), c.Command)
	}
	return s, nil
}

// givenModule is the module that --module-src names; nil without.
func givenModule(c *cli.Context) (*kbuild.Module, error) {
	if !c.IsSet("module-src") {
		for _, name := range []string{"build-path", "make-var"} {
			if c.IsSet(name) {
				return nil, usageErrorf("--%s goes with --module-src", name)
			}
		}
		return nil, nil
	}
	m := &kbuild.Module{Source: c.String("module-src"), BuildPath: c.String("build-path"), Vars: c.StringSlice("make-var")}
	if m.BuildPath != "" && !filepath.IsAbs(m.BuildPath) {
		return nil, usageErrorf("--build-path %s is not absolute", m.BuildPath)
	}
	for _, v := range m.Vars {
		if name, _, ok := strings.Cut(v, "="); !ok || !makeVar.MatchString(name) {
			return nil, usageErrorf("--make-var %q is not NAME=VALUE", v)
		}
	}
	return m, nil
}

var makeVar = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// patched is the directory that the patches are of.
func (s *kernelSite) patched() string {
	if s.module != nil {
		return s.module.Source
	}
	return s.source
}

// inKernel makes a refusal of a patch of a module's source that changes a file
// of the kernel, too: both are compiled in different ways.
func (s *kernelSite) inKernel(err error) error {
	var e *srcpatch.ApplyError
	if s.module == nil || !errors.As(err, &e) || isRegular(filepath.Join(s.module.Source, e.File)) || !isRegular(filepath.Join(s.source, e.File)) {
		return err
	}
	return refusal.New(refusal.Unsupported, e.File, "%s: it is a file of the kernel, and %s has none of that name: one package is of the one or the other", e.Patch, s.module.Source)
}

// findKernel finds the parts of the kernel.
func findKernel(c *cli.Context, p *printer) (*kernelSite, error) {
	switch arch := c.String("arch"); {
	case arch != "" && machines[arch] == elf.EM_NONE:
		return nil, hintHelp(usageErrorf("--arch %q is neither amd64 nor arm64", arch), c.Command)
	case c.IsSet("kernel-src") && (c.IsSet("kernel") || c.Bool("debian")):
		return nil, hintHelp(usageErrorf("--kernel-src and --kernel exclude each other"), c.Command)
	case c.IsSet("kernel-src"):
		return givenSite(c)
	case !c.Bool("debian"):
		return nil, hinted(usageErrorf("--kernel needs --debian, which says where its packages come from"), "for other kernels give --kernel-src, --config, --symvers and --target")
	}
	for _, name := range []string{"config", "symvers", "objtool", "modules"} {
		if c.IsSet(name) {
			return nil, hintHelp(usageErrorf("--%s: --debian takes that of the packages", name), c.Command)
		}
	}
	return debianSite(c, p)
}

func debianSite(c *cli.Context, p *printer) (*kernelSite, error) {
	opt := distro.Options{Suite: c.String("suite"), Arch: c.String("arch"), Progress: func(what string) { p.Progress(what, 0, 0) }}
	k, err := distro.Debian(c.Context, c.String("kernel"), opt)
	if err != nil {
		return nil, err
	}
	s := &kernelSite{
		files:  kernelPaths{config: k.Path("headers/.config"), symvers: k.Path("headers/Module.symvers"), btf: c.String("btf")},
		source: k.Path("source"), image: k.Path("vmlinuz"), modules: k.Path("modules/kernel"), targets: c.StringSlice("target"),
		work: k.Path("prepared"), ours: true,
	}
	// The tools of the build are for the machine that runs them, so they have an objtool
	// also where the kernel's build has none.
	if tool := k.Path("objtool"); isRegular(tool) && !strings.HasSuffix(k.Release, "-arm64") {
		s.files.objtool = tool
	}
	s.compiler = func(ctx context.Context) (string, error) {
		opt.Compiler = true
		k, err := distro.Debian(ctx, k.Release, opt)
		if err != nil {
			return "", err
		}
		return k.Path("compiler/here/bin"), nil
	}
	return s, nil
}

func isRegular(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular()
}

// givenSite takes all parts from options.
func givenSite(c *cli.Context) (*kernelSite, error) {
	s := &kernelSite{
		source: c.String("kernel-src"), modules: c.String("modules"),
		files: kernelPaths{config: c.String("config"), symvers: c.String("symvers"), btf: c.String("btf"), objtool: c.String("objtool")},
	}
	for _, t := range c.StringSlice("target") {
		kind, err := image.KindOf(t)
		switch {
		case err != nil:
			return nil, err
		case kind == kimage.KernelModule:
			s.targets = append(s.targets, t)
		case s.image != "":
			return nil, usageErrorf("--target %s is a second kernel image", t)
		default:
			s.image = t
		}
	}
	if s.image == "" || s.files.config == "" {
		return nil, hintHelp(usageErrorf("--kernel-src needs --config and the image with --target"), c.Command)
	}
	config, err := readFile(s.files.config)
	if err != nil {
		return nil, err
	}
	source, err := filepath.Abs(s.source)
	if err != nil {
		return nil, err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("find the cache: %w", err)
	}
	key := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%x", source, s.image, sha256.Sum256(config)))
	s.work = filepath.Join(cache, "livepatch", "tree", fmt.Sprintf("%x", key[:8]))
	return s, nil
}

// findModules finds the files of modules below a directory.
func findModules(dir string, names map[string]bool, files map[string]string) error {
	top, err := filepath.EvalSymlinks(dir) // a walk does not enter a link
	if err != nil {
		return fmt.Errorf("read %s: %w", dir, bare(err))
	}
	return filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("read %s: %w", path, bare(err))
		}
		if name, ok := moduleFile(d.Name()); ok && names[name] && files[name] == "" && d.Type().IsRegular() {
			files[name] = path
		}
		return nil
	})
}
