package main

import (
	"strings"

	"github.com/urfave/cli/v2"

	"livepatch/docs"
)

func explainCommand() *cli.Command {
	return &cli.Command{
		Name: "explain", Usage: "say what a refusal code means, or what became of a function and why", ArgsUsage: "[CODE | ORIG.o PATCHED.o FUNCTION]", Category: groupLook,
		Flags: []cli.Flag{jsonFlag()},
		Description: `
Every refusal ends with a code in brackets. Without CODE, all codes are listed.

With two object files and the name of a function, it says what became of the
function, why a patch brings it along, and which of its references lead where:
to a copy that the patch has itself, to something of the kernel by a livepatch
relocation (klp), or to an exported symbol (ordinary).

Examples:
  livepatch explain data-changed
  livepatch explain meminfo.before.o meminfo.after.o meminfo_proc_show`,
		Action: explain,
	}
}

func explain(c *cli.Context) error {
	args, err := takeArgs(c, 0, 3)
	if err != nil {
		return err
	}
	switch len(args) {
	case 2:
		return hintHelp(usageErrorf("explain needs a code, or two objects and the name of a function"), c.Command)
	case 3:
		return explainFunction(c, args[0], args[1], args[2])
	}
	p := newPrinter(c)
	all := docs.Diagnostics()
	if len(args) == 0 {
		if p.json {
			return p.JSON(all)
		}
		for _, d := range all {
			first, _, _ := strings.Cut(d.Text, "\n\n")
			p.Printf("%s\n    %s\n", p.Paint(bold, d.Code), strings.ReplaceAll(first, "\n", "\n    "))
		}
		return nil
	}
	code := strings.Trim(args[0], "[]")
	for _, d := range all {
		if d.Code != code {
			continue
		}
		if p.json {
			return p.JSON(d)
		}
		p.Printf("%s\n\n%s\n", p.Paint(bold, d.Code), d.Text)
		return nil
	}
	err = usageErrorf("no refusal has the code %q", code)
	if near := nearest(code, explainWords()); near != "" {
		return hinted(err, "did you mean %q? livepatch explain lists the codes", near)
	}
	return hinted(err, "livepatch explain lists the codes")
}

func explainWords() []string {
	var codes []string
	for _, d := range docs.Diagnostics() {
		codes = append(codes, d.Code)
	}
	return codes
}
