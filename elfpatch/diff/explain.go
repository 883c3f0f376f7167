package diff

import (
	"cmp"
	"debug/elf"
	"fmt"
	"slices"
	"strings"

	"livepatch/elfpatch"
	"livepatch/internal/refusal"
)

// An Explanation says of one function what became of it and why, whether a
// patch brings it along, and what becomes of its references there.
type Explanation struct {
	Name     string        `json:"name"`
	Status   Status        `json:"status"`
	Size     uint64        `json:"size"`     // in the patched object, 0 if removed
	OldSize  uint64        `json:"old_size"` // in the original object, 0 if new
	Why      *WhyReport    `json:"why,omitempty"`
	Notes    []string      `json:"notes,omitempty"`
	Included bool          `json:"included"`           // the patch has a copy of it
	Path     []string      `json:"path,omitempty"`     // from what changed to it, one refers to the next
	Links    []Link        `json:"links,omitempty"`    // its references in the patch, in order
	Entries  []EntryReport `json:"entries,omitempty"`  // of tables about it in the patched object
	Refusals refusal.List  `json:"refusals,omitempty"` // why there is no patch, so that nothing can be said of references
}

// A Link is one reference of a function in the patch.
type Link struct {
	Offset uint64 `json:"offset"` // in the function
	Type   string `json:"type"`   // R_X86_64_PLT32
	Target string `json:"target"`
	How    string `json:"how"` // "own copy", "klp", "ordinary"; of programs "own copy", "target"
	Why    string `json:"why"`
}

// EntryReport counts the entries of a table about a function.
type EntryReport struct {
	Section string `json:"section"`
	Entries int    `json:"entries"`
}

// How a reference of the patch is made.
const (
	linkCopy     = "own copy" // to something that the patch has itself
	linkKLP      = "klp"      // to something of the kernel, by a livepatch relocation
	linkOrdinary = "ordinary" // to an exported symbol, as any module does
	linkTarget   = "target"   // programs: to something of the target
)

// Explain tells everything about a function, by its name in either object. The
// error says that there is none of that name.
func (d *Delta) Explain(name string, opt CutOptions) (*Explanation, error) {
	k := slices.IndexFunc(d.Funcs, func(f Func) bool {
		return f.Name == name || f.Patched != 0 && d.Patched.Symbols[f.Patched].Name == name
	})
	if k < 0 {
		return nil, fmt.Errorf("neither object has a function %q", name)
	}
	f := d.Funcs[k]
	if f.Patched == 0 {
		return d.ExplainFunc(f, nil), nil
	}
	cut, err := d.CutFor(opt)
	x := d.ExplainFunc(f, cut)
	if err != nil {
		list, ok := err.(refusal.List)
		if !ok {
			return nil, err
		}
		x.Refusals = list
	}
	return x, nil
}

// ExplainFunc is Explain for one of d.Funcs and a cut that was made already;
// without one, nil, nothing is said of references.
func (d *Delta) ExplainFunc(f Func, cut *Cut) *Explanation {
	x := &Explanation{Name: f.Name, Status: f.Status, Size: f.Size, OldSize: f.OldSize, Why: why(f.Why)}
	if f.Lines {
		x.Notes = append(x.Notes, "only line numbers in it differ, and they moved with the source")
	}
	if f.Ignored {
		x.Notes = append(x.Notes, "the source asks to ignore its changes")
	}
	if f.Patched == 0 {
		x.Notes = append(x.Notes, "it is gone from the source; the target keeps it, and new code does not call it")
		return x
	}
	if now := d.Patched.Symbols[f.Patched].Name; now != f.Name {
		x.Notes = append(x.Notes, fmt.Sprintf("the patched object calls it %s", now))
	}
	if f.Parent != 0 {
		x.Notes = append(x.Notes, fmt.Sprintf("it is an outlined part of %s and goes with it", d.Patched.Symbols[f.Parent].Name))
	}
	x.Entries = d.c.entryCounts(d.c.patched.bySym[f.Patched])
	if cut != nil {
		d.explainCut(x, f, cut)
	}
	return x
}

func (c *comparison) entryCounts(p *piece) []EntryReport {
	var all []EntryReport
	if p == nil {
		return nil
	}
	for _, e := range p.entries {
		name := c.patched.f.Sections[e.sec].Name
		if n := len(all); n > 0 && all[n-1].Section == name {
			all[n-1].Entries++
		} else {
			all = append(all, EntryReport{name, 1})
		}
	}
	return all
}

// explainCut finds a function in the object of the patch.
func (d *Delta) explainCut(x *Explanation, f Func, cut *Cut) {
	g := newCutGraph(cut.Object)
	name := d.Patched.Symbols[f.Patched].Name
	to := -1
	for i, s := range cut.Object.Symbols {
		if s.Type == elf.STT_FUNC && s.Section > 0 && (s.Name == name || s.Name == f.Name) {
			to = i
			break
		}
	}
	if to < 0 {
		return
	}
	x.Included = true
	x.Path = g.path(to, d.roots(cut))
	exported := map[string]bool{}
	for name := range d.c.orig.exports() {
		exported[name] = true
	}
	externals := map[int]External{}
	for _, e := range cut.Externals {
		externals[e.Symbol] = e
	}
	sym := cut.Object.Symbols[to]
	for _, r := range g.relocations(to) {
		l := Link{Offset: r.Offset - sym.Value, Type: elfpatch.RelocName(cut.Object.Machine, r.Type)}
		target := cut.Object.Symbols[r.Symbol]
		l.Target = target.Name
		if target.Type == elf.STT_SECTION {
			l.Target = cut.Object.Sections[target.Section].Name
			if n := g.defined(r); n > 0 {
				l.Target = cut.Object.Symbols[n].Name
			}
		}
		switch e, outside := externals[int(r.Symbol)]; {
		case target.Section > 0 || target.Section == elfpatch.Absolute:
			l.How, l.Why = linkCopy, d.copyReason(l.Target)
		case outside:
			l.Target = e.Name
			l.How, l.Why = d.externalReason(e, exported)
		default:
			l.How, l.Why = linkOrdinary, "an undefined symbol of the patch"
		}
		x.Links = append(x.Links, l)
	}
}

// roots are the symbols of a cut that it has for their own sake.
func (d *Delta) roots(cut *Cut) map[int]string {
	all := map[int]string{}
	for i, s := range cut.Object.Symbols {
		if s.Section > 0 && s.Type == elf.STT_FUNC && s.Bind != elf.STB_LOCAL {
			all[i] = "new, and other objects may call it"
		}
	}
	for _, f := range cut.Funcs {
		all[f.Symbol] = "it changed"
	}
	if cut.Kernel != nil {
		for _, c := range cut.Kernel.Callbacks {
			all[c.Symbol] = "the " + c.Kind + " callback"
		}
	}
	return all
}

// copyReason says why the patch has something itself.
func (d *Delta) copyReason(name string) string {
	base, _, _ := strings.Cut(name, "#")
	for i := range d.Patched.Symbols {
		p := d.c.patched.bySym[i]
		if p == nil || d.Patched.Symbols[i].Name != base {
			continue
		}
		switch {
		case p.special != nil:
			return "it stands for a place in the code (" + p.special.What + "); new code has its own"
		case p.kind == function && d.c.status(p) == Changed:
			return "it changed too; new code calls new code"
		case d.c.status(p) == New:
			return "it is new"
		case p.kind != function && d.c.status(p) == Changed:
			return "the constant changed"
		}
		return "the patch has its own"
	}
	return "a constant without a name; its address in the target is not known"
}

func (d *Delta) externalReason(e External, exported map[string]bool) (how, why string) {
	defined := e.Orig != 0 && d.Orig.Symbols[e.Orig].Section != elfpatch.Undefined
	switch {
	case !d.c.opt.Kernel && defined:
		return linkTarget, "the target's own, which stays in use"
	case !d.c.opt.Kernel:
		return linkTarget, "from wherever the target has it"
	case defined && exported[e.Name]:
		return linkOrdinary, "the kernel's own, and exported"
	case defined:
		return linkKLP, "the kernel's own, which stays in use, and not exported by this object"
	}
	return linkOrdinary, "defined elsewhere; klp instead where the kernel does not export it"
}

// cutGraph is which symbols of a cut refer to which.
type cutGraph struct {
	f    *elfpatch.File
	rels [][]elfpatch.Rela // by section, in order
	syms [][]int           // by section, those with contents
}

func newCutGraph(f *elfpatch.File) *cutGraph {
	g := &cutGraph{f: f, rels: make([][]elfpatch.Rela, len(f.Sections)), syms: make([][]int, len(f.Sections))}
	for i, s := range f.Symbols {
		if i > 0 && s.Section > 0 && s.Section < len(f.Sections) && s.Type != elf.STT_SECTION {
			g.syms[s.Section] = append(g.syms[s.Section], i)
		}
	}
	for i, sec := range f.Sections {
		if rels, err := sortedRelocations(f, sec); err == nil && sec.Type != elf.SHT_RELA && len(g.syms[i]) > 0 {
			g.rels[i] = rels
		}
	}
	return g
}

func (g *cutGraph) relocations(sym int) []elfpatch.Rela {
	s := &g.f.Symbols[sym]
	rels := g.rels[s.Section]
	byOffset := func(r elfpatch.Rela, off uint64) int { return cmp.Compare(r.Offset, off) }
	k, _ := slices.BinarySearchFunc(rels, s.Value, byOffset)
	n, _ := slices.BinarySearchFunc(rels, s.Value+s.Size, byOffset)
	return rels[k:max(k, n)]
}

// path is the shortest way from a root to a symbol, in words.
func (g *cutGraph) path(to int, roots map[int]string) []string {
	from := map[int]int{}
	var queue []int
	for i := range g.f.Symbols {
		if roots[i] != "" {
			from[i] = i
			queue = append(queue, i)
		}
	}
	for len(queue) > 0 {
		at := queue[0]
		queue = queue[1:]
		if at == to {
			break
		}
		for _, r := range g.relocations(at) {
			next := g.defined(r)
			if _, seen := from[next]; next > 0 && !seen {
				from[next] = at
				queue = append(queue, next)
			}
		}
	}
	if _, ok := from[to]; !ok {
		return []string{g.f.Symbols[to].Name}
	}
	var path []string
	for at := to; ; at = from[at] {
		if from[at] == at {
			path = append(path, fmt.Sprintf("%s (%s)", g.f.Symbols[at].Name, roots[at]))
			break
		}
		path = append(path, g.f.Symbols[at].Name)
	}
	slices.Reverse(path)
	return path
}

// defined is the symbol of the cut that a relocation leads to, 0 if it leads
// out of it.
func (g *cutGraph) defined(r elfpatch.Rela) int {
	s := &g.f.Symbols[r.Symbol]
	if s.Section <= 0 {
		return 0
	}
	if s.Type != elf.STT_SECTION {
		return int(r.Symbol)
	}
	for _, i := range g.syms[s.Section] {
		if x := &g.f.Symbols[i]; int64(x.Value) <= r.Addend+4 && r.Addend < int64(x.Value+x.Size) {
			return i
		}
	}
	return 0
}
