package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"livepatch/internal/check"
	"livepatch/internal/kimage"
	"livepatch/internal/modcheck"
	"livepatch/internal/pack"
	"livepatch/internal/refusal"
	"livepatch/internal/sign"
	"livepatch/manifest"
)

func inspectCommand() *cli.Command {
	return &cli.Command{
		Name: "inspect", Usage: "show what a package or livepatch module would do", ArgsUsage: "PKG|MODULE.ko", Category: groupLook,
		Flags: []cli.Flag{
			jsonFlag(),
			&cli.StringFlag{Name: "report", Usage: "page for reviewers to write too, one HTML `FILE`; of packages only"},
			demangleFlag(),
		},
		Description: `
Reads a package, checks every byte of it, and prints the target, the functions
it replaces, the variables it shares, what it imports, and every write with
the instructions before and after. Bytes printed as ·· depend on where the
patch is loaded. Nothing is run or changed.

Of a livepatch module of a kernel (.ko, compressed or not, built by any tool) it
prints .modinfo, the functions it replaces and its callbacks, states,
livepatch symbols and relocations, imports and special sections.

Examples:
  livepatch inspect fix.lpatch
  livepatch inspect --json fix.lpatch | jq .manifest.targets[0].functions
  livepatch inspect livepatch-fix.ko`,
		Action: inspect,
	}
}

// inspection is what inspect --json prints.
type inspection struct {
	File     string             `json:"file"`
	Size     int                `json:"size"`
	Digest   string             `json:"digest"` // SHA-256 that the last member states
	Signed   []check.Signer     `json:"signatures"`
	Manifest *manifest.Manifest `json:"manifest"`
	Payloads []check.Payload    `json:"payloads"`
	Module   *modcheck.Info     `json:"module,omitempty"` // of a package for a kernel
}

func inspect(c *cli.Context) error {
	args, err := takeArgs(c, 1, 1)
	if err != nil {
		return err
	}
	p := newPrinter(c)
	b, err := readFile(args[0])
	if err != nil {
		return err
	}
	if kind, err := kimage.KindOf(b); err == nil && kind != kimage.Program {
		if c.IsSet("report") {
			return hintHelp(usageErrorf("--report is for packages; %s is a module", args[0]), c.Command)
		}
		return inspectModule(p, args[0], b)
	}
	pkg, err := parsePackage(args[0], b)
	if err != nil {
		return err
	}
	if err := inspectReport(c, pkg, b); err != nil {
		return err
	}
	in := inspection{File: args[0], Size: len(b), Digest: pack.Digest(b), Signed: check.Signers(pkg, sign.Policy{}), Manifest: pkg.Manifest}
	if pkg.Manifest.Kernel != nil {
		return inspectKernel(p, in, pkg)
	}
	if in.Payloads, err = check.Payloads(pkg); err != nil {
		return fmt.Errorf("inspect %s: %w", args[0], err)
	}
	if p.json {
		return p.JSON(in)
	}
	printPatch(p, in)
	for _, r := range pkg.Manifest.Requires {
		p.Printf("requires %s  %s\n", r.Name, r.SHA256)
	}
	for i := range pkg.Manifest.Targets {
		printTarget(p, &pkg.Manifest.Targets[i], in.Payloads[i])
	}
	return nil
}

// readPackage reads and checks a package; a refusal names the file.
func readPackage(path string) (*pack.Package, []byte, error) {
	b, err := readFile(path)
	if err != nil {
		return nil, nil, err
	}
	pkg, err := parsePackage(path, b)
	return pkg, b, err
}

func parsePackage(path string, b []byte) (*pack.Package, error) {
	pkg, err := pack.Read(b)
	if err != nil {
		return nil, inFile(path, err)
	}
	return pkg, nil
}

// inFile puts the file before the place of each refusal.
func inFile(path string, err error) error {
	list := refusal.Of(err)
	if list == nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for i := range list {
		list[i].Where = path + ": " + list[i].Where
	}
	return list
}

func printTarget(p *printer, t *manifest.Target, pl check.Payload) {
	p.Printf("\n%s  %s (%s, %s)\n", p.Paint(bold, "target"), t.Name, t.Kind, t.Machine)
	if len(t.BuildID) > 0 {
		p.Printf("  build-id  %s\n", t.BuildID)
	} else {
		p.Printf("  sha256    %s of the read-only bytes\n", t.SHA256)
	}
	p.Printf("  payload   %s, %d bytes, sha256 %s\n", t.Payload.Member, t.Payload.Size, t.Payload.SHA256)

	rows := newTable(p, "sections", "NAME", "ACCESS", "SIZE", "RELOCATIONS")
	for _, s := range pl.Sections {
		rows.row(s.Name, s.Access, fmt.Sprint(s.Size), fmt.Sprint(s.Relocations))
	}
	rows.print()

	rows = newTable(p, "functions", "ADDRESS", "OLD", "NEW", "STRATEGY", "SITE", "PROOF", "OBJECT", "NAME")
	for _, f := range t.Functions {
		rows.row(fmt.Sprintf("%#x", f.Address), fmt.Sprint(f.Size), fmt.Sprint(f.NewSize), strategy(&f), f.Site.Kind, f.Proof, f.Object, p.names(f.Name))
	}
	rows.print()

	rows = newTable(p, "variables", "ADDRESS", "SIZE", "USES", "FOUND", "NAME")
	for _, v := range t.Variables {
		rows.row(fmt.Sprintf("%#x", v.Address), fmt.Sprint(v.Size), fmt.Sprint(v.Uses), p.names(v.Found), p.names(v.Name))
	}
	rows.print()

	rows = newTable(p, "imports", "SYMBOL", "KIND", "FROM")
	for _, im := range t.Imports {
		rows.row(p.names(im.Symbol), im.Kind, importSource(&im))
	}
	rows.print()
	printWrites(p, t)
}

func importSource(im *manifest.Import) string {
	switch im.Kind {
	case manifest.ImportTarget:
		return fmt.Sprintf("%#x", im.Address)
	case manifest.ImportTLSOffset:
		return fmt.Sprintf("thread pointer %+d", im.Offset)
	}
	s := im.Name
	if im.Version != "" {
		s += "@" + im.Version
	}
	if im.Library != "" {
		s += " of " + im.Library
	}
	return s
}

func printWrites(p *printer, t *manifest.Target) {
	p.Printf("\n  %s\n", p.Paint(bold, "writes"))
	for i := range t.Writes {
		w := &t.Writes[i]
		p.Printf("    %s: %d bytes at %#x\n", p.names(t.Functions[w.Function].Name), w.Length, w.Address)
		for _, l := range check.Code(t.Machine, w.Expected, w.Address) {
			p.Printf("      %s %#x  %-24s %s\n", p.Paint(red, "-"), l.Addr, l.Bytes, l.Text)
		}
		for _, l := range check.Replaced(t.Machine, w) {
			p.Printf("      %s %#x  %-24s %s\n", p.Paint(green, "+"), l.Addr, l.Bytes, p.names(l.Text))
		}
	}
}

// A table is aligned columns under a title; without rows it is not printed.
type table struct {
	p      *printer
	title  string
	header []string
	rows   [][]string
}

func newTable(p *printer, title string, header ...string) *table {
	return &table{p: p, title: title, header: header}
}

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) print() {
	if len(t.rows) == 0 {
		return
	}
	t.p.Printf("\n  %s\n", t.p.Paint(bold, t.title))
	w := tabwriter.NewWriter(t.p.out, 0, 8, 2, ' ', 0)
	for _, r := range append([][]string{t.header}, t.rows...) {
		fmt.Fprintln(w, "    "+strings.Join(r, "\t"))
	}
	w.Flush()
}

// strategy is how a function is redirected, with the dispatch if it is not
// direct.
func strategy(f *manifest.Function) string {
	if f.Dispatch == "" || f.Dispatch == f.Strategy {
		return f.Strategy
	}
	return f.Strategy + ", " + f.Dispatch
}
