package kmod

import (
	"cmp"
	"debug/elf"
	"fmt"
	"slices"
	"strings"

	"livepatch/elfpatch"
	"livepatch/elfpatch/diff"
	"livepatch/elfpatch/kernel"
	"livepatch/internal/kimage"
	"livepatch/internal/refusal"
)

// A Piece is a module that goes into a joined one.
type Piece struct {
	Name string // for messages
	Spec Spec   // what Undo returned

	// Same are the replacements that an earlier piece has too, by their symbols:
	// they replace nothing in the joined module, and what refers to them is led to the
	// earlier one's.
	Same map[string]Same
}

// Same is a replacement of an earlier piece.
type Same struct {
	Piece int
	Name  string
}

// Joined is what several modules become.
type Joined struct {
	Spec
	Merged *Merged
}

// SymbolName returns the name in the joined module of what a piece's object
// calls name; "" if it has no such function or variable.
func (j *Joined) SymbolName(pieces []Piece, piece int, name string) string {
	return j.Object.Symbols[j.symbol(pieces, piece, name)].Name
}

// symbol is the symbol for what a piece's object calls name; 0 if there is none.
func (j *Joined) symbol(pieces []Piece, piece int, name string) uint32 {
	for i, s := range pieces[piece].Spec.Object.Symbols {
		if s.Name == name && s.Section > 0 && s.Type != elf.STT_SECTION {
			return j.Merged.Symbols[piece][i]
		}
	}
	return 0
}

// Join makes the Spec of one module that is all of the pieces: each with its
// code and data as they are, the tables of one kind together, what several
// import imported once. Names that several have get a number from the second
// on. Its error is a refusal.List for modules that do not fit together.
func Join(name string, pieces []Piece) (*Joined, error) {
	first := &pieces[0].Spec
	parts := make([]Part, len(pieces))
	for i := range pieces {
		if why := unlike(first, &pieces[i].Spec); why != "" {
			return nil, refusal.List{refusal.New(refusal.MergeKernel, pieces[i].Name, "it is not made as %s is: %s", pieces[0].Name, why)}
		}
		parts[i] = asPart(&pieces[i])
	}
	merged, err := Merge(first.Object.Machine, parts)
	if err != nil {
		return nil, err
	}
	j := &Joined{Spec: *first, Merged: merged}
	j.Name, j.Object, j.Bindings = name, merged.Object, merged.Bindings
	j.Info, j.ImportNS, j.Depends, j.States = nil, nil, nil, nil
	j.ABI = &kimage.ABI{Structs: map[string]kimage.Struct{}}
	for i := range pieces {
		j.take(&pieces[i].Spec)
	}
	j.Objects = j.objects(pieces)
	return j, j.leadAway(pieces)
}

// codePlace is a place in the code of an object.
type codePlace struct {
	section int
	off     uint64
}

// leadAway turns references to replacements that are not used to those that are:
// by their names, or by way of their section to where they begin.
func (j *Joined) leadAway(pieces []Piece) error {
	instead, begins := map[uint32]uint32{}, map[codePlace]uint32{}
	for i := range pieces {
		for name, s := range pieces[i].Same {
			from, to := j.symbol(pieces, i, name), j.symbol(pieces, s.Piece, s.Name)
			instead[from] = to
			begins[codePlace{j.Object.Symbols[from].Section, j.Object.Symbols[from].Value}] = to
		}
	}
	for _, sec := range j.Object.Sections {
		if len(instead) == 0 || kernel.Lookup(j.Object.Machine, sec.Name) != nil {
			continue // nothing to do, or a table about the code that is not used
		}
		rels, err := j.Object.Relocations(sec)
		if err != nil {
			return err
		}
		for k := range rels {
			r, s := &rels[k], &j.Object.Symbols[rels[k].Symbol]
			if to, ok := instead[r.Symbol]; ok {
				r.Symbol = to
			} else if skip := operandEnd(j.Object.Machine, sec, r.Type); s.Type == elf.STT_SECTION {
				if to, ok := begins[codePlace{s.Section, uint64(r.Addend + skip)}]; ok {
					r.Symbol, r.Addend = to, -skip
				}
			}
		}
		if err := j.Object.SetRelocations(sec, rels); err != nil {
			return err
		}
	}
	return nil
}

// operandEnd is how far behind a field its reference counts from: branches and
// lea of x86-64, the instructions that name functions, end with it.
func operandEnd(m elf.Machine, sec *elfpatch.Section, typ uint32) int64 {
	info, ok := elfpatch.RelocInfo(m, typ)
	if ok && info.PCRel && m == elf.EM_X86_64 && sec.Flags&elf.SHF_EXECINSTR != 0 {
		return int64(info.Size)
	}
	return 0
}

// take adds what a piece says besides its code.
func (j *Joined) take(s *Spec) {
	for name, b := range s.Bindings {
		if _, ok := j.Bindings[name]; !ok && b.Kind == Export && slices.Contains(j.OwnExports(), name) {
			j.Bindings[name] = b
		}
	}
	for name, layout := range s.ABI.Structs {
		have, ok := j.ABI.Structs[name]
		if !ok || have.Members["name"].Size < layout.Members["name"].Size { // of kallsym_iter: the longer
			j.ABI.Structs[name] = layout
		}
	}
	for _, info := range s.Info {
		if !slices.Contains(j.Info, info) {
			j.Info = append(j.Info, info)
		}
	}
	j.ImportNS = append(j.ImportNS, s.ImportNS...)
	j.Depends = append(j.Depends, s.Depends...)
	for _, state := range s.States {
		if !slices.Contains(j.States, state) {
			j.States = append(j.States, state)
		}
	}
	slices.SortFunc(j.States, func(a, b State) int { return cmp.Compare(a.ID, b.ID) })
}

// objects joins what the pieces patch, in the order of names.
func (j *Joined) objects(pieces []Piece) (list []Object) {
	for i := range pieces {
		for _, o := range pieces[i].Spec.Objects {
			k := slices.IndexFunc(list, func(have Object) bool { return objectName(have.Name) == objectName(o.Name) })
			if k < 0 {
				k = len(list)
				list = append(list, Object{Name: o.Name, Callbacks: map[CallbackKind]string{}})
			}
			for _, f := range o.Funcs {
				if _, ok := pieces[i].Same[f.Replacement]; ok {
					continue
				}
				f.Replacement = j.SymbolName(pieces, i, f.Replacement)
				list[k].Funcs = append(list[k].Funcs, f)
			}
			for kind, sym := range o.Callbacks {
				list[k].Callbacks[kind] = j.SymbolName(pieces, i, sym)
			}
		}
	}
	list = slices.DeleteFunc(list, func(o Object) bool { return len(o.Funcs)+len(o.Callbacks) == 0 })
	slices.SortFunc(list, func(a, b Object) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// unlike says what of two modules cannot be so in one; "" if nothing.
func unlike(a, b *Spec) string {
	type made struct {
		vermagic, license, srcversion  string
		retpoline, rethunk, orc, repl  bool
		padding, module, funcs, object int
		versions                       Versions
		cfi                            bool
		hashes                         kimage.EntryHashes
	}
	of := func(s *Spec) made {
		size := func(name string) int { return int(s.ABI.Structs[name].Size) }
		return made{s.Vermagic, s.license(), s.Srcversion, s.Retpoline, s.Rethunk, s.ORC, s.Replace, s.Padding,
			size("module"), size("klp_func"), size("klp_object"), s.Versions, s.CFI, s.Hashes}
	}
	switch x, y := of(a), of(b); {
	case a.Object.Machine != b.Object.Machine:
		return fmt.Sprintf("it is for %v, not for %v", b.Object.Machine, a.Object.Machine)
	case x.repl != y.repl:
		return fmt.Sprintf("replace is %t, not %t", y.repl, x.repl)
	case x != y:
		return fmt.Sprintf("%+v, not %+v", y, x)
	}
	for name, m := range b.Bindings {
		if have, ok := a.Bindings[name]; ok && m.Kind == Export && have.Kind == Export && have != m {
			return fmt.Sprintf("%s has version %#08x, not %#08x", name, m.CRC, have.CRC)
		}
	}
	return ""
}

// asPart takes what Undo made for a part of a patch. Numbers that Merge put
// behind names are taken away again, so that they do not pile up.
func asPart(p *Piece) Part {
	f := *p.Spec.Object
	f.Symbols = slices.Clone(f.Symbols)
	part := Part{Name: p.Name, Cut: &diff.Cut{Object: &f}, Bindings: map[int]Binding{}}
	for i := range f.Symbols {
		s := &f.Symbols[i]
		switch {
		case i == 0:
		case s.Section == elfpatch.Undefined:
			b := p.Spec.Bindings[s.Name]
			part.Bindings[len(part.Cut.Externals)] = b
			part.Cut.Externals = append(part.Cut.Externals, diff.External{Symbol: i, Name: cmp.Or(b.Name, s.Name)})
		default:
			s.Name, _, _ = strings.Cut(s.Name, "#")
		}
	}
	return part
}

// modulePrefix begins the names of modules, so that none is that of a module or
// of built-in code, which has a directory in /sys/module too.
const modulePrefix = "livepatch"

// ModuleName is the name of the module for a patch of a name.
func ModuleName(patch string) string {
	name := strings.Map(func(r rune) rune {
		if r == '-' || r == '.' {
			return '_'
		}
		return r
	}, patch)
	if strings.HasPrefix(name, modulePrefix) {
		return name
	}
	return modulePrefix + "_" + name
}
