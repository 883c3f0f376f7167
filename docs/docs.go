// Package docs holds the documents that the program itself shows.
package docs

import (
	_ "embed"
	"strings"
)

//go:embed diagnostics.md
var diagnostics string

// A Diagnostic is the section of diagnostics.md on one refusal code.
type Diagnostic struct {
	Code string `json:"code"`
	Text string `json:"text"` // Markdown, without the heading
}

// Diagnostics returns the sections of diagnostics.md in its order.
func Diagnostics() []Diagnostic {
	var all []Diagnostic
	for _, section := range strings.Split("\n"+diagnostics, "\n### ")[1:] {
		heading, body, _ := strings.Cut(section, "\n")
		body, _, _ = strings.Cut(body, "\n## ") // the next group of codes
		all = append(all, Diagnostic{strings.Trim(heading, "` "), strings.TrimSpace(body)})
	}
	return all
}
