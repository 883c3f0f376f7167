package report

import "strings"

// A paragraph is a piece of docs/diagnostics.md.
type paragraph struct {
	Label string // "Why", "Remedy", or none
	Spans []span
}

type span struct {
	Code bool
	Text string
}

// paragraphs reads the Markdown that diagnostics.md uses: paragraphs, and code
// between backquotes.
func paragraphs(text string) (out []paragraph) {
	for _, para := range strings.Split(text, "\n\n") {
		para = strings.Join(strings.Fields(para), " ")
		if para == "" {
			continue
		}
		var p paragraph
		for _, label := range []string{"Why", "Remedy"} {
			if rest, ok := strings.CutPrefix(para, label+": "); ok {
				p.Label, para = label, rest
			}
		}
		for i, s := range strings.Split(para, "`") {
			if s != "" {
				p.Spans = append(p.Spans, span{i%2 == 1, s})
			}
		}
		out = append(out, p)
	}
	return out
}
