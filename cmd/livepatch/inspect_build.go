package main

import (
	"fmt"
	"strings"

	"livepatch/manifest"
)

// printBuild shows what a package says of how it was made.
func printBuild(p *printer, b *manifest.Build) {
	if b == nil {
		return
	}
	for _, line := range [][2]string{
		{"what", b.Description}, {"version", b.Version}, {"fixes", strings.Join(b.CVE, ", ")}, {"compiler", b.Compiler},
	} {
		if line[1] != "" {
			p.Printf("%-9s %s\n", line[0], printable(line[1]))
		}
	}
	for _, f := range b.Findings {
		text := printable(fmt.Sprintf("%s: %s [%s]", f.Where, f.Text, f.Code))
		if f.Allowed {
			p.Printf("%s   %s\n", p.Paint(yellow, "allowed"), text)
		} else {
			p.Printf("finding   %s\n", text)
		}
	}
}
