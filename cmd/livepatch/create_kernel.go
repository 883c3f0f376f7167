package main

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"livepatch/internal/build"
	"livepatch/internal/compile"
	"livepatch/internal/image"
	"livepatch/internal/kimage"
	"livepatch/internal/kmod"
	"livepatch/manifest"
)

// createKernelFlags are the flags of create that only kernels take.
func createKernelFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "symvers", Category: "kernel", Usage: "`FILE` Module.symvers of the kernel (default: what the image and modules export)"},
		&cli.StringFlag{Name: "btf", Category: "kernel", Usage: "`FILE` with the kernel's type information (default: that in the image)"},
		&cli.StringFlag{Name: "objtool", Category: "kernel", Usage: "the kernel's own objtool `PROGRAM`, for kernels with IBT or LTO"},
		&cli.StringFlag{Name: "config", Category: "kernel", Usage: "the kernel's configuration `FILE`, for objtool (default: config-RELEASE beside the image or in /boot)"},
		&cli.StringFlag{Name: "flavour", Category: "kernel", Value: "auto", Usage: "how the module patches: `auto` or klp, through the livepatch core"},
		&cli.BoolFlag{Name: "no-replace", Category: "kernel", Usage: "leave other livepatches in place instead of replacing them"},
		&cli.StringSliceFlag{Name: "state", Category: "kernel", Usage: "`ID[=VERSION]` of a system state that the patch changes; repeatable"},
		&cli.StringFlag{Name: "module-key", Category: "kernel", Usage: "private key `FILE` (PEM) to sign the module with"},
		&cli.StringFlag{Name: "module-cert", Category: "kernel", Usage: "certificate `FILE` (PEM or DER) of that key"},
	}
}

// kernelInputs opens the targets of a kernel patch: the image, with or without
// pairs, and modules.
func (o *images) kernelInputs(c *cli.Context, targets []targetPaths) (in build.Inputs, err error) {
	in.Kernel = &build.Kernel{NoReplace: c.Bool("no-replace")}
	for _, t := range targets {
		if t.debug != "" {
			return in, usageErrorf("--debug %s: a kernel has its symbols in itself", t.debug)
		}
		target := build.Target{Name: filepath.Base(t.file)}
		switch kind, err := image.KindOf(t.file); {
		case err != nil:
			return in, err
		case kind == kimage.KernelImage && in.Kernel.Image != nil:
			return in, usageErrorf("--target %s is a second kernel image", t.file)
		case kind == kimage.KernelImage:
			k, err := image.OpenKernel(t.file)
			if err != nil {
				return in, err
			}
			*o = append(*o, k)
			in.Kernel.Image = k.Kernel
			if err := kernelFiles(c, in.Kernel, t.file); err != nil {
				return in, err
			}
		case kind == kimage.KernelModule:
			m, err := image.OpenModule(t.file)
			if err != nil {
				return in, err
			}
			*o = append(*o, m)
			target.Module = m.Module
			if err := o.neighbours(in.Kernel, m); err != nil {
				return in, err
			}
		default:
			return in, usageErrorf("--target %s is neither a kernel image nor a module, others are", t.file)
		}
		if target.Pairs, err = o.pairs(t); err != nil {
			return in, err
		}
		if len(target.Pairs) > 0 {
			in.Targets = append(in.Targets, target)
		} else if target.Module != nil {
			in.Kernel.Modules = append(in.Kernel.Modules, target.Module)
		}
	}
	if in.Kernel.Image == nil {
		return in, hinted(usageErrorf("a module can be patched only together with its kernel"), "add --target VMLINUZ; it needs no --pair")
	}
	if len(in.Targets) == 0 {
		return in, usageErrorf("no --target has a --pair after it")
	}
	return in, nil
}

// neighbours opens the modules that a module needs, where they are in the same
// tree of modules: what they export is known from them. One that is not found
// matters only if the patch uses it, and is named then.
func (o *images) neighbours(k *build.Kernel, m *image.Module) error {
	missing := map[string]bool{}
	for _, name := range m.Depends {
		missing[name] = !slices.ContainsFunc(k.Modules, func(have *kimage.Module) bool { return have.Name == name })
	}
	top := moduleTree(m.Path)
	if top == "" {
		return nil
	}
	return filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		name, isModule := moduleFile(filepath.Base(path))
		if err != nil || d.IsDir() || !isModule || !missing[name] {
			return nil
		}
		found, err := image.OpenModule(path)
		if err != nil {
			return err
		}
		*o = append(*o, found)
		k.Modules = append(k.Modules, found.Module)
		missing[name] = false
		return nil
	})
}

// moduleTree is the directory "kernel" of the modules of a release that a path
// lies in; "" if it lies in none.
func moduleTree(path string) string {
	path, err := filepath.Abs(path)
	if err != nil {
		return ""
	}
	for dir := filepath.Dir(path); dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if filepath.Base(dir) == "kernel" {
			return dir
		}
	}
	return ""
}

// moduleFile returns the name of the module in a file of that name.
func moduleFile(base string) (name string, ok bool) {
	name, rest, ok := strings.Cut(base, ".ko")
	return strings.ReplaceAll(name, "-", "_"), ok && (rest == "" || rest == ".xz" || rest == ".zst" || rest == ".gz")
}

// kernelFiles reads the files that describe the kernel of an image.
func kernelFiles(c *cli.Context, k *build.Kernel, path string) error {
	if f := c.String("flavour"); f != "auto" && f != manifest.FlavourKLP {
		return usageErrorf("--flavour %q is not known", f)
	}
	if f := c.String("symvers"); f != "" {
		b, err := readFile(f)
		if err != nil {
			return err
		}
		if k.Symvers, err = kimage.ParseSymvers(b); err != nil {
			return fmt.Errorf("read %s: %w", f, err)
		}
	}
	if f := c.String("btf"); f != "" {
		b, err := readFile(f)
		if err != nil {
			return err
		}
		if k.ABI, err = kimage.ABIFromBTF(b, k.Image.Machine); err != nil {
			return fmt.Errorf("read %s: %w", f, err)
		}
	}
	for _, s := range c.StringSlice("state") {
		state, err := parseState(s)
		if err != nil {
			return err
		}
		k.States = append(k.States, state)
	}
	config, err := kernelConfig(c.String("config"), path, k.Image.Release)
	if err != nil {
		return err
	}
	if config.On("EXTENDED_MODVERSIONS") {
		k.Versions = kmod.ExtendedVersions
	}
	if config.On("BASIC_MODVERSIONS") {
		k.Versions |= kmod.BasicVersions
	}
	if err := useObjtool(k, c.String("objtool"), config); err != nil {
		return err
	}
	return useKey(k, c.String("module-key"), c.String("module-cert"), config["MODULE_SIG_HASH"])
}

// parseState reads "ID" or "ID=VERSION".
func parseState(s string) (manifest.KernelState, error) {
	id, version, _ := strings.Cut(s, "=")
	if version == "" {
		version = "0"
	}
	i, err := strconv.ParseUint(id, 0, 64)
	v, verr := strconv.ParseUint(version, 0, 32)
	if errors.Join(err, verr) != nil {
		return manifest.KernelState{}, usageErrorf("--state %q is not ID or ID=VERSION", s)
	}
	return manifest.KernelState{ID: i, Version: uint32(v)}, nil
}

// kernelConfig reads the configuration of a kernel: the file given, or that
// which distributions put beside the image, in /boot or with the headers. Nil
// if there is none.
func kernelConfig(path, imagePath, release string) (kmod.Config, error) {
	if path != "" {
		b, err := readFile(path)
		if err != nil {
			return nil, err
		}
		return kmod.ParseConfig(b), nil
	}
	for _, p := range []string{
		filepath.Join(filepath.Dir(imagePath), "config-"+release), "/boot/config-" + release, "/lib/modules/" + release + "/build/.config",
	} {
		if b, err := os.ReadFile(p); err == nil {
			return kmod.ParseConfig(b), nil
		}
	}
	return nil, nil
}

// useObjtool has the given objtool process the patch. Its arguments are those of
// the kernel's own build, so they take the kernel's configuration.
func useObjtool(k *build.Kernel, path string, config kmod.Config) error {
	if path == "" {
		return nil
	}
	if config == nil {
		return hinted(fmt.Errorf("--objtool needs the configuration of kernel %s, which is not beside the image", k.Image.Release),
			"give it with --config")
	}
	if k.Image.Machine != elf.EM_X86_64 {
		return fmt.Errorf("--objtool: %v kernels have none", k.Image.Machine)
	}
	tool, err := compile.OpenObjtool(path)
	if err != nil {
		return err
	}
	k.ObjtoolDigest = tool.Digest[:]
	k.Objtool = func(object []byte) ([]byte, error) { return tool.Run(object, kmod.ObjtoolArgs(config)) }
	return nil
}

// useKey signs the module as the kernel's own build does.
func useKey(k *build.Kernel, keyPath, certPath, hash string) error {
	if (keyPath == "") != (certPath == "") {
		return usageErrorf("--module-key and --module-cert go together")
	}
	if keyPath == "" {
		return nil
	}
	key, err := readFile(keyPath)
	if err != nil {
		return err
	}
	cert, err := readFile(certPath)
	if err != nil {
		return err
	}
	signer, err := kmod.NewSigner(key, cert, hash)
	if err != nil {
		return fmt.Errorf("sign with %s: %w", keyPath, err)
	}
	k.Sign = signer.Sign
	return nil
}

func printCreatedKernel(p *printer, k *manifest.Kernel) {
	p.Printf("%s  %s, module %s\n", p.Paint(bold, "kernel "+k.Release), k.Machine, k.Module)
	for _, o := range k.Objects {
		for _, f := range o.Functions {
			p.Printf("  replace  %-28s %s  %d -> %d bytes (%s)\n", positioned(f.Name, f.Position), o.Name, f.Size, f.NewSize, f.Proof)
		}
		for _, s := range o.Symbols {
			p.Printf("  share    %-28s %s  %s, %s\n", positioned(s.Name, s.Position), o.Name, foundText(s.Found), plural(s.Uses, "use", "uses"))
		}
		for _, cb := range o.Callbacks {
			p.Printf("  call     %-28s %s  %s\n", cb.Function, o.Name, strings.ReplaceAll(cb.Kind, "_", "-"))
		}
	}
	for _, w := range k.Warnings {
		p.Warn("%s", w)
	}
}

// positioned is a kallsyms name with its position, if there are several of it.
func positioned(name string, pos int) string {
	if pos == 0 {
		return name
	}
	return fmt.Sprintf("%s,%d", name, pos)
}

func foundText(found string) string {
	if found == "symbol" {
		return "by its symbol"
	}
	return "seen at " + found
}
