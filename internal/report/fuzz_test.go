package report

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"livepatch/internal/build"
	"livepatch/internal/refusal"
	"livepatch/manifest"
)

// FuzzNames: whatever names and patches hold, the page has no more elements
// than that of harmless ones, and no character that hides or turns others.
func FuzzNames(f *testing.F) {
	for _, h := range hostile {
		f.Add(h.text, []byte(h.text))
	}
	f.Add("fix", []byte(patch1))
	f.Add("_ZN3foo3barEv", []byte("--- a/x\n+++ b/x\n@@ -1 +1 @@\n-<b>\n+</b>\n\\ No newline at end of file\n"))
	page := func(t *testing.T, name, text string) []byte {
		out, err := HTML(Input{
			Name: name, Version: name, Refusals: refusal.List{{Code: refusal.Code(name), Where: text, Text: name}},
			Result: &build.Result{}, Remedy: func(string) string { return text },
			Record: &manifest.Build{Description: name, CVE: []string{name}, Units: []manifest.Unit{{Source: name, Flags: []string{text}}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	f.Fuzz(func(t *testing.T, name string, text []byte) {
		source := newSource(Patch{name, text})
		scrub(&source)
		for _, out := range [][]byte{page(t, name, string(text)), []byte(source.Message), []byte(source.Raw)} {
			if !utf8.Valid(out) {
				t.Error("the page is not UTF-8")
			}
			for _, r := range string(out) {
				if hidden(r) && r != '\n' && r != '\t' {
					t.Errorf("the page has %U", r)
				}
			}
		}
		// Letters for the fuzzed text: whatever escapes its place shows as more tags.
		letters := func(s string) string { return strings.Repeat("x", len(s)) }
		have := page(t, name, "x")
		if want := page(t, letters(name), "x"); name != "" && readable(name) == name && bytes.Count(have, []byte("<")) != bytes.Count(want, []byte("<")) {
			t.Errorf("the name %q makes elements", name)
		}
	})
}
