package compose

import (
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"strings"

	"livepatch/elfpatch"
	"livepatch/internal/kmod"
	"livepatch/internal/pack"
	"livepatch/manifest"
)

// Change is one thing that two packages say differently.
type Change struct {
	Change string `json:"change"`           // "added", "removed", "changed"
	What   string `json:"what"`             // "function", "variable", "input", …
	Target string `json:"target,omitempty"` // file of a program, or object of a kernel
	Where  string `json:"where,omitempty"`  // its name
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}

// Diff lists what differs between two packages, in the order of the first and
// then of the second.
func Diff(a, b *pack.Package) ([]Change, error) {
	x, err := describe(a)
	if err != nil {
		return nil, fmt.Errorf("first package: %w", err)
	}
	y, err := describe(b)
	if err != nil {
		return nil, fmt.Errorf("second package: %w", err)
	}
	out := []Change{}
	for _, i := range x.items {
		switch after, ok := y.text[i]; {
		case !ok:
			out = append(out, Change{"removed", i.what, i.target, i.where, x.text[i], ""})
		case after != x.text[i]:
			out = append(out, Change{"changed", i.what, i.target, i.where, x.text[i], after})
		}
	}
	for _, i := range y.items {
		if _, ok := x.text[i]; !ok {
			out = append(out, Change{"added", i.what, i.target, i.where, "", y.text[i]})
		}
	}
	return out, nil
}

// An item is one thing that a package says; what it says of it is its text.
type item struct {
	what, target, where string
	n                   int // from the second of the same name on
}

type description struct {
	items []item
	text  map[item]string
}

func (d *description) add(what, target, where, format string, args ...any) {
	i := item{what: what, target: target, where: where}
	for _, taken := d.text[i]; taken; _, taken = d.text[i] {
		i.n++
	}
	d.items = append(d.items, i)
	d.text[i] = fmt.Sprintf(format, args...)
}

func describe(p *pack.Package) (*description, error) {
	d := &description{text: map[item]string{}}
	m := p.Manifest
	d.add("name", "", "", "%s", m.Name)
	d.add("tool", "", "", "%s %s", m.Tool.Name, m.Tool.Version)
	for i := range m.Targets {
		if err := d.targetOf(p, &m.Targets[i]); err != nil {
			return nil, err
		}
	}
	if m.Kernel != nil {
		if err := d.kernel(m.Kernel, p.Members[m.Kernel.Payload.Member]); err != nil {
			return nil, err
		}
	}
	if m.Build != nil {
		d.build(m.Build)
	}
	for _, s := range p.Signatures {
		d.add("signature", "", s.Key.ID(), "good")
	}
	return d, nil
}

func (d *description) targetOf(p *pack.Package, t *manifest.Target) error {
	pl, err := open(t, p.Members[t.Payload.Member])
	if err != nil {
		return err
	}
	file := item{what: "target", target: t.Name, where: t.BuildID.String() + t.SHA256.String()}
	if _, ok := d.text[file]; !ok { // a merged package has it several times
		d.add(file.what, file.target, file.where, "%s, %s", t.Kind, t.Machine)
	}
	for i := range t.Functions {
		f := &t.Functions[i]
		r, err := pl.replacementOf(f)
		if err != nil {
			return err
		}
		d.add("function", t.Name, f.Name, "%s at %#x, %d -> %d bytes, old %s, new %x", f.Strategy, f.Address, f.Size, f.NewSize, f.SHA256[:8], r.digest[:8])
	}
	for _, v := range t.Variables {
		d.add("variable", t.Name, v.Name, "%#x, %d bytes", v.Address, v.Size)
	}
	for _, im := range t.Imports {
		if im.Kind == manifest.ImportTarget {
			d.add("import", t.Name, im.Symbol, "%#x of the target", im.Address)
		} else {
			d.add("import", t.Name, im.Symbol, "%s", strings.TrimRight(fmt.Sprintf("%s %s %s %s %d", im.Kind, im.Name, im.Version, im.Library, im.Offset), " 0"))
		}
	}
	for _, name := range pl.variables() {
		d.add("new variable", t.Name, name, "brought by the patch")
	}
	return nil
}

func (d *description) build(b *manifest.Build) {
	for _, s := range []struct{ what, text string }{{"description", b.Description}, {"version", b.Version}, {"compiler", b.Compiler}} {
		if s.text != "" {
			d.add(s.what, "", "", "%s", s.text)
		}
	}
	for _, id := range b.CVE {
		d.add("cve", "", id, "fixed")
	}
	for _, in := range b.Inputs {
		d.add("input", in.Role, in.Name, "%s", in.SHA256)
	}
	for _, u := range b.Units {
		d.add("unit", u.Object, u.Source, "%s", strings.Join(u.Flags, " "))
	}
	for _, f := range b.Findings {
		text := f.Text
		if f.Allowed {
			text += " (allowed)"
		}
		d.add("finding", f.Code, f.Where, "%s", text)
	}
}

func (d *description) kernel(k *manifest.Kernel, module []byte) error {
	for _, s := range []struct{ what, text string }{
		{"release", k.Release}, {"vermagic", k.Vermagic}, {"build-id", k.BuildID.String()}, {"machine", k.Machine}, {"flavour", k.Flavour}, {"dispatch", k.Dispatch},
		{"module", k.Module}, {"replace", fmt.Sprint(k.Replace)}, {"signed", fmt.Sprint(k.Signed)}, {"objtool", k.Objtool.String()},
	} {
		d.add(s.what, "", "", "%s", s.text)
	}
	if b := k.Base; b != nil {
		d.add("base", "", b.Module, "%d bytes, %x", b.Payload.Size, b.Payload.SHA256[:8])
	}
	digests, err := digestsOf(module)
	if err != nil {
		return fmt.Errorf("read %s: %w", k.Payload.Member, err)
	}
	for _, o := range k.Objects {
		d.add("object", o.Name, "", "%s", strings.TrimSpace(o.BuildID.String()+" "+o.Srcversion))
		for _, f := range o.Functions {
			digest, err := digests.function(f.Replacement)
			if err != nil {
				return fmt.Errorf("read %s: %w", k.Payload.Member, err)
			}
			d.add("function", o.Name, positioned(f.Name, f.Position), "%s+%#x, %d -> %d bytes, old %s, new %x", f.Section, f.Address, f.Size, f.NewSize, f.SHA256[:8], digest[:8])
		}
		for _, s := range o.Symbols {
			d.add("symbol", o.Name, positioned(s.Name, s.Position), "%s+%#x", s.Section, s.Address)
		}
		for _, c := range o.Callbacks {
			d.add("callback", o.Name, c.Kind, "%s", c.Function)
		}
	}
	for _, e := range k.Exports {
		text := "no version"
		if e.CRC != nil {
			text = "version " + e.CRC.String()
		}
		d.add("export", "", e.Name, "%s", strings.TrimSpace(text+" "+e.Namespace))
	}
	for _, s := range k.States {
		d.add("state", "", fmt.Sprint(s.ID), "version %d", s.Version)
	}
	for _, w := range k.Warnings {
		d.add("warning", "", w, "said")
	}
	digests.data(d)
	return nil
}

// moduleDigests tells functions of a module apart: one that livepatch has made by all
// that they lead to, any other by their code.
type moduleDigests struct {
	made  *module // nil for modules of others
	other *elfpatch.File
}

func digestsOf(data []byte) (m moduleDigests, err error) {
	if spec, err := kmod.Undo(data); err == nil {
		m.made, err = newModule(spec)
		return m, err
	}
	m.other, err = elfpatch.Parse(data)
	return m, err
}

func (m moduleDigests) function(name string) (sum [sha256.Size]byte, err error) {
	if m.made == nil {
		return codeDigest(m.other, name)
	}
	r, err := m.made.replacementOf(name)
	if err != nil {
		return sum, err
	}
	return r.digest, nil
}

// data describes the variables that a module brings, or its data as a whole.
func (m moduleDigests) data(d *description) {
	if m.made == nil {
		d.sections(m.other)
		return
	}
	for _, name := range m.made.variables() {
		d.add("new variable", "module", name, "brought by the patch")
	}
}

// sections describes the data of a module: what its functions refer to by way of
// a section is not told apart.
func (d *description) sections(obj *elfpatch.File) {
	for _, s := range obj.Sections {
		if s.Flags&elf.SHF_ALLOC != 0 && s.Flags&elf.SHF_EXECINSTR == 0 && s.Type != elf.SHT_NOTE {
			sum := sha256.Sum256(s.Data)
			d.add("section", "module", s.Name, "%d bytes, %x", s.Size, sum[:8])
		}
	}
}

func positioned(name string, position int) string {
	if position == 0 {
		return name
	}
	return fmt.Sprintf("%s,%d", name, position)
}

// codeDigest is the SHA-256 of the code of a function of a module and of the
// names of what it refers to. Of a reference by way of a section only the
// section is known.
func codeDigest(obj *elfpatch.File, name string) (sum [sha256.Size]byte, err error) {
	for i := range obj.Symbols {
		s := &obj.Symbols[i]
		if s.Name != name || s.Section <= 0 || s.Section >= len(obj.Sections) || s.Type != elf.STT_FUNC {
			continue
		}
		sec := obj.Sections[s.Section]
		if s.Value > uint64(len(sec.Data)) || s.Size > uint64(len(sec.Data))-s.Value {
			return sum, fmt.Errorf("symbol %s lies outside its section", name)
		}
		rels, err := obj.Relocations(sec)
		if err != nil {
			return sum, err
		}
		text := append([]byte{}, sec.Data[s.Value:s.Value+s.Size]...)
		for _, r := range rels {
			if r.Offset < s.Value || r.Offset-s.Value >= s.Size || int(r.Symbol) >= len(obj.Symbols) {
				continue
			}
			text = binary.LittleEndian.AppendUint64(text, r.Offset-s.Value)
			text = binary.LittleEndian.AppendUint32(text, r.Type)
			to := &obj.Symbols[r.Symbol]
			if to.Type == elf.STT_SECTION && to.Section > 0 && to.Section < len(obj.Sections) {
				text = append(text, obj.Sections[to.Section].Name...)
			} else {
				text = binary.LittleEndian.AppendUint64(text, uint64(r.Addend))
				text = append(text, to.Name...)
			}
			text = append(text, 0)
		}
		return sha256.Sum256(text), nil
	}
	return sum, fmt.Errorf("it has no function %s", name)
}
