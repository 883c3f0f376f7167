package report

import (
	"strconv"

	"livepatch/elfpatch/diff"
	"livepatch/internal/build"
	"livepatch/manifest"
)

// part takes over what is known of a pair of objects.
func (p *page) part(part *build.Part) {
	c := change{Object: part.Pair.OrigName, Patched: part.Pair.PatchedName, Target: part.Target.Name}
	if part.Delta != nil {
		p.delta(part, &c)
	}
	p.Changes = append(p.Changes, c)
	if part.Proof == nil {
		return
	}
	p.Proofs.Name, p.Proofs.Heads = "proven functions", []string{"Function", "Object", "Address", "Size", "Found by"}
	for _, f := range part.Proof.Funcs {
		p.Proofs.Rows = append(p.Proofs.Rows, []cell{named(f.Name), code(c.Object), code(hex(f.Addr)), number(f.Size), word(foundText(string(f.Found)))})
	}
}

// foundText says how an address was found.
func foundText(found string) string {
	switch found {
	case "symbol":
		return "the target's symbol table"
	case "dynsym":
		return "the target's dynamic symbols"
	case "debug":
		return "the separate debug file"
	case "reference":
		return "a reference from proven code"
	case "search":
		return "the only place that holds these bytes"
	}
	return found
}

func (p *page) delta(part *build.Part, c *change) {
	d := part.Delta
	r := d.Report()
	c.Table = table{Name: "what changed in " + c.Object, Heads: []string{"What", "Name", "Size", "First difference"}}
	for i := range d.Funcs {
		f := d.Funcs[i]
		if f.Status == diff.Same || f.Ignored {
			continue
		}
		row := []cell{word(string(f.Status) + " function"), named(f.Name), word(sizes(f)), {}}
		if f.Why != nil {
			row[3] = code(readable(f.Why.String()))
		}
		if f.Status != diff.Removed {
			row[1].Link = "f" + strconv.Itoa(len(p.Functions)+1)
			x := newFunction(d, f, part.Cut)
			x.Object = c.Object
			p.Functions = append(p.Functions, x)
		}
		c.Table.Rows = append(c.Table.Rows, row)
	}
	for _, v := range r.Data {
		what := " constant"
		if v.Live {
			what = " variable"
		}
		row := []cell{word(string(v.Status) + what), named(v.Name), word(strconv.FormatUint(v.Size, 10) + " bytes"), {}}
		if v.Why != nil {
			w := diff.Difference{Off: v.Why.Offset, Old: v.Why.Old, New: v.Why.New, In: v.Why.In}
			row[3] = code(readable(w.String()))
		}
		c.Table.Rows = append(c.Table.Rows, row)
	}
	c.Notes = append(c.Notes, "Unchanged: "+count(r.Same.Functions, "function")+", "+count(r.Same.Data, "data symbol")+".")
	if n := len(r.Lines); n > 0 {
		c.Notes = append(c.Notes, "Of these, only line numbers differ in "+list(r.Lines)+".")
	}
	if len(r.Ignored) > 0 {
		c.Notes = append(c.Notes, "Changes ignored because the source asks for it: "+list(r.Ignored)+".")
	}
	for _, w := range r.Warnings {
		c.Notes = append(c.Notes, "Warning: "+readable(w))
	}
}

// list puts names in a sentence.
func list(names []string) (s string) {
	const most = 12
	for i, n := range names[:min(len(names), most)] {
		if i > 0 {
			s += ", "
		}
		s += readable(n)
	}
	if n := len(names) - most; n > 0 {
		s += " and " + strconv.Itoa(n) + " more"
	}
	return s
}

// recordedProofs takes the place of the proofs that the objects gave: the
// record is what the package holds.
func (p *page) recordedProofs(list []manifest.Proof) {
	p.Proofs = table{Name: "proven functions", Heads: []string{"Function", "Object", "Address", "Size", "Allowed to differ"}}
	for _, x := range list {
		masked := ""
		for i, m := range x.Masked {
			if i > 0 {
				masked += ", "
			}
			masked += m.Kind + " × " + strconv.Itoa(m.Count)
		}
		if masked == "" {
			masked = "nothing"
		}
		p.Proofs.Rows = append(p.Proofs.Rows, []cell{named(x.Function), code(x.Object), code(hex(x.Address)), number(x.Size), word(masked)})
	}
}
