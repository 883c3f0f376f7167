// Package report writes the page that a reviewer reads before a patch is let
// loose: what changed and why, the code before and after, what was proven, what
// will be written where, what was found and allowed, and the whole manifest. It
// is one HTML file that refers to nothing outside of itself. It shows what the
// pipeline found and decides nothing; the same inputs give the same bytes.
package report

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"

	"livepatch/internal/build"
	"livepatch/internal/refusal"
	"livepatch/manifest"
)

// Input is what a page is made from.
type Input struct {
	Name     string              // of the patch
	Version  string              // of livepatch
	Result   *build.Result       // its package may be nil, and so may its parts; nil if nothing is known
	File     []byte              // the package file; nil if none was written
	Patches  []Patch             // source patches, in the order in which they were applied
	Record   *manifest.Build     // how the package was to be made, where there is no package
	Refusals refusal.List        // why there is no package
	Remedy   func(string) string // the text of docs/diagnostics.md on a code; nil for none
}

// Patch is a source patch as it was given.
type Patch struct {
	Name string
	Text []byte
}

//go:embed page.html
var pageHTML string

//go:embed page.css
var pageCSS string

//go:embed page.js
var pageJS string

// HTML returns the page. The error says that a payload of the package cannot be
// read.
func HTML(in Input) ([]byte, error) {
	p, err := newPage(in)
	if err != nil {
		return nil, fmt.Errorf("make the report: %w", err)
	}
	scrub(p)
	// From here on no string of the page has a character that shows as something
	// that it is not; the template escapes what HTML gives a meaning.
	p.Style, p.Script = template.CSS(pageCSS), template.JS(pageJS)
	sum := sha256.Sum256([]byte(pageJS))
	p.Policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	t, err := template.New("page").Parse(pageHTML)
	if err != nil {
		return nil, fmt.Errorf("make the report: %w", err)
	}
	var out bytes.Buffer
	if err := t.Execute(&out, p); err != nil {
		return nil, fmt.Errorf("make the report: %w", err)
	}
	return bytes.TrimLeft(out.Bytes(), "\n"), nil // the definitions before it leave some
}
