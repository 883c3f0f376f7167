package main

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"livepatch/docs"
	"livepatch/internal/build"
	"livepatch/internal/image"
	"livepatch/internal/pack"
	"livepatch/internal/refusal"
	"livepatch/internal/report"
	"livepatch/internal/sign"
)

func reportFlag() cli.Flag {
	return &cli.StringFlag{Name: "report", Usage: "page for reviewers to write too, one HTML `FILE`; of a refused patch as well"}
}

// checkReport refuses a page in the place of the package.
func checkReport(c *cli.Context) error {
	if page := c.String("report"); page != "" && filepath.Clean(page) == filepath.Clean(c.String("output")) {
		return hintHelp(usageErrorf("--report %s is the package file", page), c.Command)
	}
	return nil
}

// making reads the options of all commands that make packages: what is allowed, of
// codes that the command refuses for, and the key to sign with. It checks the name
// and where the page goes.
func making(c *cli.Context, never []refusal.Code) (allow []refusal.Code, key sign.PrivateKey, err error) {
	if err = checkName(c); err != nil {
		return nil, key, err
	}
	if allow, err = allowed(c.StringSlice("allow"), never...); err != nil {
		return nil, key, hintHelp(err, c.Command)
	}
	if key, err = signingKey(c); err != nil {
		return nil, key, err
	}
	return allow, key, checkReport(c)
}

// makePackage runs the pipeline and writes the package and the page, both or
// none; of a refused patch the page alone. The sources are those of the patch,
// for the page.
func makePackage(c *cli.Context, p *printer, in build.Inputs, key sign.PrivateKey, sources []string) error {
	result, data, err := runBuild(in, key)
	if errors.Is(err, build.ErrNothingToPatch) {
		p.Note("%v", err)
		return statusError(exitNothing)
	}
	if errors.Is(err, build.ErrSharedFlavour) {
		return hinted(err, "add --flavour direct")
	}
	page := report.Input{Name: in.Name, Record: in.Record, Result: result}
	if err != nil {
		return reportRefused(c, p, page, sources, err)
	}
	page.File = data
	if err := writeReport(c, page, sources); err != nil {
		return err
	}
	if err := writeFile(c.String("output"), data); err != nil {
		if path := c.String("report"); path != "" {
			os.Remove(path) // it says that there is a package
		}
		return err
	}
	return printCreated(p, c.String("output"), result, data)
}

// reportRefused writes the page of a refused patch and returns the error that
// it was refused with; of other errors there is nothing to show.
func reportRefused(c *cli.Context, p *printer, page report.Input, sources []string, refused error) error {
	if errors.As(refused, &page.Refusals) {
		// That the page is missing too matters less than what was refused.
		if err := writeReport(c, page, sources); err != nil {
			p.Warn("%v", err)
		}
	}
	return refused
}

// writeReport writes the page that --report asks for.
func writeReport(c *cli.Context, in report.Input, sources []string) error {
	path := c.String("report")
	if path == "" {
		return nil
	}
	for _, file := range sources {
		text, err := readFile(file)
		if err != nil {
			return err
		}
		in.Patches = append(in.Patches, report.Patch{Name: filepath.Base(file), Text: text})
	}
	in.Version, in.Remedy = version, diagnosticText
	var page []byte
	err := image.Guard(func() (err error) {
		page, err = report.HTML(in)
		return err
	})
	if err != nil {
		return err
	}
	return writeFile(path, page)
}

// inspectReport writes the page of a package of which nothing else is there.
func inspectReport(c *cli.Context, pkg *pack.Package, data []byte) error {
	return writeReport(c, report.Input{Result: &build.Result{Package: pkg}, File: data}, nil)
}

// diagnosticText is the section of docs/diagnostics.md on a code.
func diagnosticText(code string) string {
	for _, d := range docs.Diagnostics() {
		if d.Code == code {
			return d.Text
		}
	}
	return ""
}
