package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"livepatch/elfpatch/diff"
)

// explainFunction says of one function of two objects what became of it.
func explainFunction(c *cli.Context, orig, patched, name string) error {
	p := newPrinter(c)
	delta, done, err := compareFiles(orig, patched)
	if err != nil {
		return err
	}
	defer done()
	x, err := delta.Explain(name, diff.CutOptions{})
	if err != nil {
		var names []string
		for _, f := range delta.Funcs {
			names = append(names, f.Name)
		}
		if near := nearest(name, names); near != "" {
			return hinted(err, "did you mean %q?", near)
		}
		return err
	}
	if p.json {
		return p.JSON(x)
	}
	p.Printf("%s", explanationText(x))
	return nil
}

// explanationText is an explanation for readers.
func explanationText(x *diff.Explanation) string {
	var b strings.Builder
	row := func(label, format string, args ...any) {
		line := fmt.Sprintf("%-8s  %s", label, fmt.Sprintf(format, args...))
		b.WriteString(strings.TrimRight(printable(line), " ") + "\n")
	}
	row(string(x.Status), "%s  %s", x.Name, explainedSize(x))
	if w := x.Why; w != nil {
		where := fmt.Sprintf("+%#x", w.Offset)
		if w.In != "" {
			where += ", in " + w.In
		}
		row("why", "%s", where)
		row("", "- %s", w.Old)
		row("", "+ %s", w.New)
	}
	for _, n := range x.Notes {
		row("note", "%s", n)
	}
	for _, e := range x.Entries {
		row("table", "%s: %s", e.Section, plural(e.Entries, "entry", "entries"))
	}
	switch {
	case len(x.Refusals) > 0:
		for _, r := range x.Refusals {
			row("refused", "%s", r.Error())
		}
		return b.String()
	case !x.Included:
		row("patch", "has no copy of it; new code refers to the one in the target")
		return b.String()
	}
	for i, step := range x.Path {
		label := ""
		if i == 0 {
			label = "patch"
		}
		row(label, "%s%s", strings.Repeat("  ", i), step)
	}
	explainLinks(x, row)
	return b.String()
}

func explainedSize(x *diff.Explanation) string {
	switch {
	case x.Size == 0:
		return fmt.Sprintf("%#x bytes", x.OldSize)
	case x.OldSize != 0 && x.OldSize != x.Size:
		return fmt.Sprintf("%#x bytes, were %#x", x.Size, x.OldSize)
	}
	return fmt.Sprintf("%#x bytes", x.Size)
}

// explainLinks lists what the function refers to, in columns.
func explainLinks(x *diff.Explanation, row func(label, format string, args ...any)) {
	var width [3]int
	for _, l := range x.Links {
		width[0] = max(width[0], len(l.Type))
		width[1] = max(width[1], min(len(l.Target), 40))
		width[2] = max(width[2], len(l.How))
	}
	for _, l := range x.Links {
		row(fmt.Sprintf("+%#x", l.Offset), "%-*s  %-*s  %-*s  %s", width[0], l.Type, width[1], l.Target, width[2], l.How, l.Why)
	}
}
