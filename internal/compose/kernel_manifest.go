package compose

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"

	"livepatch/internal/kmod"
	"livepatch/internal/pack"
	"livepatch/manifest"
)

// describe writes the manifest of a merged module: what those of the packages
// say, together.
func (m *kernelMerger) describe(all []*kernelPart, joined *kmod.Joined, pieces []kmod.Piece, module []byte) (*pack.Package, error) {
	k := *m.parts[0].k
	sum := sha256.Sum256(module)
	k.Module, k.Signed = joined.Name, m.o.Sign != nil
	k.Payload = manifest.Payload{Member: manifest.KernelMember, Size: int64(len(module)), SHA256: sum[:]}
	k.Objects, k.Exports, k.States, k.Warnings = nil, nil, nil, nil
	for i, p := range m.parts {
		for _, o := range p.k.Objects {
			k.Objects = m.addObject(k.Objects, o, func(symbol string) string { return joined.SymbolName(pieces, i, symbol) }, p)
		}
		k.Exports = union(k.Exports, p.k.Exports...)
		k.States = union(k.States, p.k.States...)
		k.Warnings = union(k.Warnings, p.k.Warnings...)
	}
	for i := range k.Objects {
		sortObject(&k.Objects[i])
	}
	slices.SortFunc(k.Objects, func(a, b manifest.KernelObject) int {
		return cmp.Or(compareBool(a.Name != manifest.Vmlinux, b.Name != manifest.Vmlinux), cmp.Compare(a.Name, b.Name))
	})
	slices.SortFunc(k.Exports, func(a, b manifest.KernelExport) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(k.States, func(a, b manifest.KernelState) int { return cmp.Compare(a.ID, b.ID) })
	k.Warnings = union(k.Warnings, m.compiledApart()...)
	var parts []Part
	for _, p := range all {
		parts = append(parts, *p.Part)
	}
	out := &manifest.Manifest{
		Format: manifest.Format, Name: m.o.Name, Tool: manifest.Tool{Name: "livepatch", Version: m.o.Version}, Kernel: &k, Build: record(parts),
	}
	if err := out.Validate(); err != nil {
		return nil, fmt.Errorf("make the manifest: %w", err)
	}
	return &pack.Package{Manifest: out, Members: map[string][]byte{manifest.KernelMember: module}}, nil
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// addObject adds what a package does with an object. name tells the symbols of
// its module in the merged one.
func (m *kernelMerger) addObject(list []manifest.KernelObject, o manifest.KernelObject, name func(string) string, p *kernelPart) []manifest.KernelObject {
	i := slices.IndexFunc(list, func(have manifest.KernelObject) bool { return have.Name == o.Name })
	if i < 0 {
		i = len(list)
		list = append(list, manifest.KernelObject{Name: o.Name, BuildID: o.BuildID, Srcversion: o.Srcversion})
	}
	to := &list[i]
	for _, f := range o.Functions {
		if !slices.ContainsFunc(p.kept, func(k *kernelFunc) bool { return k.object == o.Name && k.Replacement == f.Replacement }) {
			continue
		}
		f.Replacement = name(f.Replacement)
		to.Functions = append(to.Functions, f)
	}
	for _, c := range o.Callbacks {
		c.Function = name(c.Function)
		to.Callbacks = append(to.Callbacks, c)
	}
	for _, s := range o.Symbols {
		j := slices.IndexFunc(to.Symbols, func(have manifest.KernelSymbol) bool { return have.Name == s.Name && have.Position == s.Position })
		if j < 0 {
			to.Symbols = append(to.Symbols, s)
		} else {
			to.Symbols[j].Uses += s.Uses
		}
	}
	return list
}

func sortObject(o *manifest.KernelObject) {
	slices.SortFunc(o.Functions, func(a, b manifest.KernelFunction) int {
		return cmp.Or(cmp.Compare(a.Section, b.Section), cmp.Compare(a.Address, b.Address))
	})
	slices.SortFunc(o.Symbols, func(a, b manifest.KernelSymbol) int {
		return cmp.Or(cmp.Compare(a.Section, b.Section), cmp.Compare(a.Address, b.Address), cmp.Compare(a.Name, b.Name))
	})
	order := manifest.CallbackKinds()
	slices.SortFunc(o.Callbacks, func(a, b manifest.KernelCallback) int {
		return cmp.Compare(slices.Index(order, a.Kind), slices.Index(order, b.Kind))
	})
}

// compiledApart says of which objects several packages have functions: each
// was compiled without the changes of the others.
func (m *kernelMerger) compiledApart() (list []string) {
	from := map[string][]string{}
	for _, p := range m.parts {
		for _, f := range p.kept {
			from[f.Object] = union(from[f.Object], p.File)
		}
	}
	for object, files := range from {
		if len(files) > 1 {
			list = append(list, fmt.Sprintf("%s: %s and %s were compiled apart: where the compiler put a function that one changes into one of the other, the old code is left", object, files[0], files[1]))
		}
	}
	slices.Sort(list)
	return list
}
