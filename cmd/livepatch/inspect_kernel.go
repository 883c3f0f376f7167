package main

import (
	"fmt"

	"livepatch/internal/check"
	"livepatch/internal/modcheck"
	"livepatch/internal/pack"
	"livepatch/manifest"
)

// inspectKernel shows what a package for a kernel would do.
func inspectKernel(p *printer, in inspection, pkg *pack.Package) error {
	k := pkg.Manifest.Kernel
	x, err := modcheck.Describe(pkg.Members[k.Payload.Member])
	if err != nil {
		return fmt.Errorf("inspect %s: %s: %w", in.File, k.Payload.Member, err)
	}
	if p.json {
		in.Module, in.Payloads = x, []check.Payload{}
		return p.JSON(in)
	}
	printPatch(p, in)
	p.Printf("\n%s  %s (%s)\n", p.Paint(bold, "kernel"), k.Release, k.Machine)
	p.Printf("  build-id  %s\n", k.BuildID)
	p.Printf("  module    %s, %s\n", k.Module, moduleKind(x))
	p.Printf("  payload   %s, %d bytes, sha256 %s\n", k.Payload.Member, k.Payload.Size, k.Payload.SHA256)
	if b := k.Base; b != nil {
		p.Printf("  base      %s, %s, %d bytes, sha256 %s\n", b.Module, b.Payload.Member, b.Payload.Size, b.Payload.SHA256)
		if k.Dispatch == manifest.DispatchShared {
			p.Printf("  dispatch  one handler for all functions, and a table\n")
		}
		p.Printf("  switch    new calls run the new code, of all functions at once; calls that run finish in the old\n")
	}
	if len(k.Objtool) > 0 {
		p.Printf("  objtool   sha256 %s\n", k.Objtool)
	}
	for _, w := range k.Warnings {
		p.Printf("  warning   %s\n", printable(w))
	}
	for i := range k.Objects {
		printKernelObject(p, &k.Objects[i])
	}
	printModuleTables(p, x)
	return nil
}

func printPatch(p *printer, in inspection) {
	m := in.Manifest
	p.Printf("%s  %s\n", p.Paint(bold, "patch"), m.Name)
	p.Printf("made by %s %s, %d bytes, sha256 %s\n", m.Tool.Name, m.Tool.Version, in.Size, in.Digest)
	for _, s := range in.Signed {
		p.Printf("signed with key %s\n", s.Key)
	}
	if len(in.Signed) == 0 {
		p.Printf("not signed\n")
	}
	printBuild(p, m.Build)
}

func printKernelObject(p *printer, o *manifest.KernelObject) {
	p.Printf("\n%s  %s\n", p.Paint(bold, "object"), o.Name)
	if o.Name != manifest.Vmlinux {
		p.Printf("  build-id  %s\n", o.BuildID)
		if o.Srcversion != "" {
			p.Printf("  srcversion  %s\n", o.Srcversion)
		}
	}
	at := func(section string, addr uint64) string {
		if section != "" {
			return fmt.Sprintf("%s+%#x", section, addr)
		}
		return fmt.Sprintf("%#x", addr)
	}
	rows := newTable(p, "functions", "ADDRESS", "OLD", "NEW", "SITE", "PROOF", "OBJECT", "POSITION", "NAME")
	for _, f := range o.Functions {
		rows.row(at(f.Section, f.Address), fmt.Sprint(f.Size), fmt.Sprint(f.NewSize), f.Site.Kind, f.Proof, f.Object, fmt.Sprint(f.Position), printable(p.names(f.Name)))
	}
	rows.print()
	rows = newTable(p, "shared", "ADDRESS", "USES", "FOUND", "POSITION", "NAME")
	for _, s := range o.Symbols {
		rows.row(at(s.Section, s.Address), fmt.Sprint(s.Uses), printable(p.names(s.Found)), fmt.Sprint(s.Position), printable(p.names(s.Name)))
	}
	rows.print()
	rows = newTable(p, "callbacks", "KIND", "FUNCTION")
	for _, c := range o.Callbacks {
		rows.row(c.Kind, printable(c.Function))
	}
	rows.print()
}
