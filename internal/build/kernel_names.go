package build

import (
	"fmt"
	"slices"
	"strings"

	"livepatch/elfpatch"
	"livepatch/elfpatch/diff"
	"livepatch/elfpatch/match"
	"livepatch/internal/kimage"
	"livepatch/internal/kmod"
	"livepatch/internal/refusal"
	"livepatch/manifest"
)

// symbolTable is the kallsyms of the kernel image or of a module.
type symbolTable interface {
	Named(name string) []int
	At(addr uint64) []int
	Sympos(i int) int
	Symbol(i int) kimage.Symbol
	// Steady reports whether the position of a symbol can be relied on.
	Steady(i int) bool
}

type imageTable struct{ *kimage.Kernel }

func (t imageTable) Symbol(i int) kimage.Symbol { return t.Symbols[i] }
func (t imageTable) Steady(int) bool            { return true }

type moduleTable struct{ *kimage.Module }

func (t moduleTable) Symbol(i int) kimage.Symbol { return t.Symbols[i] }

// isGlobal tells global symbols from local ones by their kallsyms type.
func isGlobal(s kimage.Symbol) bool {
	return s.Type >= 'A' && s.Type <= 'Z' || s.Type == 'v' || s.Type == 'w' || s.Type == 'u'
}

// A kernelName is how the livepatch core finds a symbol.
type kernelName struct {
	name string
	pos  int
	addr uint64
}

// nameAt returns a name of what stands at an address of the target: the one
// that the object uses, else one that differs from it by a compiler's suffix,
// else any, since all of them have that address.
func (t *kernelTarget) nameAt(addr uint64, name string) (kernelName, bool) {
	best, rank := -1, -1
	for _, i := range t.table.At(addr) {
		if !t.table.Steady(i) {
			continue
		}
		s := t.table.Symbol(i)
		r := 0
		switch {
		case s.Name == name:
			r = 3
		case stem(s.Name) == stem(name):
			r = 2
		case t.table.Sympos(i) == 0:
			r = 1
		}
		if r > rank {
			best, rank = i, r
		}
	}
	if best < 0 {
		return kernelName{}, false
	}
	return kernelName{t.table.Symbol(best).Name, t.table.Sympos(best), addr}, true
}

// stem is a name up to the suffixes that compilers append to make it unique.
func stem(name string) string {
	s, _, _ := strings.Cut(name, ".")
	return s
}

// bind finds the owner of a name that the cut object of a pair does not
// define. The error is a refusal.
func (k *kernelSteps) bind(t *kernelTarget, p *pairSteps, e diff.External) (kmod.Binding, error) {
	where := p.OrigName + ": " + e.Name
	place, known, err := known(p, e, where)
	if err != nil {
		return kmod.Binding{}, err
	}
	if e.Orig != 0 && p.Orig.Symbols[e.Orig].Section != elfpatch.Undefined {
		// The before object defines it, so the proof says where it is.
		if !known {
			return kmod.Binding{}, refusal.New(refusal.AddressUnknown, where, "no proven code of %s uses it, and its symbols do not name it", t.name)
		}
		n, ok := t.nameAt(place.Value, e.Name)
		if !ok {
			return kmod.Binding{}, refusal.New(refusal.AddressUnknown, where, "it is at %#x of %s, where kallsyms has no name", place.Value, t.name)
		}
		return k.share(t, n, place), nil
	}
	return k.bindGlobal(t, e, where, place, known)
}

// known is the address that the proof gives for an external. All ways to use
// the name must agree: a kernel has no PLT and no GOT of its own.
func known(p *pairSteps, e diff.External, where string) (place match.Place, ok bool, err error) {
	if e.Orig == 0 {
		return place, false, nil
	}
	resolved, _ := p.proof.Resolve(e.Orig)
	for _, use := range []match.Use{match.Address, match.Branch} {
		q, there := resolved[use]
		switch {
		case !there:
		case ok && q.Value != place.Value:
			return place, false, refusal.New(refusal.AddressAmbiguous, where,
				"it is at %#x (%s) and at %#x (%s)", place.Value, place.Found, q.Value, q.Found)
		default:
			place, ok = q, true
		}
	}
	return place, ok, nil
}

// bindGlobal finds the owner of a name of the whole kernel: another object of
// the same module, an export, or a global symbol of the image.
func (k *kernelSteps) bindGlobal(t *kernelTarget, e diff.External, where string, place match.Place, known bool) (kmod.Binding, error) {
	if t.target.Module != nil {
		if i, err := global(t.table, e.Name, place, known); err == nil {
			s := t.table.Symbol(i)
			return k.share(t, kernelName{s.Name, t.table.Sympos(i), s.Addr}, place), nil
		}
		known = false // its addresses of other objects' symbols are made up
	}
	image := k.image
	if x, ok := k.exports[e.Name]; ok && (x.Module == manifest.Vmlinux || x.Module == "") {
		if known && !slices.ContainsFunc(image.table.Named(e.Name), func(i int) bool { return image.table.Symbol(i).Addr == place.Value }) {
			return kmod.Binding{}, refusal.New(refusal.AddressAmbiguous, where,
				"the kernel exports this name, but the running code uses another symbol at %#x (%s)", place.Value, place.Found)
		}
		return exported(x), nil
	}
	i, err := global(image.table, e.Name, place, known)
	if err == nil {
		s := image.table.Symbol(i)
		return k.share(image, kernelName{s.Name, image.table.Sympos(i), s.Addr}, place), nil
	}
	if x, ok := k.exports[e.Name]; ok {
		if k.direct { // nothing else finds what belongs to a module
			b := exported(x)
			b.Object = x.Module
			return b, nil
		}
		return kmod.Binding{Kind: kmod.KLP, Object: x.Module, Name: e.Name}, nil
	}
	return kmod.Binding{}, refusal.New(refusal.SymbolNotFound, where, "%v", err)
}

// global is the one global symbol of a name, at the address that the proof
// gives if it gives any.
func global(table symbolTable, name string, place match.Place, known bool) (int, error) {
	var found []int
	for _, i := range table.Named(name) {
		s := table.Symbol(i)
		if known && s.Addr == place.Value || !known && isGlobal(s) {
			found = append(found, i)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) == 0 && known:
		return 0, fmt.Errorf("kallsyms has no symbol of this name at %#x (%s)", place.Value, place.Found)
	case len(found) == 0:
		return 0, fmt.Errorf("neither the kernel nor its exports have a global symbol of this name")
	}
	return 0, fmt.Errorf("kallsyms has %d symbols that fit", len(found))
}

func exported(x kimage.Export) kmod.Binding {
	return kmod.Binding{Kind: kmod.Export, Name: x.Name, CRC: x.CRC, HasCRC: x.HasCRC, GPL: x.GPL, Namespace: x.Namespace}
}

// share binds a name to a symbol of an image by a livepatch relocation.
func (k *kernelSteps) share(t *kernelTarget, n kernelName, place match.Place) kmod.Binding {
	t.shared[n] = place
	return kmod.Binding{Kind: kmod.KLP, Object: t.name, Name: n.name, Pos: n.pos, Address: n.addr}
}

// ownerOf tells which module defines a static key or static-call key that the
// code of a target uses; ok is false for those of the kernel image.
func (k *kernelSteps) ownerOf(t *kernelTarget, key string) (module string, ok bool) {
	if t != k.image && len(t.table.Named(key)) > 0 {
		return t.name, true
	}
	if len(k.image.table.Named(key)) > 0 {
		return "", false
	}
	if x, exported := k.exports[key]; exported && x.Module != manifest.Vmlinux {
		return x.Module, true
	}
	// A static key of the object itself has the name that the compiler gave it.
	return t.name, t != k.image
}
