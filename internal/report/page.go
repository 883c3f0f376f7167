package report

import (
	"bytes"
	"fmt"
	"html/template"
	"strconv"

	"livepatch/elfpatch/diff"
	"livepatch/internal/pack"
	"livepatch/internal/refusal"
	"livepatch/manifest"
)

// page is everything that the page shows, in its order.
type page struct {
	Style  template.CSS
	Script template.JS
	Policy string

	Name, Description string
	Version           string // of the patch
	Tool              string
	CVE               []string
	Verdict           verdict
	Facts             []fact
	Contents          []entry

	Refusals  []finding
	Sources   []source
	Changes   []change
	Functions []function
	Proofs    table
	Sites     []site
	Kernel    table  // sites of a kernel
	Shared    string // what the variables are called
	Variables table
	Imports   table
	Findings  []finding
	Inputs    table
	Units     table
	Package   table
	Payloads  table
	Manifest  multiline
}

// verdict is the outcome of the build, which somebody else has decided.
type verdict struct{ Class, Word, Text string }

type fact struct{ Value, Label string }

// entry is a line of the table of contents.
type entry struct {
	ID, Title, Count string
	Functions        []function
	More             int
}

// finding is a refusal, or something that the reviewer has to know.
type finding struct {
	Code, Where, Text string
	Allowed           bool
	Remedy            []paragraph
}

// change is a pair of objects and what became of it.
type change struct {
	Object, Patched, Target string
	Table                   table
	Notes                   []string
}

// table is rows of text under heads.
type table struct {
	Name  string
	Heads []string
	Rows  [][]cell
}

type cell struct {
	Text  string
	Code  bool
	Title string // what the text is short for
	Link  string // a place of the page
}

func word(s string) cell { return cell{Text: s} }
func code(s string) cell { return cell{Text: s, Code: true} }

// named is the cell of a symbol.
func named(name string) cell { return cell{Text: readable(name), Code: true, Title: other(name)} }

func number(n uint64) cell { return cell{Text: strconv.FormatUint(n, 10), Code: true} }

func address(section string, addr uint64) cell {
	if section != "" {
		return code(readable(section) + "+" + hex(addr))
	}
	return code(hex(addr))
}

func newPage(in Input) (*page, error) {
	p := &page{Name: in.Name, Tool: in.Version, Shared: "Shared variables"}
	record := in.Record
	var pkg *pack.Package
	if in.Result != nil {
		pkg = in.Result.Package
	}
	if pkg != nil {
		p.Name, p.Tool = pkg.Manifest.Name, pkg.Manifest.Tool.Version
		record = pkg.Manifest.Build
	}
	p.Refusals = refusals(in)
	for _, s := range in.Patches {
		p.Sources = append(p.Sources, newSource(s))
	}
	if in.Result != nil {
		for i := range in.Result.Parts {
			p.part(&in.Result.Parts[i])
		}
	}
	// From here on the page has what the objects say.
	if pkg != nil {
		if err := p.fromPackage(in, pkg); err != nil {
			return nil, err
		}
	}
	p.fromRecord(in, record)
	// From here on it has what the package says.
	p.judge(in)
	p.count()
	p.contents()
	return p, nil
}

func refusals(in Input) (out []finding) {
	list, _ := in.Refusals.Err().(refusal.List)
	for _, r := range list {
		out = append(out, finding{Code: string(r.Code), Where: readable(r.Where), Text: readable(r.Text), Remedy: remedy(in, string(r.Code))})
	}
	return out
}

func remedy(in Input, code string) []paragraph {
	if in.Remedy == nil {
		return nil
	}
	return paragraphs(in.Remedy(code))
}

// judge says in one sentence what the build has said.
func (p *page) judge(in Input) {
	allowed := 0
	for _, f := range p.Findings {
		if f.Allowed {
			allowed++
		}
	}
	switch {
	case len(p.Refusals) > 0:
		p.Verdict = verdict{"bad", "Refused", "No package was written: " + count(len(p.Refusals), "reason") + " against the patch."}
	case in.Result == nil || in.Result.Package == nil:
		p.Verdict = verdict{"warn", "No package", "Nothing is known of a package."}
	case allowed > 0:
		p.Verdict = verdict{"warn", "Built with overrides", fmt.Sprintf("The package was written although %s would have been refused; somebody allowed it.", count(allowed, "finding"))}
	case len(p.Findings) > 0:
		p.Verdict = verdict{"good", "Built", "Nothing stands against the patch; " + count(len(p.Findings), "finding") + " to read."}
	default:
		p.Verdict = verdict{"good", "Built", "Each function was proven to be the code of the target. Nothing stands against the patch."}
	}
}

func (p *page) count() {
	changed, added, different := 0, 0, 0
	for i := range p.Functions {
		f := &p.Functions[i]
		f.ID = "f" + strconv.Itoa(i+1)
		different += f.Different
		switch {
		case f.Part != "":
		case f.Status == string(diff.New):
			added++
		default:
			changed++
		}
	}
	add := func(n int, one, many string) {
		label := many
		if n == 1 {
			label = one
		}
		p.Facts = append(p.Facts, fact{strconv.Itoa(n), label})
	}
	if p.Manifest != "" {
		add(changed, "function replaced", "functions replaced")
	} else {
		add(changed, "function changed", "functions changed")
	}
	if added > 0 {
		add(added, "function new", "functions new")
	}
	if different > 0 {
		add(different, "instruction differs", "instructions differ")
	}
	switch {
	case len(p.Kernel.Rows) > 0:
		add(len(p.Variables.Rows), "symbol shared", "symbols shared")
	case p.Manifest != "":
		add(len(p.Variables.Rows), "variable shared", "variables shared")
	}
	add(len(p.Findings), "finding", "findings")
	if len(p.Refusals) > 0 {
		add(len(p.Refusals), "refusal", "refusals")
	}
}

// maxListed bounds the functions in the table of contents.
const maxListed = 60

func (p *page) contents() {
	add := func(shown bool, id, title string, n int) {
		if !shown {
			return
		}
		e := entry{ID: id, Title: title}
		if n > 0 {
			e.Count = strconv.Itoa(n)
		}
		if id == "functions" {
			e.Functions = p.Functions[:min(len(p.Functions), maxListed)]
			e.More = len(p.Functions) - len(e.Functions)
		}
		p.Contents = append(p.Contents, e)
	}
	add(true, "summary", "Summary", 0)
	add(len(p.Refusals) > 0, "refusals", "Refusals", len(p.Refusals))
	add(len(p.Sources) > 0, "source", "Source patch", 0)
	add(len(p.Changes) > 0, "changes", "What changed", 0)
	add(len(p.Functions) > 0, "functions", "Functions", len(p.Functions))
	add(true, "findings", "Findings", len(p.Findings))
	add(true, "proof", "Proof", len(p.Proofs.Rows))
	add(p.Manifest != "", "sites", "Patch sites", len(p.Sites)+len(p.Kernel.Rows))
	add(p.Manifest != "", "variables", p.Shared, len(p.Variables.Rows))
	add(len(p.Imports.Rows) > 0, "imports", "Imports", len(p.Imports.Rows))
	add(true, "inputs", "Inputs", len(p.Inputs.Rows))
	add(p.Manifest != "", "package", "Package and signature", 0)
	add(p.Manifest != "", "manifest", "Manifest", 0)
}

// fromRecord takes over how the package was made.
func (p *page) fromRecord(in Input, b *manifest.Build) {
	if r := in.Result; r != nil && r.Package == nil { // those of a package are in its record
		for _, f := range r.Findings {
			p.Findings = append(p.Findings, finding{string(f.Code), readable(f.Where), readable(f.Text), f.Allowed, remedy(in, string(f.Code))})
		}
	}
	if b == nil {
		return
	}
	p.Description, p.Version, p.CVE = b.Description, b.Version, b.CVE
	for _, f := range b.Findings {
		p.Findings = append(p.Findings, finding{f.Code, readable(f.Where), readable(f.Text), f.Allowed, remedy(in, f.Code)})
	}
	p.Inputs = table{Name: "inputs and their digests", Heads: []string{"Role", "Name", "SHA-256"}}
	for _, x := range b.Inputs {
		p.Inputs.Rows = append(p.Inputs.Rows, []cell{word(x.Role), code(x.Name), code(x.SHA256.String())})
	}
	p.Units = table{Name: "compiled sources", Heads: []string{"Source", "Object", "Flags"}}
	for _, u := range b.Units {
		var flags bytes.Buffer
		for i, f := range u.Flags {
			if i > 0 {
				flags.WriteByte(' ')
			}
			flags.WriteString(f)
		}
		p.Units.Rows = append(p.Units.Rows, []cell{code(u.Source), code(u.Object), code(flags.String())})
	}
	if len(b.Proofs) > 0 {
		p.recordedProofs(b.Proofs)
	}
	if b.Compiler != "" {
		p.Units.Name = "compiled sources, with " + b.Compiler
	}
}
