package main

import (
	"cmp"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"livepatch/internal/build"
	"livepatch/internal/compile"
	"livepatch/internal/kimage"
	"livepatch/internal/kmod"
	"livepatch/manifest"
)

// createKernelFlags are the flags of create that only kernels take.
func createKernelFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "symvers", Usage: "kernel: its Module.symvers `FILE` (default: what the image and modules export)"},
		&cli.StringFlag{Name: "btf", Usage: "kernel: `FILE` with its type information (default: that in the image)"},
		&cli.StringFlag{Name: "objtool", Usage: "kernel: its own objtool `PROGRAM`, where its build runs it last (IBT, LTO)"},
		&cli.StringFlag{Name: "config", Usage: "kernel: its configuration `FILE` (default: config-RELEASE beside the image or in /boot)"},
		&cli.StringFlag{Name: "flavour", Value: "auto", Usage: "kernel: `HOW` the module patches: klp, through the livepatch core; direct, through direct calls of ftrace; auto, klp where the kernel has it"},
		&cli.BoolFlag{Name: "no-replace", Usage: "kernel: leave other livepatches in place instead of replacing them", DisableDefaultText: true},
		&cli.StringSliceFlag{Name: "state", Usage: "kernel: `ID[=VERSION]` of a system state that the patch changes; repeatable"},
		moduleKeyFlag(), moduleCertFlag(),
	}
}

func moduleKeyFlag() cli.Flag {
	return &cli.StringFlag{Name: "module-key", Usage: "kernel: private key `FILE` (PEM) to sign the module with"}
}

func moduleCertFlag() cli.Flag {
	return &cli.StringFlag{Name: "module-cert", Usage: "kernel: certificate `FILE` (PEM or DER) of that key"}
}

// kernelInputs opens the targets of a kernel patch: the image, with or without
// pairs, and modules.
func (o *images) kernelInputs(c *cli.Context, targets []targetPaths) (in build.Inputs, err error) {
	in.Kernel = &build.Kernel{NoReplace: c.Bool("no-replace")}
	var imagePath string
	for _, t := range targets {
		target, image, err := o.kernelTarget(t)
		switch {
		case err != nil:
			return in, err
		case image != nil && in.Kernel.Image != nil:
			return in, usageErrorf("--target %s is a second kernel image", t.file)
		case image != nil:
			in.Kernel.Image, imagePath = image, t.file
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
		return in, hintHelp(usageErrorf("no --target has a --pair after it"), c.Command)
	}
	files := kernelPaths{symvers: c.String("symvers"), btf: c.String("btf"), objtool: c.String("objtool"), config: c.String("config")}
	in.Record = &manifest.Build{}
	if in.Record.Inputs, err = kernelFiles(c, in.Kernel, imagePath, files); err != nil {
		return in, err
	}
	return in, o.neighbours(&in, targets)
}

// kernelTarget opens a kernel image, which it returns beside the target, or a
// module, and the pairs.
func (o *images) kernelTarget(t targetPaths) (target build.Target, image *kimage.Kernel, err error) {
	if t.debug != "" {
		return target, nil, hinted(usageErrorf("--debug %s: %s has its symbols in itself", t.debug, t.file), "leave --debug out; it is for programs")
	}
	target.Name = filepath.Base(t.file)
	image, target.Module, err = o.kernel(t.file)
	if errors.Is(err, errNotKernel) {
		err = hinted(usageErrorf("--target %s is neither a kernel nor a module of one, others are", t.file),
			"make one package for the kernel and its modules, another for programs")
	}
	if err != nil {
		return target, nil, err
	}
	target.Pairs, err = o.pairs(t)
	return target, image, err
}

// neighbours opens the modules that the targets need, where they are in the same
// tree of modules: what they export is known from them. One that is not found
// matters only if the patch uses it, and is named then.
func (o *images) neighbours(in *build.Inputs, targets []targetPaths) error {
	open := slices.Clone(in.Kernel.Modules)
	for _, t := range in.Targets {
		if t.Module != nil {
			open = append(open, t.Module)
		}
	}
	missing := map[string]bool{}
	for _, m := range open {
		for _, name := range m.Depends {
			if !slices.ContainsFunc(open, func(have *kimage.Module) bool { return have.Name == name }) {
				missing[name] = true
			}
		}
	}
	for _, t := range targets {
		top := moduleTree(t.file)
		if top == "" || len(missing) == 0 {
			continue
		}
		found, err := o.modules(top, missing)
		if err != nil {
			return err
		}
		in.Kernel.Modules = append(in.Kernel.Modules, found...)
	}
	return nil
}

// moduleTree is the directory "kernel" of the modules of a release that a path
// lies in; "" if it lies in none, or is no module's.
func moduleTree(path string) string {
	if _, ok := moduleFile(filepath.Base(path)); !ok {
		return ""
	}
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

// kernelPaths are the files that describe a kernel; "" for those not given.
type kernelPaths struct{ symvers, btf, objtool, config string }

// kernelFiles reads the files that describe the kernel of an image, and returns
// the record of them. Their names in it do not depend on where they are.
func kernelFiles(c *cli.Context, k *build.Kernel, imagePath string, files kernelPaths) (record []manifest.Input, err error) {
	switch k.Flavour = c.String("flavour"); k.Flavour {
	case "auto", manifest.FlavourKLP, manifest.FlavourDirect:
	default:
		return nil, hinted(usageErrorf("--flavour %q is not known", k.Flavour), "known: auto, %s, %s", manifest.FlavourKLP, manifest.FlavourDirect)
	}
	read := func(role, name, file string) ([]byte, error) {
		b, err := readFile(file)
		if err == nil {
			record = append(record, inputOf(role, name, b))
		}
		return b, err
	}
	if f := files.symvers; f != "" {
		b, err := read("symvers", "Module.symvers", f)
		if err != nil {
			return nil, err
		}
		if k.Symvers, err = kimage.ParseSymvers(b); err != nil {
			return nil, fmt.Errorf("read %s: %w", f, err)
		}
	}
	if f := files.btf; f != "" {
		b, err := read("btf", "btf", f)
		if err != nil {
			return nil, err
		}
		if k.ABI, err = kimage.ABIFromBTF(b, k.Image.Machine); err != nil {
			return nil, fmt.Errorf("read %s: %w", f, err)
		}
		k.Image.BTF = b // of functions, too
	}
	for _, s := range c.StringSlice("state") {
		state, err := parseState(s)
		if err != nil {
			return nil, err
		}
		k.States = append(k.States, state)
	}
	var config kmod.Config
	if f := cmp.Or(files.config, foundConfig(imagePath, k.Image.Release)); f != "" {
		b, err := read("config", "config-"+k.Image.Release, f)
		if err != nil {
			return nil, err
		}
		config = kmod.ParseConfig(b)
	}
	if config.On("EXTENDED_MODVERSIONS") {
		k.Versions = kmod.ExtendedVersions
	}
	if config.On("BASIC_MODVERSIONS") {
		k.Versions |= kmod.BasicVersions
	}
	if err := useObjtool(k, files.objtool, config); err != nil {
		return nil, err
	}
	if k.Objtool != nil {
		record = append(record, manifest.Input{Role: "objtool", Name: "objtool", SHA256: k.ObjtoolDigest})
	}
	k.Sign, err = moduleSigner(c, config["MODULE_SIG_HASH"])
	return record, err
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

// foundConfig is where the configuration of a kernel is found if none is
// given; "" if nowhere.
func foundConfig(imagePath, release string) string {
	for _, p := range []string{
		filepath.Join(filepath.Dir(imagePath), "config-"+release), "/boot/config-" + release, "/lib/modules/" + release + "/build/.config",
	} {
		if fi, err := os.Stat(p); err == nil && fi.Mode().IsRegular() {
			return p
		}
	}
	return ""
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

// moduleSigner signs modules as the kernel's own build does, with the key and
// certificate that were given; nil if none were.
func moduleSigner(c *cli.Context, hash string) (func([]byte) ([]byte, error), error) {
	keyPath, certPath := c.String("module-key"), c.String("module-cert")
	if (keyPath == "") != (certPath == "") {
		return nil, hinted(usageErrorf("--module-key and --module-cert go together"), "a signature needs the private key and its certificate")
	}
	if keyPath == "" {
		return nil, nil
	}
	key, err := readFile(keyPath)
	if err != nil {
		return nil, err
	}
	cert, err := readFile(certPath)
	if err != nil {
		return nil, err
	}
	signer, err := kmod.NewSigner(key, cert, hash)
	if err != nil {
		return nil, fmt.Errorf("sign with %s: %w", keyPath, err)
	}
	return signer.Sign, nil
}

func printCreatedKernel(p *printer, k *manifest.Kernel) {
	p.Printf("%s  %s, module %s%s\n", p.Paint(bold, "kernel "+k.Release), k.Machine, k.Module, flavourText(k))
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

// flavourText says how a module patches, where it is not the usual way.
func flavourText(k *manifest.Kernel) string {
	switch {
	case k.Dispatch == manifest.DispatchShared:
		return ", one handler"
	case k.Flavour == manifest.FlavourDirect:
		return ", direct calls"
	}
	return ""
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
