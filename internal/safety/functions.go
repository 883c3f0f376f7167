package safety

import (
	"cmp"
	"debug/elf"
	"errors"
	"fmt"
	"slices"
	"strings"

	"livepatch/elfpatch"
	"livepatch/elfpatch/diff"
	"livepatch/elfpatch/kernel"
	"livepatch/elfpatch/types"
	"livepatch/internal/refusal"
)

// functions finds what changed, and what of the before object is called through
// pointers.
func (j *judge) functions() {
	j.single = [2]map[int]bool{{}, {}}
	for _, f := range j.Delta.Funcs {
		switch f.Status {
		case diff.Removed:
			j.single[diff.Before][f.Orig] = true
		case diff.New:
			j.single[diff.After][f.Patched] = true
		}
		if f.Status == diff.Changed && f.Parent == 0 && f.Orig != 0 && f.Patched != 0 {
			j.changed = append(j.changed, f)
		}
	}
	j.taken = map[int]string{}
	for _, t := range j.Delta.AddressTaken(diff.Before) {
		if j.taken[t.Symbol] == "" {
			j.taken[t.Symbol] = cmp.Or(symbolName(j.Delta.Orig, t.In), "data without a name")
		}
	}
}

func symbolName(f *elfpatch.File, sym int) string {
	if sym <= 0 || sym >= len(f.Symbols) {
		return ""
	}
	return f.Symbols[sym].Name
}

// uses are the names that a function refers to.
func (j *judge) uses(o diff.Object, sym int) (names []string) {
	for _, b := range j.Delta.Bodies(o, sym) {
		for _, u := range b.Uses {
			if name := symbolName(j.file(o), u.Symbol); name != "" && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

func (j *judge) file(o diff.Object) *elfpatch.File {
	if o == diff.Before {
		return j.Delta.Orig
	}
	return j.Delta.Patched
}

// types compares the types that the changed functions use.
func (j *judge) types() {
	if len(j.changed) == 0 {
		return
	}
	var list []types.Func
	for _, f := range j.changed {
		list = append(list, types.Func{
			Name: f.Name, Orig: symbolName(j.Delta.Orig, f.Orig), Patched: symbolName(j.Delta.Patched, f.Patched),
			OrigUses: j.uses(diff.Before, f.Orig), PatchedUses: j.uses(diff.After, f.Patched),
		})
	}
	r, err := types.Compare(j.Delta.Orig, j.Delta.Patched, list)
	switch {
	case errors.Is(err, types.ErrNoTypes):
		j.add(Warn, refusal.TypesNotCompared, "types", "the objects say nothing of types, so changed layouts and prototypes are not seen: compile both with -g")
		return
	case err != nil:
		j.add(Warn, refusal.TypesNotCompared, "types", "%v", err)
		return
	}
	for _, f := range r.Unknown {
		j.add(Warn, refusal.TypesNotCompared, f, "the type information does not describe it")
	}
	if r.BTF {
		j.add(Note, refusal.TypesNotCompared, "types", "the objects have BTF and no DWARF, which says nothing of local variables")
	}
	if r.Partial != "" {
		j.add(Warn, refusal.TypesNotCompared, "types", "%s; the others were not compared", r.Partial)
	}
	j.layouts(r.Changes)
	for _, c := range r.Changes {
		if c.Kind == types.Prototype {
			j.prototype(c)
		}
	}
}

// shownFields is how many changes of one type a finding lists.
const shownFields = 4

// layouts makes one finding of all changes of a type.
func (j *judge) layouts(changes []types.Change) {
	type key struct {
		kind types.Kind
		name string
	}
	var order []key
	by := map[key][]types.Change{}
	for _, c := range changes {
		k := key{c.Kind, c.Type}
		if c.Kind == types.Prototype {
			continue
		}
		if by[k] == nil {
			order = append(order, k)
		}
		by[k] = append(by[k], c)
	}
	for _, k := range order {
		list := by[k]
		level, code := Warn, refusal.LayoutChanged
		if slices.ContainsFunc(list, func(c types.Change) bool { return c.Breaking }) {
			level = Refuse
		}
		if k.kind == types.Enum {
			code = refusal.EnumChanged
		}
		var texts []string
		for i, c := range list {
			if i == shownFields {
				texts = append(texts, fmt.Sprintf("and %d more", len(list)-i))
				break
			}
			texts = append(texts, c.Text)
		}
		j.add(level, code, cmp.Or(list[0].User, "numbers"), "%s: %s", k.name, strings.Join(texts, "; "))
	}
}

// prototype judges who calls a function as before: code outside of the objects
// calls global ones, and those whose address it holds.
func (j *judge) prototype(c types.Change) {
	i := slices.IndexFunc(j.changed, func(f diff.Func) bool { return symbolName(j.Delta.Patched, f.Patched) == c.Type })
	switch {
	case i < 0 && j.Others[c.Type]:
		return // said of the pair that it is in
	case i < 0 && j.defines(c.Type):
		return // it is the same code, so it is called as it was
	case i < 0:
		j.add(levelOf(c), refusal.PrototypeChanged, c.User, "%s, which it refers to: %s; the running one is as it was", c.Type, c.Text)
		return
	}
	f := j.changed[i]
	sym := j.Delta.Orig.Symbols[f.Orig]
	switch {
	case !c.Breaking:
		j.add(Warn, refusal.PrototypeChanged, f.Name, "%s", c.Text)
	case j.taken[f.Orig] != "":
		j.add(Refuse, refusal.PrototypeChanged, f.Name, "%s; it is called through a pointer too (%s holds its address)", c.Text, j.taken[f.Orig])
	case sym.Bind != elf.STB_LOCAL:
		j.add(Refuse, refusal.PrototypeChanged, f.Name, "%s; it is global, and callers that the patch does not replace call it as before", c.Text)
	default:
		j.add(Warn, refusal.PrototypeChanged, f.Name, "%s; only this object calls it, and running calls finish with the old one", c.Text)
	}
}

func levelOf(c types.Change) Level {
	if c.Breaking {
		return Refuse
	}
	return Warn
}

// defines reports whether the after object defines a function.
func (j *judge) defines(name string) bool {
	return slices.ContainsFunc(j.Delta.Funcs, func(f diff.Func) bool { return f.Patched != 0 && symbolName(j.Delta.Patched, f.Patched) == name })
}

// inlined names unchanged functions that have a copy of a changed one in them.
func (j *judge) inlined() {
	changed := map[string]bool{}
	for _, f := range j.changed {
		changed[stem(symbolName(j.Delta.Orig, f.Orig))] = true
	}
	copies, err := types.Inlined(j.Delta.Orig, changed)
	if err != nil {
		return // types said so
	}
	for _, c := range copies {
		if !changed[stem(c.Into)] {
			j.add(Warn, refusal.InlinedElsewhere, c.Function, "%s has a copy of it inlined and did not change", c.Into)
		}
	}
	if j.Debug == nil {
		return
	}
	if copies, err = types.Inlined(j.Debug, j.visible()); err != nil && !errors.Is(err, types.ErrNoTypes) {
		j.add(Warn, refusal.TypesNotCompared, "inlined copies", "debug information of the target: %v", err)
	}
	for _, c := range copies {
		if !changed[stem(c.Into)] && !j.Others[stem(c.Into)] && !j.defines(c.Into) {
			j.add(Warn, refusal.InlinedElsewhere, c.Function, "%s of %s has a copy of it inlined, which the patch does not replace", c.Into, cmp.Or(c.Unit, "the target"))
		}
	}
}

// visible are the changed functions that other objects may know: global ones.
func (j *judge) visible() map[string]bool {
	out := map[string]bool{}
	for _, f := range j.changed {
		if sym := j.Delta.Orig.Symbols[f.Orig]; sym.Bind != elf.STB_LOCAL {
			out[sym.Name] = true
		}
	}
	return out
}

func stem(name string) string {
	s, _, _ := strings.Cut(name, ".")
	return s
}

// addresses says of changed functions that they are called through pointers, and of
// new ones that pointers to them may outlive the patch.
func (j *judge) addresses() {
	for _, f := range j.changed {
		if in := j.taken[f.Orig]; in != "" {
			j.add(Note, refusal.AddressTaken, f.Name, "it is called through a pointer too (%s holds its address); such calls reach the new code", in)
		}
	}
	part := j.Delta.Reaches()
	isNew := map[int]string{}
	for _, f := range j.Delta.Funcs {
		if f.Status == diff.New && f.Parent == 0 {
			isNew[f.Patched] = f.Name
		}
	}
	said := map[[2]int]bool{}
	for _, t := range j.Delta.AddressTaken(diff.After) {
		if name := isNew[t.Symbol]; name != "" && t.Code && part[t.In] && !said[[2]int{t.Symbol, t.In}] {
			said[[2]int{t.Symbol, t.In}] = true
			j.add(Warn, refusal.AddressTaken, symbolName(j.Delta.Patched, t.In)+fmt.Sprintf("+%#x", t.Off),
				"it takes the address of %s, which is new: whoever keeps that must be done with it before the patch is reverted", name)
		}
	}
}

// initData refuses new references to memory that the kernel gives back.
func (j *judge) initData() {
	if !j.Kernel {
		return
	}
	before := map[int]map[string]bool{}
	for _, f := range j.changed {
		before[f.Patched] = map[string]bool{}
		for _, n := range j.uses(diff.Before, f.Orig) {
			before[f.Patched][n] = true
		}
	}
	for _, sym := range sortedKeys(j.Delta.Reaches()) {
		if r := kernel.TextOf(section(j.Delta.Patched, sym)); r != nil && r.Fate == kernel.TextInit {
			continue
		}
		said := map[string]bool{}
		for _, b := range j.Delta.Bodies(diff.After, sym) {
			for _, u := range b.Uses {
				name := symbolName(j.Delta.Patched, u.Symbol)
				if rule := kernel.HasPrefix(kernel.InitData, section(j.Delta.Patched, u.Symbol)); rule != nil && !before[sym][name] && !said[name] {
					said[name] = true
					j.add(Refuse, refusal.InitMemory, fmt.Sprintf("%s+%#x", symbolName(j.Delta.Patched, b.Symbol), u.Off),
						"it uses %s, which is %s: that memory is given back", name, rule.What)
				}
			}
		}
	}
}

func section(f *elfpatch.File, sym int) string {
	if sym <= 0 || sym >= len(f.Symbols) || f.Symbols[sym].Section <= 0 || f.Symbols[sym].Section >= len(f.Sections) {
		return ""
	}
	return f.Sections[f.Symbols[sym].Section].Name
}

func sortedKeys(m map[int]bool) (keys []int) {
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// data says how much memory the patch brings along that code writes to.
func (j *judge) data() {
	var size uint64
	var names []string
	for _, d := range j.Delta.Data {
		if d.Status == diff.New && d.Live {
			size += d.Size
			names = append(names, d.Name)
		}
	}
	if len(names) == 0 {
		return
	}
	list := strings.Join(names[:min(len(names), shownFields)], ", ")
	if n := len(names) - shownFields; n > 0 {
		list += fmt.Sprintf(" and %d more", n)
	}
	j.add(Note, refusal.DataAdded, "data", "%d bytes of new variables (%s), which begin anew whenever the patch is applied", size, list)
}
