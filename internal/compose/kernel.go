package compose

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"

	"livepatch/elfpatch/kernel"
	"livepatch/internal/kmod"
	"livepatch/internal/modcheck"
	"livepatch/internal/pack"
	"livepatch/internal/refusal"
	"livepatch/manifest"
)

// A kernelPart is a package for a kernel on its way into a merged one.
type kernelPart struct {
	*Part
	k      *manifest.Kernel
	digest [sha256.Size]byte // of the manifest
	module *module
	kept   []*kernelFunc
	same   map[string]kmod.Same // replacements that another part has, by their symbols
	made   map[string]*replacement
}

// A kernelFunc is one function that a package replaces.
type kernelFunc struct {
	*manifest.KernelFunction
	object string
}

// kernelMerger collects the merged package of a kernel.
type kernelMerger struct {
	o        Options
	parts    []*kernelPart // those that add something, in the order of the merged module
	once     []Once
	refusals refusal.List
}

func (m *kernelMerger) refuse(code refusal.Code, where, format string, args ...any) {
	m.refusals = append(m.refusals, refusal.New(code, where, format, args...))
}

// mergeKernels makes one package of several for one kernel. Their modules are
// taken apart into what they were made from and made into one module.
func mergeKernels(o Options, parts []Part) (*Merged, error) {
	all, err := kernelParts(parts)
	if err != nil {
		return nil, err
	}
	m := &kernelMerger{o: o}
	m.sameKernel(all)
	if err := m.refusals.Err(); err != nil {
		return nil, err
	}
	// From here on all packages are for one kernel.
	for _, p := range all {
		if err := m.open(p); err != nil {
			return nil, err
		}
	}
	if err := m.refusals.Err(); err != nil {
		return nil, err
	}
	// From here on each module is an object again, and its manifest says what it does.
	for _, p := range all {
		if err := m.add(p); err != nil {
			return nil, fmt.Errorf("merge %s: %w", p.File, err)
		}
	}
	for i, p := range m.parts {
		for _, old := range m.parts[:i] {
			m.apart(old, p)
		}
	}
	if err := m.refusals.Err(); err != nil {
		return nil, err
	}
	// From here on nothing that one does stands in the way of another.
	pkg, err := m.join(all)
	if err != nil {
		return nil, err
	}
	return &Merged{Package: pkg, Once: m.once}, nil
}

// kernelParts orders packages so that the order of the list does not matter:
// those with the most functions first, then by name and digest. One that is
// there twice is taken once.
func kernelParts(parts []Part) (all []*kernelPart, err error) {
	for i := range parts {
		p := &kernelPart{Part: &parts[i], k: parts[i].Package.Manifest.Kernel, same: map[string]kmod.Same{}, made: map[string]*replacement{}}
		if p.digest, err = manifest.Digest(p.Package.Manifest); err != nil {
			return nil, fmt.Errorf("merge %s: %w", p.File, err)
		}
		all = append(all, p)
	}
	functions := func(p *kernelPart) (n int) {
		for _, o := range p.k.Objects {
			n += len(o.Functions)
		}
		return n
	}
	slices.SortStableFunc(all, func(a, b *kernelPart) int {
		return cmp.Or(cmp.Compare(functions(b), functions(a)), cmp.Compare(a.Package.Manifest.Name, b.Package.Manifest.Name),
			bytes.Compare(a.digest[:], b.digest[:]), cmp.Compare(a.File, b.File))
	})
	return slices.CompactFunc(all, func(a, b *kernelPart) bool { return a.digest == b.digest }), nil
}

// sameKernel refuses packages that are not for the kernel of the first, or
// differ in what holds for a module as a whole.
func (m *kernelMerger) sameKernel(all []*kernelPart) {
	first := all[0]
	for _, p := range all {
		a, b := first.k, p.k
		for _, q := range []struct{ what, a, b string }{
			{"flavour", a.Flavour, b.Flavour}, {"machine", a.Machine, b.Machine}, {"release", a.Release, b.Release},
			{"build-id", a.BuildID.String(), b.BuildID.String()}, {"vermagic", a.Vermagic, b.Vermagic}, {"objtool", a.Objtool.String(), b.Objtool.String()},
		} {
			if q.a != q.b {
				m.refuse(refusal.MergeKernel, p.File, "its %s is %q, that of %s %q", q.what, q.b, first.File, q.a)
				break
			}
		}
		if a.Flavour != manifest.FlavourKLP {
			m.refuse(refusal.MergeKernel, p.File, "modules of flavour %s are not merged", a.Flavour)
		}
		if a.Replace != b.Replace {
			m.refuse(refusal.MergeKernel, p.File, "replace is %t in it and %t in %s: one takes the place of other livepatches, one leaves them", b.Replace, a.Replace, first.File)
		}
		if b.Signed && m.o.Sign == nil {
			m.refuse(refusal.MergeKernel, p.File, "its module is signed, and the merged one would not be: it takes a key and a certificate to sign it again")
		}
	}
	m.sameObjects(all)
}

// sameObjects refuses packages for modules of one name that are different ones.
func (m *kernelMerger) sameObjects(all []*kernelPart) {
	type seen struct {
		o    *manifest.KernelObject
		part *kernelPart
	}
	objects := map[string]seen{}
	for _, p := range all {
		for i := range p.k.Objects {
			o := &p.k.Objects[i]
			old, ok := objects[o.Name]
			if !ok {
				objects[o.Name] = seen{o, p}
			} else if !bytes.Equal(o.BuildID, old.o.BuildID) || o.Srcversion != old.o.Srcversion {
				m.refuse(refusal.MergeKernel, p.File, "it is for %s with build-id %s, %s for %s", o.Name, o.BuildID, old.part.File, old.o.BuildID)
			}
		}
	}
}

// open takes the module of a package apart, after the questions that need no
// kernel.
func (m *kernelMerger) open(p *kernelPart) (err error) {
	if list := modcheck.Package(p.Package, modcheck.Set{}).Refusals(); len(list) > 0 {
		for _, r := range list {
			r.Where = p.File + ": " + r.Where
			m.refusals = append(m.refusals, r)
		}
		return nil
	}
	spec, err := kmod.Undo(p.Package.Members[p.k.Payload.Member])
	if err == nil {
		p.module, err = newModule(spec)
	}
	var list refusal.List
	if errors.As(err, &list) {
		for _, r := range list {
			m.refuse(r.Code, p.File+": "+r.Where, "%s", r.Text)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("merge %s: %w", p.File, err)
	}
	for i := range p.k.Objects {
		o := &p.k.Objects[i]
		for j := range o.Functions {
			p.kept = append(p.kept, &kernelFunc{&o.Functions[j], o.Name})
		}
	}
	return nil
}

// add takes what a package has and the packages before it have not.
func (m *kernelMerger) add(p *kernelPart) error {
	for _, old := range m.parts {
		within, err := m.within(old, p)
		if err != nil || within {
			return err
		}
	}
	for i, old := range m.parts {
		if err := m.distinct(i, old, p); err != nil {
			return err
		}
	}
	if len(p.kept) > 0 || p.calls() || len(p.k.States) > 0 {
		m.parts = append(m.parts, p)
	}
	return nil
}

// calls reports whether a package has callbacks.
func (p *kernelPart) calls() bool {
	return slices.ContainsFunc(p.k.Objects, func(o manifest.KernelObject) bool { return len(o.Callbacks) > 0 })
}

// replacement returns what a function of the module of a package is made of.
func (p *kernelPart) replacement(symbol string) (*replacement, error) {
	if r, ok := p.made[symbol]; ok {
		return r, nil
	}
	r, err := p.module.replacementOf(symbol)
	p.made[symbol] = r
	return r, err
}

// function finds the function of a package that is at the place of another's.
func (p *kernelPart) function(f *kernelFunc) *kernelFunc {
	for i := range p.k.Objects {
		o := &p.k.Objects[i]
		for j := range o.Functions {
			g := &o.Functions[j]
			if o.Name == f.object && (g.Section == f.Section && f.Address < g.Address+g.Size && g.Address < f.Address+f.Size || g.Name == f.Name && g.Position == f.Position) {
				return &kernelFunc{g, o.Name}
			}
		}
	}
	return nil
}

// within reports whether all that a package does is done by another, variables
// included: it then adds nothing, and the variables are the other's.
func (m *kernelMerger) within(old, p *kernelPart) (bool, error) {
	for _, s := range p.k.States {
		if !slices.Contains(old.k.States, s) {
			return false, nil
		}
	}
	if same, err := sameCallbacks(old, p); !same || err != nil {
		return false, err
	}
	var once []Once
	for _, f := range p.kept {
		g := old.function(f)
		if g == nil {
			return false, nil
		}
		why, _, err := differKernel(old, p, g, f)
		if err != nil || why != "" {
			return false, err
		}
		once = append(once, Once{f.object, f.Name, old.File, p.File})
	}
	m.once = append(m.once, once...)
	return true, nil
}

// sameCallbacks reports whether another package has the callbacks of one too.
func sameCallbacks(old, p *kernelPart) (bool, error) {
	for _, o := range p.k.Objects {
		for _, c := range o.Callbacks {
			i := slices.IndexFunc(old.k.Objects, func(q manifest.KernelObject) bool { return q.Name == o.Name })
			if i < 0 {
				return false, nil
			}
			k := slices.IndexFunc(old.k.Objects[i].Callbacks, func(d manifest.KernelCallback) bool { return d.Kind == c.Kind })
			if k < 0 {
				return false, nil
			}
			x, err := old.replacement(old.k.Objects[i].Callbacks[k].Function)
			if err != nil {
				return false, err
			}
			y, err := p.replacement(c.Function)
			if err != nil || x.digest != y.digest {
				return false, err
			}
		}
	}
	return true, nil
}

// distinct takes those functions out of a package that another replaces in the
// same way, and refuses those that it replaces differently.
func (m *kernelMerger) distinct(i int, old, p *kernelPart) error {
	var kept []*kernelFunc
	for _, f := range p.kept {
		g := old.function(f)
		if g == nil {
			kept = append(kept, f)
			continue
		}
		why, state, err := differKernel(old, p, g, f)
		switch {
		case err != nil:
			return err
		case why == "" && len(state) > 0:
			why = "replace it in the same way, but with variables of their own: " + strings.Join(state, ", ")
		}
		if why != "" {
			m.refuse(refusal.MergeConflict, f.object+": "+f.Name, "%s and %s %s", old.File, p.File, why)
			continue
		}
		m.once = append(m.once, Once{f.object, f.Name, old.File, p.File})
		p.same[f.Replacement] = kmod.Same{Piece: i, Name: g.Replacement}
	}
	p.kept = kept
	return nil
}

// differKernel says why the replacements of a function cannot stand for each
// other, empty if they can, and which variables of their own they have.
func differKernel(a, b *kernelPart, f, g *kernelFunc) (why string, state []string, err error) {
	if f.Name != g.Name || f.Position != g.Position || f.Section != g.Section || f.Address != g.Address || f.Size != g.Size || !bytes.Equal(f.SHA256, g.SHA256) {
		return fmt.Sprintf("disagree about the function: %s has %d bytes at %#x, and %s %d at %#x", f.Name, f.Size, f.Address, g.Name, g.Size, g.Address), nil, nil
	}
	x, err := a.replacement(f.Replacement)
	if err != nil {
		return "", nil, err
	}
	y, err := b.replacement(g.Replacement)
	if err != nil {
		return "", nil, err
	}
	if x.digest != y.digest {
		return fmt.Sprintf("replace it differently, by code with digest %x and %x", x.digest[:8], y.digest[:8]), nil, nil
	}
	return "", x.state, nil
}

// apart refuses what two packages that each bring something cannot both do.
func (m *kernelMerger) apart(old, p *kernelPart) {
	for _, o := range p.k.Objects {
		for _, q := range old.k.Objects {
			if o.Name == q.Name && len(o.Callbacks) > 0 && len(q.Callbacks) > 0 {
				m.refuse(refusal.MergeConflict, o.Name, "%s and %s both have callbacks for it, and the kernel calls one of each kind", old.File, p.File)
			}
		}
	}
	for _, s := range p.k.States {
		if i := slices.IndexFunc(old.k.States, func(t manifest.KernelState) bool { return t.ID == s.ID && t != s }); i >= 0 {
			m.refuse(refusal.MergeConflict, fmt.Sprintf("state %d", s.ID), "%s has it in version %d, %s in version %d", old.File, old.k.States[i].Version, p.File, s.Version)
		}
	}
	mine := p.module.variables()
	for _, name := range old.module.variables() {
		if slices.Contains(mine, name) {
			m.refuse(refusal.MergeConflict, name, "%s and %s both bring a new variable of this name, and would each use their own", old.File, p.File)
		}
	}
	m.copies(old, p)
	m.copies(p, old)
}

// variables lists the variables that a module brings, by their names in the
// source, less those that stand for a place in its code.
func (m *module) variables() []string {
	return variablesOf(m.code, func(u unit) bool { return ofPlace(u.name, m.obj.Sections[u.section].Name) })
}

// copies refuses functions of one package that are made of what the other
// replaces: a clone that the compiler made of a function for the first has the code
// that the second would change.
func (m *kernelMerger) copies(p, other *kernelPart) {
	stem := func(name string) string {
		name = plainName(name)
		for _, s := range kernel.Suffixes {
			name, _, _ = strings.Cut(name, s.Suffix)
		}
		return name
	}
	own := map[string]bool{}
	for _, o := range p.k.Objects {
		for _, f := range o.Functions {
			own[stem(f.Name)] = true
		}
	}
	brings := map[string]string{}
	for _, s := range p.module.obj.Symbols {
		if isCode(p.module.section(s.Section)) && !strings.HasPrefix(s.Name, "__pfx_") && !own[stem(s.Name)] {
			brings[stem(s.Name)] = s.Name
		}
	}
	for _, f := range other.kept {
		if name, ok := brings[stem(f.Name)]; ok {
			m.refuse(refusal.MergeConflict, f.object+": "+f.Name, "%s replaces it, and %s has code of its own that is called %s: it may be a copy of what is replaced", other.File, p.File, plainName(name))
		}
	}
}

// join makes the module and the package.
func (m *kernelMerger) join(all []*kernelPart) (*pack.Package, error) {
	pieces := make([]kmod.Piece, len(m.parts))
	for i, p := range m.parts {
		pieces[i] = kmod.Piece{Name: p.File, Spec: p.module.spec, Same: p.same}
	}
	joined, err := kmod.Join(kmod.ModuleName(m.o.Name), pieces)
	if err != nil {
		return nil, err
	}
	data, err := kmod.Emit(joined.Spec)
	if err != nil {
		return nil, err
	}
	if m.o.Sign != nil {
		if data, err = m.o.Sign(data); err != nil {
			return nil, err
		}
	}
	pkg, err := m.describe(all, joined, pieces, data)
	if err != nil {
		return nil, err
	}
	// The merged module is judged as a stranger's would be. A refusal here is a
	// mistake of this program, but it is not the kernel that should find it.
	return pkg, modcheck.Package(pkg, modcheck.Set{}).Refusals().Err()
}
