package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"livepatch/elfpatch"
	"livepatch/elfpatch/diff"
	"livepatch/elfpatch/kernel"
	"livepatch/internal/image"
)

func diffCommand() *cli.Command {
	return &cli.Command{
		Name: "diff", Usage: "say what changed between two objects or packages", ArgsUsage: "ORIG PATCHED", Category: groupLook,
		Flags: []cli.Flag{
			jsonFlag(),
			demangleFlag(),
		},
		Description: `
Compares two relocatable objects function by function: instructions with what
they refer to, strings and constants by content, static variables by use. Code
that only moved is the same. A changed function is shown with its first
difference. The exit code is 0 whether or not anything changed, and 3 when the
change cannot be patched into a running program; the reasons are listed.

Kernel objects are known by what their build leaves in them, and compared by
rules of their own: tables about code belong to the function, line numbers that
only moved with the source are no change.

Of two packages it says what they replace, share, import and were made from that
the other does not, or differently: a function by the digests of its old code
and of the replacement with all that it leads to. The exit code is 0 then.

Examples:
  livepatch diff old.lpatch new.lpatch
  livepatch diff server.before.o server.after.o
  livepatch diff --json a.o b.o | jq '.functions[].name'`,
		Action: diffAction,
	}
}

// diffReport is what diff --json prints; docs/diff.md describes it.
type diffReport struct {
	Orig    string `json:"orig"`
	Patched string `json:"patched"`
	*diff.Report
}

func diffAction(c *cli.Context) error {
	args, err := takeArgs(c, 2, 2)
	if err != nil {
		return err
	}
	p := newPrinter(c)
	if packages, err := arePackages(c, args); err != nil {
		return err
	} else if packages {
		return diffPackages(c, p, args)
	}
	delta, done, err := compareFiles(args[0], args[1])
	if err != nil {
		return err
	}
	defer done()
	report := delta.Report()
	for _, w := range report.Warnings {
		p.Warn("%s", printable(w))
	}
	if p.json {
		if err := p.JSON(diffReport{args[0], args[1], report}); err != nil {
			return err
		}
	} else {
		var b strings.Builder
		if err := report.Text(&b, p.names); err != nil {
			return err
		}
		p.Printf("%s", b.String())
	}
	return delta.Refusals.Err()
}

// compareFiles compares two object files. done closes them; the delta is of no
// use after that.
func compareFiles(orig, patched string) (delta *diff.Delta, done func(), err error) {
	var opened images
	defer func() {
		if err != nil {
			opened.close()
		}
	}()
	var files []*elfpatch.File
	for _, path := range []string{orig, patched} {
		f, err := opened.open(path)
		if err != nil {
			return nil, nil, err
		}
		files = append(files, f)
	}
	err = image.Guard(func() error {
		rules := kernel.IsObject(files[0]) && kernel.IsObject(files[1])
		delta, err = diff.Compare(files[0], files[1], diff.Options{Name: filepath.Base(orig), Kernel: rules})
		if err != nil {
			err = fmt.Errorf("compare %s with %s: %w", orig, patched, err)
		}
		return err
	})
	return delta, opened.close, err
}
