package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/urfave/cli/v2"

	"livepatch/internal/compose"
)

// arePackages tells whether two files are packages. One of them alone cannot be
// compared with the other.
func arePackages(c *cli.Context, paths []string) (bool, error) {
	var yes []bool
	for _, path := range paths {
		is, err := isArchive(path)
		if err != nil {
			return false, err
		}
		yes = append(yes, is)
	}
	if yes[0] != yes[1] {
		a, b := paths[0], paths[1]
		if yes[1] {
			a, b = b, a
		}
		return false, hintHelp(usageErrorf("%s is a package and %s is none: give two packages or two objects", a, b), c.Command)
	}
	return yes[0], nil
}

// isArchive reports a file that begins as a package does, damaged or not.
func isArchive(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, fmt.Errorf("read %s: %w", path, bare(err))
	}
	defer f.Close()
	head := make([]byte, 263) // up to the magic number of ustar
	switch n, err := io.ReadFull(f, head); {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		head = head[:n]
	case err != nil:
		return false, fmt.Errorf("read %s: %w", path, bare(err))
	}
	return bytes.HasPrefix(head, []byte("manifest.json\x00")) && bytes.HasSuffix(head, []byte("ustar\x00")), nil
}

// packageDiff is what diff --json prints of two packages.
type packageDiff struct {
	A       string           `json:"a"`
	B       string           `json:"b"`
	Same    bool             `json:"same"` // byte for byte
	Changes []compose.Change `json:"changes"`
}

func diffPackages(c *cli.Context, p *printer, paths []string) error {
	a, x, err := readPackage(paths[0])
	if err != nil {
		return err
	}
	b, y, err := readPackage(paths[1])
	if err != nil {
		return err
	}
	changes, err := compose.Diff(a, b)
	if err != nil {
		return fmt.Errorf("compare %s with %s: %w", paths[0], paths[1], err)
	}
	d := packageDiff{paths[0], paths[1], bytes.Equal(x, y), changes}
	if p.json {
		return p.JSON(d)
	}
	for _, ch := range d.Changes {
		printPackageChange(p, ch)
	}
	switch {
	case d.Same:
		p.Printf("the packages are the same, byte for byte\n")
	case len(changes) == 0:
		p.Printf("the packages differ in nothing that matters to a target\n")
	default:
		p.Printf("%s\n", plural(len(changes), "difference", "differences"))
	}
	return nil
}

func printPackageChange(p *printer, ch compose.Change) {
	where := ch.What
	if ch.Target != "" {
		where += " " + ch.Target
	}
	if ch.Where != "" {
		where += " " + p.names(ch.Where)
	}
	switch ch.Change {
	case "added":
		p.Printf("%s\n", p.Paint(green, printable("+ "+where+": "+ch.After)))
	case "removed":
		p.Printf("%s\n", p.Paint(red, printable("- "+where+": "+ch.Before)))
	default:
		p.Printf("%s\n", p.Paint(yellow, printable("~ "+where+": "+ch.Before+"  ->  "+ch.After)))
	}
}
