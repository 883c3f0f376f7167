package build

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"livepatch/elfpatch"
	"livepatch/elfpatch/kernel"
	"livepatch/elfpatch/match"
	"livepatch/fentry"
	"livepatch/internal/kimage"
	"livepatch/internal/kmod"
	"livepatch/internal/pack"
	"livepatch/internal/refusal"
	"livepatch/manifest"
	"livepatch/trampoline"
)

// Kernel is what the patch of a kernel needs besides its pairs.
type Kernel struct {
	Image   *kimage.Kernel
	Modules []*kimage.Module         // whose exports may be used, besides the targets
	Symvers map[string]kimage.Export // of Module.symvers; nil: what the image and the modules say themselves

	// Sites finds the patch sites of the image, which takes nothing else and so can be
	// begun before the pairs are there; nil: when they are wanted.
	Sites func() (*fentry.Finder, error)

	// Objtool processes the code of the module where the objects lack what
	// objtool adds (unwind tables, lists of returns and calls); nil if there is none.
	Objtool       func(object []byte) ([]byte, error)
	ObjtoolDigest []byte // SHA-256 of the program

	Flavour   string                              // manifest.FlavourKLP or FlavourDirect; "" or "auto": through the livepatch core where the kernel has one
	ABI       *kimage.ABI                         // layouts of the kernel's structures; nil: from the type information in the image
	Versions  kmod.Versions                       // forms in which the kernel reads symbol versions
	Sign      func(module []byte) ([]byte, error) // appends a signature; nil for none
	NoReplace bool                                // leaves other livepatches in place
	States    []manifest.KernelState
}

// kernelSteps is what the pipeline knows about the patch of a kernel.
type kernelSteps struct {
	in       Inputs
	kernel   *Kernel
	targets  []*kernelTarget
	image    *kernelTarget // the kernel image, a target or not
	exports  map[string]kimage.Export
	abi      *kimage.ABI
	strides  map[string]uint64 // sizes of entries, by section
	refusals refusal.List

	parts    []*kernelPart
	merged   *kmod.Merged
	code     *elfpatch.File // of the module, after objtool
	objtool  bool           // it ran
	spec     kmod.Spec
	module   []byte
	base     []byte // the module that a patch of flavour direct needs
	direct   bool   // flavour direct
	warnings []string
}

// kernelTarget is the kernel image or a module.
type kernelTarget struct {
	steps
	name  string // "vmlinux", or that of the module
	table symbolTable
	sites func() (*fentry.Finder, error)
	funcs []*kernelFunc

	// What livepatch relocations refer to, and where the proof found it.
	shared map[kernelName]match.Place
}

// createKernel makes the package for a kernel.
func createKernel(in Inputs) (*Result, error) {
	k, err := newKernelSteps(in)
	if err != nil {
		return nil, err
	}
	p, err := k.run()
	return &Result{Package: p, Parts: k.made(), Findings: k.findings()}, err
}

// run is the pipeline for a kernel. Refusals of a step are kept, and the next
// steps go on with what is left, so that one run names every reason.
func (k *kernelSteps) run() (*pack.Package, error) {
	// Compare: from here on every function and variable of each pair is the
	// same, changed, new or removed, and what cannot be patched at all is known.
	if err := k.each((*kernelTarget).compare); err != nil {
		return nil, err
	}

	// Prove: from here on each changed function has exactly one address in its
	// image, where its code stands byte for byte as the before object has it.
	if err := k.each((*kernelTarget).prove); err != nil {
		return nil, err
	}

	// Find: from here on each changed function has the name and position by which
	// the kernel finds it, and a site that ftrace can redirect.
	if err := k.each((*kernelTarget).find); err != nil {
		return nil, err
	}

	// Cut: from here on what is loaded is separate from what is only compared,
	// and every name that crosses the border has an owner: an export, a symbol of
	// an image, or another part.
	if err := k.cut(); err != nil {
		return nil, err
	}
	if err := k.refusals.Err(); err != nil {
		return nil, err
	}
	if !k.acts() {
		return nil, ErrNothingToPatch
	}

	// Judge: from here on what the change means for what runs is refused, allowed
	// by who makes the package, or a finding for who reads it.
	if err := k.each(func(t *kernelTarget) error { t.judge(k.in.Allow); return nil }); err != nil {
		return nil, err
	}
	k.judgeModules()
	if err := k.refusals.Err(); err != nil {
		return nil, err
	}

	k.warnMixed()

	// Merge: from here on the parts are one object, as the kernel's own build
	// would have linked it, and objtool has seen it where the kernel wants that.
	if err := k.merge(); err != nil {
		return nil, err
	}

	// Emit: from here on there is a module, judged as a stranger's would be.
	if err := k.emit(); err != nil {
		return nil, err
	}
	if err := k.check(); err != nil {
		return nil, err
	}

	// Manifest: the contract with the loader.
	return k.describe()
}

// made lists the pairs of all targets for the result.
func (k *kernelSteps) made() (out []Part) {
	for _, t := range k.targets {
		out = append(out, t.made()...)
	}
	return out
}

func newKernelSteps(in Inputs) (*kernelSteps, error) {
	k := &kernelSteps{in: in, kernel: in.Kernel}
	if err := k.checkInputs(); err != nil {
		return nil, err
	}
	k.image = newKernelTarget(manifest.Vmlinux, imageTable{in.Kernel.Image}, Target{Name: manifest.Vmlinux, File: in.Kernel.Image.File})
	if in.Kernel.Sites != nil {
		k.image.sites = in.Kernel.Sites
	}
	for _, t := range in.Targets {
		if t.Module == nil {
			k.image.target.Name, k.image.target.Pairs = t.Name, t.Pairs
			k.targets = append(k.targets, k.image)
			continue
		}
		t.File = t.Module.Linked
		k.targets = append(k.targets, newKernelTarget(t.Module.Name, moduleTable{t.Module}, t))
	}
	if k.abi = in.Kernel.ABI; k.abi == nil {
		var err error
		if k.abi, err = kimage.ABIFromBTF(in.Kernel.Image.BTF, in.Kernel.Image.Machine); err != nil {
			return nil, fmt.Errorf("read the kernel's type information: %w", err)
		}
	}
	k.strides = map[string]uint64{}
	for _, t := range kernel.Tables {
		if s, ok := k.abi.Structs[t.Struct]; ok {
			k.strides[t.Section] = s.Size
		}
	}
	var err error
	if k.exports, err = k.allExports(); err != nil {
		return nil, err
	}
	switch _, core := k.exports[enablePatch]; in.Kernel.Flavour {
	case "", "auto":
		k.direct = !core
	case manifest.FlavourDirect:
		k.direct = true
	case manifest.FlavourKLP:
	default:
		return nil, fmt.Errorf("flavour %q is not known", in.Kernel.Flavour)
	}
	if in.Dispatch == trampoline.Shared && !k.direct {
		return nil, ErrSharedFlavour
	}
	return k, nil
}

// ErrSharedFlavour is the error for a dispatch that goes with another flavour.
var ErrSharedFlavour = errors.New("dispatch shared goes with flavour direct; the livepatch core has a way of its own")

// enablePatch is what a kernel with a livepatch core exports.
const enablePatch = "klp_enable_patch"

func newKernelTarget(name string, table symbolTable, t Target) *kernelTarget {
	return &kernelTarget{name: name, table: table, steps: steps{target: t, kernel: true}, shared: map[kernelName]match.Place{},
		sites: func() (*fentry.Finder, error) { return fentry.NewFinder(t.File, fentry.Options{}) }}
}

// checkInputs refuses targets that do not belong together.
func (k *kernelSteps) checkInputs() error {
	img := k.kernel.Image
	if img == nil {
		return errors.New("modules need the image of their kernel too")
	}
	seen := map[string]bool{}
	for _, t := range k.in.Targets {
		name := manifest.Vmlinux
		if t.Module != nil {
			name = t.Module.Name
			if t.Module.Vermagic != img.Vermagic {
				k.refusals = append(k.refusals, refusal.New(refusal.WrongTarget, t.Name,
					"the module is for kernel %q, the image is %q", t.Module.Vermagic, img.Vermagic))
			}
		}
		if seen[name] {
			return fmt.Errorf("%s is a target twice", name)
		}
		seen[name] = true
	}
	return k.refusals.Err()
}

// allExports is what the kernel, the targets and the other modules export. What
// Module.symvers says of a name takes precedence, but must not contradict.
func (k *kernelSteps) allExports() (map[string]kimage.Export, error) {
	all, err := k.kernel.Image.Exports()
	if err != nil {
		return nil, fmt.Errorf("read the kernel's exports: %w", err)
	}
	all = maps.Clone(all)
	modules := slices.Clone(k.kernel.Modules)
	for _, t := range k.in.Targets {
		if t.Module != nil {
			modules = append(modules, t.Module)
		}
	}
	for _, m := range modules {
		exports, err := m.Exports()
		if err != nil {
			return nil, fmt.Errorf("read the exports of %s: %w", m.Name, err)
		}
		for name, x := range exports {
			if _, ok := all[name]; !ok {
				all[name] = x
			}
		}
	}
	for name, x := range k.kernel.Symvers {
		have, ok := all[name]
		if ok && have.Module == x.Module && have.HasCRC && x.HasCRC && have.CRC != x.CRC {
			return nil, refusal.List{refusal.New(refusal.SymbolVersion, name,
				"Module.symvers has version %#08x, the image %#08x: it is of another build", x.CRC, have.CRC)}
		}
		if !ok {
			all[name] = x
		}
	}
	return all, nil
}

// each runs a step for every target and takes over its refusals.
func (k *kernelSteps) each(step func(*kernelTarget) error) error {
	for _, t := range k.targets {
		if err := step(t); err != nil {
			return fmt.Errorf("%s: %w", t.target.Name, err)
		}
		k.refusals = append(k.refusals, t.refusals...)
		t.refusals = nil
	}
	return nil
}
