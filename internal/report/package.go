package report

import (
	"fmt"
	"strconv"

	"livepatch/elfpatch"
	"livepatch/elfpatch/diff"
	"livepatch/internal/check"
	"livepatch/internal/pack"
	"livepatch/manifest"
)

// site is a place where the target is changed.
type site struct {
	Name, Mangled   string
	Target          string
	Facts           table
	Before, After   []check.Line
	Expected, Holes string
}

// fromPackage takes over what the manifest and the payloads say.
func (p *page) fromPackage(in Input, pkg *pack.Package) error {
	text, err := manifest.Encode(pkg.Manifest)
	if err != nil {
		return err
	}
	p.Manifest = multiline(text)
	m := pkg.Manifest
	p.Package = table{Name: "the package", Heads: []string{"Property", "Value"}}
	fact := func(what string, c cell) { p.Package.Rows = append(p.Package.Rows, []cell{word(what), c}) }
	fact("Format", code(m.Format))
	fact("Made by", word(m.Tool.Name+" "+m.Tool.Version))
	if in.File != nil {
		fact("Size", word(strconv.Itoa(len(in.File))+" bytes"))
		fact("Digest", code(pack.Digest(in.File)))
	}
	for _, s := range pkg.Signatures {
		fact("Signature, good, of the key", cell{Text: s.Key.ID(), Code: true, Title: fmt.Sprintf("%x", s.Key)})
	}
	if len(pkg.Signatures) == 0 {
		fact("Signature", word("none: nobody has signed the package"))
	}
	p.Payloads = table{Name: "payloads", Heads: []string{"Member", "Size", "SHA-256"}}
	for _, x := range m.Payloads() {
		p.Payloads.Rows = append(p.Payloads.Rows, []cell{code(x.Member), word(strconv.FormatInt(x.Size, 10) + " bytes"), code(x.SHA256.String())})
	}
	p.Variables = table{Name: "variables that old and new code share", Heads: []string{"Variable", "Address", "Size", "Found by", "Places that agree"}}
	p.Imports = table{Name: "symbols that the new code uses", Heads: []string{"Symbol", "Kind", "From"}}
	for i := range m.Targets {
		p.target(in, &m.Targets[i], fact)
	}
	if m.Kernel != nil {
		p.kernel(m.Kernel, fact)
	}
	if len(in.Result.Parts) == 0 {
		return p.payloadCode(pkg)
	}
	return nil
}

func (p *page) target(in Input, t *manifest.Target, fact func(string, cell)) {
	fact("Target", word(fmt.Sprintf("%s (%s, %s)", t.Name, t.Machine, t.Kind)))
	if len(t.BuildID) > 0 {
		fact("Build-id", code(t.BuildID.String()))
	} else {
		fact("SHA-256 of its code", code(t.SHA256.String()))
	}
	for i := range t.Functions {
		p.Sites = append(p.Sites, newSite(t, i))
	}
	if len(in.Result.Parts) == 0 {
		p.foundProofs(t)
	}
	for _, v := range t.Variables {
		where, size := code(hex(v.Address)), cell{}
		if v.Address == 0 {
			where = word("thread-local")
		}
		if v.Size > 0 {
			size = number(v.Size)
		}
		p.Variables.Rows = append(p.Variables.Rows, []cell{named(v.Name), where, size, placeCell(v.Found), number(uint64(v.Uses))})
	}
	for _, im := range t.Imports {
		from := code(hex(im.Address))
		switch im.Kind {
		case manifest.ImportTLSOffset:
			from = word(fmt.Sprintf("thread pointer %+d", im.Offset))
		case manifest.ImportTarget:
		default:
			from = code(im.Name)
			if im.Version != "" {
				from.Text += "@" + im.Version
			}
			if im.Library != "" {
				from.Text += " of " + im.Library
			}
		}
		p.Imports.Rows = append(p.Imports.Rows, []cell{named(im.Symbol), word(im.Kind), from})
	}
}

// placeCell is a way in which an address was found, or the place that showed it.
func placeCell(found string) cell {
	if text := foundText(found); text != found {
		return word(text)
	}
	return code(readable(found))
}

// foundProofs lists the functions of a package without a record of proofs.
func (p *page) foundProofs(t *manifest.Target) {
	rows := table{Name: "functions found in the target", Heads: []string{"Function", "Object", "Address", "Size", "Found by"}}
	for _, f := range t.Functions {
		rows.Rows = append(rows.Rows, []cell{named(f.Name), code(f.Object), code(hex(f.Address)), number(f.Size), word(foundText(f.Proof))})
	}
	p.Proofs.Name = rows.Name
	p.Proofs.Rows = append(p.Proofs.Rows, rows.Rows...)
	p.Proofs.Heads = rows.Heads
}

func newSite(t *manifest.Target, i int) site {
	f := &t.Functions[i]
	s := site{Name: readable(f.Name), Mangled: other(f.Name), Target: t.Name}
	s.Facts = table{Name: "the site of " + s.Name, Heads: []string{"Property", "Value"}}
	add := func(what string, c cell) { s.Facts.Rows = append(s.Facts.Rows, []cell{word(what), c}) }
	add("Kind", word(f.Site.Kind))
	add("Address", code(hex(f.Site.Address)))
	add("Bytes expected", code(spaced(f.Site.Expected)))
	add("Room", word(count(f.Site.Room, "byte")))
	add("Strategy", word(f.Strategy))
	add("Leads to", named(f.Replacement))
	add("Old body", code("sha256 "+f.SHA256.String()))
	for _, r := range f.Extra {
		add("Moved out of it", code(fmt.Sprintf("%#x, %d bytes", r.Address, r.Size)))
	}
	for k := range t.Writes {
		w := &t.Writes[k]
		if w.Function != i {
			continue
		}
		s.Before = append(s.Before, lines(check.Code(t.Machine, w.Expected, w.Address))...)
		s.After = append(s.After, lines(check.Replaced(t.Machine, w))...)
	}
	return s
}

func lines(all []check.Line) []check.Line {
	for i := range all {
		all[i].Text = readable(all[i].Text)
	}
	return all
}

func (p *page) kernel(k *manifest.Kernel, fact func(string, cell)) {
	fact("Kernel", word(fmt.Sprintf("%s (%s)", k.Release, k.Machine)))
	fact("Build-id", code(k.BuildID.String()))
	fact("Module", code(k.Module))
	fact("Flavour", word(k.Flavour))
	if k.Dispatch != "" {
		fact("Dispatch", word(k.Dispatch))
	}
	if k.Consistency == manifest.ConsistencyCalls {
		fact("Consistency", word("new calls run the new code, of all functions at once; calls that run finish in the old"))
	}
	fact("Replaces other livepatches", word(yes(k.Replace)))
	fact("Module signed", word(yes(k.Signed)))
	if len(k.Objtool) > 0 {
		fact("objtool", code("sha256 "+k.Objtool.String()))
	}
	for _, w := range k.Warnings {
		fact("Warning", word(readable(w)))
	}
	p.Kernel = table{Name: "calls that ftrace redirects", Heads: []string{"Function", "Object", "Site", "Address", "Bytes expected", "Leads to"}}
	p.Shared = "Shared symbols"
	p.Variables = table{Name: "variables and functions that old and new code share", Heads: []string{"Symbol", "Address", "Found by", "Places that agree"}}
	found := len(p.Proofs.Heads) == 0
	if found {
		p.Proofs = table{Name: "functions found in the target", Heads: []string{"Function", "Object", "Address", "Size", "Found by"}}
	}
	for i := range k.Objects {
		p.kernelObject(&k.Objects[i], found)
	}
	for _, x := range k.Exports {
		from := word("exported, without a version")
		if x.CRC != nil {
			from = word("exported, version " + x.CRC.String())
		}
		p.Imports.Rows = append(p.Imports.Rows, []cell{named(x.Name), word("export"), from})
	}
}

func (p *page) kernelObject(o *manifest.KernelObject, found bool) {
	for _, f := range o.Functions {
		name := named(f.Name)
		if f.Position > 0 {
			name.Text += ", " + strconv.Itoa(f.Position)
		}
		p.Kernel.Rows = append(p.Kernel.Rows, []cell{name, code(o.Name), word(f.Site.Kind), address(f.Section, f.Site.Address), code(spaced(f.Site.Expected)), named(f.Replacement)})
		if found {
			p.Proofs.Rows = append(p.Proofs.Rows, []cell{name, code(f.Object), address(f.Section, f.Address), number(f.Size), word(foundText(f.Proof))})
		}
	}
	for _, s := range o.Symbols {
		p.Variables.Rows = append(p.Variables.Rows, []cell{named(s.Name), address(s.Section, s.Address), placeCell(s.Found), number(uint64(s.Uses))})
	}
	for _, c := range o.Callbacks {
		p.Imports.Rows = append(p.Imports.Rows, []cell{named(c.Function), word(c.Kind + " callback"), word("called by the kernel for " + o.Name)})
	}
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// payloadCode lists the new code of a package of which nothing else is there.
func (p *page) payloadCode(pkg *pack.Package) error {
	for _, pl := range pkg.Manifest.Payloads() {
		f, err := elfpatch.Parse(pkg.Members[pl.Member])
		if err != nil {
			return fmt.Errorf("read %s: %w", pl.Member, err)
		}
		c, err := diff.ReadCode(f, pkg.Manifest.Kernel != nil)
		if err != nil {
			return fmt.Errorf("read %s: %w", pl.Member, err)
		}
		old := replaced(pkg.Manifest, pl.Member)
		for i, sym := range f.Symbols {
			size, ok := old[sym.Name]
			list := c.Lines(i)
			if !ok || len(list) == 0 {
				continue
			}
			delete(old, sym.Name)
			x := function{Name: readable(sym.Name), Mangled: other(sym.Name), Status: string(diff.Changed), Object: pl.Member}
			x.Sizes = sizes(diff.Func{OldSize: size, Size: sym.Size})
			var rows []diff.Row
			for _, l := range list {
				rows = append(rows, diff.Row{Kind: diff.RowSame, New: l})
			}
			x.setRows(rows)
			p.Functions = append(p.Functions, x)
		}
	}
	return nil
}

// replaced are the replacements in a payload, with the sizes of the old bodies.
func replaced(m *manifest.Manifest, member string) map[string]uint64 {
	out := map[string]uint64{}
	for i := range m.Targets {
		if t := &m.Targets[i]; t.Payload.Member == member {
			for _, f := range t.Functions {
				out[f.Replacement] = f.Size
			}
		}
	}
	if k := m.Kernel; k != nil {
		for i := range k.Objects {
			for _, f := range k.Objects[i].Functions {
				out[f.Replacement] = f.Size
			}
		}
	}
	return out
}
