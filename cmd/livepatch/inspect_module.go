package main

import (
	"fmt"
	"strings"

	"livepatch/internal/modcheck"
)

// moduleInspection is what inspect --json prints of a kernel module.
type moduleInspection struct {
	File   string         `json:"file"`
	Size   int            `json:"size"`
	Module *modcheck.Info `json:"module"`
}

// inspectModule shows what a livepatch module would do.
func inspectModule(p *printer, path string, b []byte) error {
	x, err := modcheck.Describe(b)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if p.json {
		return p.JSON(moduleInspection{path, len(b), x})
	}
	p.Printf("%s  %s (%s)\n", p.Paint(bold, "module"), printable(x.Name), x.Machine)
	p.Printf("%s\n", moduleKind(x))
	rows := newTable(p, "modinfo", "KEY", "VALUE")
	for _, i := range x.Modinfo {
		rows.row(printable(i.Key), printable(i.Value))
	}
	rows.print()
	printObjects(p, x)
	printModuleTables(p, x)
	return nil
}

// moduleKind says in a line how the patch is described and made.
func moduleKind(x *modcheck.Info) string {
	words := map[string]string{
		modcheck.FlavourStatic: "a livepatch with static structures",
		modcheck.FlavourInTree: "a livepatch of the kernel's own builder",
		modcheck.FlavourKpatch: "a livepatch of kpatch-build",
		modcheck.FlavourDirect: "a livepatch of direct calls",
		modcheck.FlavourBase:   "the base module of direct calls",
		"":                     "not a livepatch",
	}
	list := []string{words[x.Flavour]}
	switch {
	case x.Replace == nil && (x.Flavour == modcheck.FlavourInTree || x.Flavour == modcheck.FlavourKpatch):
		list = append(list, "its init decides whether it replaces others")
	case x.Replace != nil && *x.Replace:
		list = append(list, "replaces all others")
	case x.Replace != nil:
		list = append(list, "adds to others")
	}
	if x.Signed {
		list = append(list, "signed")
	}
	return strings.Join(list, ", ")
}

func printObjects(p *printer, x *modcheck.Info) {
	for _, o := range x.Objects {
		p.Printf("\n%s  %s\n", p.Paint(bold, "object"), printable(o.Name))
		rows := newTable(p, "functions", "POSITION", "SIZE", "SECTION", "REPLACEMENT", "NAME")
		for _, f := range o.Functions {
			rows.row(fmt.Sprint(f.Position), fmt.Sprint(f.Size), printable(f.Section), printable(f.Replacement), printable(f.Name))
		}
		rows.print()
		rows = newTable(p, "callbacks", "KIND", "FUNCTION")
		for _, f := range o.Callbacks {
			rows.row(f.Kind, printable(f.Function))
		}
		rows.print()
	}
}

func printModuleTables(p *printer, x *modcheck.Info) {
	rows := newTable(p, "states", "ID", "VERSION")
	for _, s := range x.States {
		rows.row(fmt.Sprint(s.ID), fmt.Sprint(s.Version))
	}
	rows.print()
	rows = newTable(p, "livepatch symbols", "OBJECT", "POSITION", "USES", "NAME")
	for _, s := range x.Symbols {
		rows.row(printable(s.Object), printable(s.Position), fmt.Sprint(s.Uses), printable(s.Name))
	}
	rows.print()
	rows = newTable(p, "relocations", "SECTION", "COUNT", "OBJECT")
	for _, r := range x.Relocations {
		owner := "-"
		if r.Object != "" {
			owner = printable(r.Object)
		}
		rows.row(printable(r.Section), fmt.Sprint(r.Count), owner)
	}
	rows.print()
	rows = newTable(p, "imports", "CHECKSUM", "NAME")
	for _, im := range x.Imports {
		crc := "-"
		if im.CRC != nil {
			crc = fmt.Sprintf("0x%08x", *im.CRC)
		}
		rows.row(crc, printable(im.Name))
	}
	rows.print()
	rows = newTable(p, "special sections", "SECTION", "SIZE", "ENTRIES", "WHAT")
	for _, t := range x.Tables {
		n := "-"
		if t.Entries > 0 {
			n = fmt.Sprint(t.Entries)
		}
		rows.row(printable(t.Section), fmt.Sprint(t.Size), n, t.What)
	}
	rows.print()
}
