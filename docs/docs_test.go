package docs

import (
	"regexp"
	"strings"
	"testing"

	"livepatch/internal/refusal"

	"github.com/google/go-cmp/cmp"
)

// diagnostics.md has one section for every refusal code and no other, in the
// order of the codes.
func TestDiagnosticsHasEveryCode(t *testing.T) {
	var codes, sections []string
	for _, c := range refusal.Codes {
		codes = append(codes, string(c.Code))
	}
	for _, d := range Diagnostics() {
		sections = append(sections, d.Code)
	}
	if d := cmp.Diff(codes, sections); d != "" {
		t.Errorf("sections differ from internal/refusal (-codes +sections)\n%s", d)
	}
}

func TestDiagnosticsSayWhatToDo(t *testing.T) {
	known := map[string]bool{}
	for _, d := range Diagnostics() {
		known[d.Code] = true
	}
	mention := regexp.MustCompile("as for `([a-z-]+)`")
	for _, d := range Diagnostics() {
		first, _, _ := strings.Cut(d.Text, "\n\n")
		if first == "" || strings.HasPrefix(first, "Why:") || !strings.HasSuffix(first, ".") {
			t.Errorf("%s: begins with %q, not with what it means", d.Code, first)
		}
		if !strings.Contains(d.Text, "\n\nRemedy: ") {
			t.Errorf("%s: no remedy", d.Code)
		}
		for _, m := range mention.FindAllStringSubmatch(d.Text, -1) {
			if !known[m[1]] {
				t.Errorf("%s: refers to %s, which is no code", d.Code, m[1])
			}
		}
		if strings.Contains(d.Text, "\n#") {
			t.Errorf("%s: runs into the next heading", d.Code)
		}
	}
}
