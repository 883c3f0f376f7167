package report

import (
	"strconv"
	"strings"

	"livepatch/internal/srcpatch"
)

// source is a source patch as the page shows it.
type source struct {
	Name           string
	Message        multiline // what stands before the first file: why
	Files          []sourceFile
	Raw            multiline // instead, of what is no patch
	Added, Removed int
}

type sourceFile struct {
	Path, Was      string // Was: another name before
	Note           string // new file, removed
	Open           bool
	Hunks          []sourceHunk
	Added, Removed int
}

type sourceHunk struct {
	Head  string
	Lines []sourceLine
}

type sourceLine struct {
	Class    string // "a" added, "r" removed
	Old, New string // line numbers
	Sign     string
	Text     multiline
}

// maxOpen is how many lines of a file are shown unfolded.
const maxOpen = 400

func newSource(p Patch) source {
	s := source{Name: p.Name}
	patch, err := srcpatch.Parse(p.Name, p.Text)
	if err != nil {
		s.Raw = multiline(p.Text)
		return s
	}
	s.Message = multiline(message(string(p.Text)))
	for i := range patch.Files {
		f := newSourceFile(&patch.Files[i])
		s.Added += f.Added
		s.Removed += f.Removed
		s.Files = append(s.Files, f)
	}
	return s
}

// message is what stands before the changes.
func message(text string) string {
	var kept []string
	for _, line := range strings.SplitAfter(text, "\n") {
		if strings.HasPrefix(line, "diff ") || strings.HasPrefix(line, "--- ") || strings.HasPrefix(line, "Index: ") {
			break
		}
		kept = append(kept, line)
	}
	text = strings.TrimSpace(strings.Join(kept, ""))
	if before, _, ok := strings.Cut(text, "\n---\n"); ok {
		return before // what follows counts lines
	}
	return strings.TrimSuffix(text, "\n---")
}

func newSourceFile(f *srcpatch.File) sourceFile {
	out := sourceFile{Path: f.Path()}
	switch {
	case f.Old == "":
		out.Note = "new file"
	case f.New == "":
		out.Note = "removed"
	case f.Old != f.New:
		out.Was = f.Old
	}
	lines := 0
	for _, h := range f.Hunks {
		lines += len(h.Lines)
		hunk := sourceHunk{Head: "line " + strconv.Itoa(h.New)}
		old, now := h.Old, h.New
		for _, l := range h.Lines {
			x := sourceLine{Text: multiline(strings.TrimRight(l.Text, "\r\n"))}
			if l.Op != '+' {
				x.Old = strconv.Itoa(old)
				old++
			}
			if l.Op != '-' {
				x.New = strconv.Itoa(now)
				now++
			}
			switch l.Op {
			case '+':
				x.Class, x.Sign = "a", "+"
				out.Added++
			case '-':
				x.Class, x.Sign = "r", "−"
				out.Removed++
			}
			hunk.Lines = append(hunk.Lines, x)
		}
		out.Hunks = append(out.Hunks, hunk)
	}
	out.Open = lines <= maxOpen
	return out
}
