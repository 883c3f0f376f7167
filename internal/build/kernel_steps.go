package build

import (
	"cmp"
	"crypto/sha256"
	"debug/elf"
	"errors"
	"fmt"
	"slices"
	"strings"

	"livepatch/elfpatch"
	"livepatch/elfpatch/diff"
	"livepatch/elfpatch/match"
	"livepatch/fentry"
	"livepatch/internal/kmod"
	"livepatch/internal/modcheck"
	"livepatch/internal/refusal"
	"livepatch/manifest"
)

// kernelFunc is one function with the name and site that the kernel knows.
type kernelFunc struct {
	pair *pairSteps
	fn   match.Func
	name kernelName
	site fentry.Func
	body [sha256.Size]byte
}

// kernelPart is the cut object of a pair and where it belongs.
type kernelPart struct {
	target *kernelTarget
	pair   *pairSteps
	part   kmod.Part
}

// find looks up the kallsyms name and the ftrace site of each proven function.
func (t *kernelTarget) find() error {
	finder, err := t.sites()
	if err != nil {
		return fmt.Errorf("look for patch sites: %w", err)
	}
	for _, p := range t.pairs {
		if p.proof == nil {
			continue
		}
		for _, fn := range p.proof.Funcs {
			if p.refused(p.OrigName+": "+fn.Name, refusal.NoPatchSite, refusal.InitTextChanged) {
				continue // the object itself shows that it has no site
			}
			f, err := t.findOne(finder, p, fn)
			if err := t.note(err); err != nil {
				return err
			}
			if err == nil {
				t.funcs = append(t.funcs, f)
			}
		}
	}
	return nil
}

// refused reports whether comparing has refused something for one of the
// reasons: the function at a place, or anything if where is "".
func (p *pairSteps) refused(where string, codes ...refusal.Code) bool {
	return slices.ContainsFunc(p.delta.Refusals, func(r refusal.Refusal) bool {
		return slices.Contains(codes, r.Code) && (where == "" || r.Where == where)
	})
}

func (t *kernelTarget) findOne(finder *fentry.Finder, p *pairSteps, fn match.Func) (*kernelFunc, error) {
	where := p.OrigName + ": " + fn.Name
	name, ok := t.nameAt(fn.Addr, fn.Name)
	if !ok {
		return nil, refusal.New(refusal.AddressUnknown, where, "it is at %#x of %s, where kallsyms has no name", fn.Addr, t.name)
	}
	site, err := finder.At(fn.Addr, fn.Size)
	if err != nil {
		return nil, fmt.Errorf("look for the patch site of %s: %w", fn.Name, err)
	}
	if site.Verdict != fentry.Yes {
		return nil, refusal.New(refusal.NoPatchSite, where, "ftrace cannot redirect it: %s", site.Reason)
	}
	body, ok := t.bytes(fn.Addr, fn.Size)
	if !ok {
		return nil, errors.New("a proven function lies outside the file") // cannot happen: it was compared
	}
	return &kernelFunc{pair: p, fn: fn, name: name, site: site, body: sha256.Sum256(body)}, nil
}

// cut takes what changed out of each after object and finds the owners of all
// names that the parts do not define.
func (k *kernelSteps) cut() error {
	for _, t := range k.targets {
		for _, p := range t.pairs {
			if p.proof == nil {
				continue
			}
			cut, err := p.delta.CutFor(diff.CutOptions{
				Elsewhere: p.elsewhere,
				ModuleKey: func(key string) (string, bool) { return k.ownerOf(t, key) },
				Strides:   k.strides,
			})
			if err := t.note(err); err != nil {
				return fmt.Errorf("cut %s: %w", p.PatchedName, err)
			}
			if err != nil {
				continue
			}
			p.cut = cut
			part := &kernelPart{target: t, pair: p, part: kmod.Part{Name: p.PatchedName, Cut: cut, Bindings: map[int]kmod.Binding{}}}
			if t != k.image {
				part.part.Object = t.name
			}
			k.parts = append(k.parts, part)
			for _, w := range cut.Kernel.Warnings {
				k.warnings = append(k.warnings, p.OrigName+": "+w)
			}
		}
	}
	k.refuseTwoCallbacks()
	added := k.added()
	for _, part := range k.parts {
		for i, e := range part.part.Cut.Externals {
			if e.Orig == 0 && added[e.Name] {
				continue // another part brings it along
			}
			b, err := k.bind(part.target, part.pair, e)
			if err := part.target.note(err); err != nil {
				return err
			}
			part.part.Bindings[i] = b
		}
	}
	if err := k.checkTypeHashes(); err != nil {
		return err
	}
	return k.each(func(*kernelTarget) error { return nil })
}

// refuseTwoCallbacks refuses callbacks of one kind in several parts of a
// target: the kernel would call one.
func (k *kernelSteps) refuseTwoCallbacks() {
	type key struct{ object, kind string }
	seen := map[key]string{}
	for _, part := range k.parts {
		for _, cb := range part.part.Cut.Kernel.Callbacks {
			at := key{part.target.name, cb.Kind}
			if first, ok := seen[at]; ok {
				k.refusals = append(k.refusals, refusal.New(refusal.CallbackDuplicate, part.pair.OrigName,
					"it has a %s callback for %s, and so has %s", strings.ReplaceAll(cb.Kind, "_", "-"), at.object, first))
			}
			seen[at] = part.pair.OrigName
		}
	}
}

// added are the global names that parts define and no before object had.
func (k *kernelSteps) added() map[string]bool {
	names := map[string]bool{}
	for _, part := range k.parts {
		part.pair.eachPatched(func(orig, patched int) {
			if sym := part.pair.Patched.Symbols[patched]; orig == 0 && sym.Bind != elf.STB_LOCAL {
				names[sym.Name] = true
			}
		})
	}
	return names
}

// acts reports whether the parts do anything: replace a function, or have one
// called when the patch comes or goes.
func (k *kernelSteps) acts() bool {
	return slices.ContainsFunc(k.parts, func(p *kernelPart) bool {
		return len(p.part.Cut.Funcs) > 0 || len(p.part.Cut.Kernel.Callbacks) > 0
	})
}

// merge joins the parts and has objtool process their code where it has not
// seen the objects.
func (k *kernelSteps) merge() error {
	parts := make([]kmod.Part, len(k.parts))
	raw, made := 0, true
	for i, p := range k.parts {
		parts[i] = p.part
		made = made && p.pair.Made
		if p.part.Cut.Kernel.Raw {
			raw++
		}
	}
	merged, err := kmod.Merge(k.kernel.Image.Machine, parts)
	if err != nil {
		return err
	}
	k.merged, k.code = merged, merged.Object
	switch {
	case made:
		k.markUnwindTables() // their tables are copies of the image's
		return nil
	case raw == 0 || !traits(k.kernel.Image, 0).ORC:
		return nil // objtool has seen the objects, or the kernel does without
	case raw < len(parts):
		return refusal.List{refusal.New(refusal.ObjectsUnrelated, k.in.Name,
			"objtool has processed %d of %d objects: make all of them in the same way", len(parts)-raw, len(parts))}
	case k.kernel.Objtool == nil:
		return refusal.List{refusal.New(refusal.ObjtoolNeeded, k.in.Name,
			"the objects lack unwind and call tables, which objtool adds when this kernel is linked")}
	}
	for _, key := range merged.Keys() {
		if b, ok := k.key(key); ok {
			merged.AddKey(key, b)
		}
	}
	b, err := merged.Object.Bytes()
	if err != nil {
		return fmt.Errorf("lay out the merged object: %w", err)
	}
	if b, err = k.kernel.Objtool(b); err != nil {
		return err
	}
	k.objtool = true
	if k.code, err = elfpatch.Parse(b); err != nil {
		return fmt.Errorf("read what objtool wrote: %w", err)
	}
	k.markUnwindTables()
	return nil
}

// orcHeader is where kernels since 6.4 say which form of ORC tables they and
// their modules have. The build puts it into modules after objtool, from the
// headers of the objtool that ran (arch/x86/include/asm/orc_header.h), so it is
// that of the kernel.
const orcHeader = ".orc_header"

func (k *kernelSteps) markUnwindTables() {
	from := k.kernel.Image.File.Section(orcHeader)
	if from == nil || k.code.Section(".orc_unwind") == nil || k.code.Section(orcHeader) != nil {
		return
	}
	k.code.AddSection(elfpatch.Section{
		Name: orcHeader, Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC, Align: 4, Data: slices.Clone(from.Data),
	})
}

// key finds the key of a static call, if the kernel says where it is.
func (k *kernelSteps) key(name string) (kmod.Binding, bool) {
	if x, ok := k.exports[name]; ok && x.Module == manifest.Vmlinux {
		return exported(x), true
	}
	i, err := global(k.image.table, name, match.Place{}, false)
	if err != nil {
		return kmod.Binding{}, false
	}
	return kmod.Binding{Kind: kmod.KLP, Object: k.image.name, Name: name, Pos: k.image.table.Sympos(i), Address: k.image.table.Symbol(i).Addr}, true
}

// emit makes the module, and the base module of the direct flavour.
func (k *kernelSteps) emit() error {
	k.spec = traits(k.kernel.Image, k.kernel.Versions)
	k.spec.Name, k.spec.Object, k.spec.ABI = kmod.ModuleName(k.in.Name), k.code, k.abi
	k.spec.Replace = !k.kernel.NoReplace
	for _, s := range k.kernel.States {
		k.spec.States = append(k.spec.States, kmod.State{ID: s.ID, Version: s.Version})
	}
	k.spec.Bindings = k.merged.Bindings
	for _, part := range k.parts {
		k.spec.ImportNS = append(k.spec.ImportNS, part.part.Cut.Kernel.ImportNS...)
	}
	for _, t := range k.targets {
		if o, ok := k.object(t); ok {
			k.spec.Objects = append(k.spec.Objects, o)
		}
	}
	if k.direct {
		if err := k.makeDirect(); err != nil {
			return err
		}
	}
	if err := k.bindOwn(&k.spec, k.spec.OwnExports()); err != nil {
		return err
	}
	module, err := kmod.Emit(k.spec)
	if err != nil {
		return err
	}
	k.module, err = k.signed(module)
	return err
}

// bindOwn binds the exports that every module for the kernel needs.
func (k *kernelSteps) bindOwn(s *kmod.Spec, names []string) error {
	img := k.kernel.Image
	for _, name := range names {
		x, ok := k.exports[name]
		if !ok && name == enablePatch {
			return refusal.List{refusal.New(refusal.NoLivepatch, img.Release,
				"the kernel is built without a livepatch core: it does not export %s", name)}
		}
		if !ok {
			return refusal.List{refusal.New(refusal.NotExported, img.Release, "the kernel does not export %s, which every livepatch module needs", name)}
		}
		if _, ok := s.Bindings[name]; !ok {
			s.Bindings[name] = exported(x)
		}
	}
	return nil
}

func (k *kernelSteps) signed(module []byte) ([]byte, error) {
	if k.kernel.Sign == nil {
		return module, nil
	}
	return k.kernel.Sign(module)
}

// object is what the module does to one target.
func (k *kernelSteps) object(t *kernelTarget) (kmod.Object, bool) {
	o := kmod.Object{Callbacks: map[kmod.CallbackKind]string{}}
	if t != k.image {
		o.Name = t.name
	}
	for _, f := range t.funcs {
		o.Funcs = append(o.Funcs, kmod.Func{Name: f.name.name, Sympos: f.name.pos, Site: *f.site.Ftrace, Replacement: k.replacement(f)})
	}
	for i, part := range k.parts {
		if part.target != t {
			continue
		}
		for _, cb := range part.part.Cut.Kernel.Callbacks {
			o.Callbacks[kmod.CallbackKind(cb.Kind)] = k.merged.SymbolName(i, cb.Symbol)
		}
	}
	return o, len(o.Funcs)+len(o.Callbacks) > 0
}

// replacement is the symbol of the module that takes a function's place.
func (k *kernelSteps) replacement(f *kernelFunc) string {
	for i, part := range k.parts {
		if part.pair != f.pair {
			continue
		}
		for _, c := range part.part.Cut.Funcs {
			if c.Orig == f.fn.Symbol {
				return k.merged.SymbolName(i, c.Symbol)
			}
		}
	}
	panic("BUG: a changed function without replacement: " + f.fn.Name)
}

// check asks of the module what verify would ask. A refusal here is a mistake
// of this program, but it is not the kernel that should find it.
func (k *kernelSteps) check() error {
	set := modcheck.Set{Kernel: k.kernel.Image, Exports: k.kernel.Symvers, Modules: k.kernel.Modules}
	for _, t := range k.targets {
		if t != k.image {
			set.Modules = append(slices.Clone(set.Modules), t.target.Module)
		}
	}
	refused := modcheck.Check(k.module, set).Refusals()
	if k.direct {
		refused = append(refused, modcheck.Check(k.base, set).Refusals()...)
	}
	return refused.Err()
}

// byAddress orders functions as the manifest lists them.
func byAddress(a, b *kernelFunc) int { return cmp.Compare(a.fn.Addr, b.fn.Addr) }
