// Package srcpatch reads source patches (unified diffs, git's too) and applies
// them to files in memory. It is strict: context has to agree to the byte, only
// its line may be another one, for a patch that goes on at a wrong place makes
// a wrong fix.
package srcpatch

import (
	"bytes"
	"fmt"
	"path"
	"strconv"
	"strings"
	"unicode"

	"livepatch/internal/refusal"
)

// A Patch is one file of changes.
type Patch struct {
	Name  string // for messages
	Files []File
}

// A File is what a patch does to one file of the tree.
type File struct {
	Old, New string // path below the tree, without the first directory; "" where there is none
	Hunks    []Hunk
	line     int  // of the patch
	rename   bool // git says so; without that two names are one file
}

// Path is the name by which messages call the file.
func (f *File) Path() string {
	if f.New != "" {
		return f.New
	}
	return f.Old
}

// A Hunk is one place of a file.
type Hunk struct {
	Old, OldLines int // first line, from 1, and how many
	New, NewLines int
	Lines         []Line
}

// A Line of a hunk: Op is ' ', '-' or '+'. The text has its newline, if the
// file has.
type Line struct {
	Op   byte
	Text string
}

// maxLines bounds the lines of a patch.
const maxLines = 1 << 22

// Parse reads a patch. Its paths lose the first directory, as with patch -p1.
// A path that leaves the tree is a refusal.
func Parse(name string, data []byte) (*Patch, error) {
	p := &parser{name: name, lines: strings.SplitAfter(string(data), "\n")}
	if n := len(p.lines); p.lines[n-1] == "" {
		p.lines = p.lines[:n-1]
	}
	if len(p.lines) > maxLines {
		return nil, fmt.Errorf("%s: it has more than %d lines", name, maxLines)
	}
	if bytes.IndexByte(data, 0) >= 0 {
		return nil, fmt.Errorf("%s: this is no text", name)
	}
	for p.n < len(p.lines) {
		if err := p.next(); err != nil {
			return nil, err
		}
	}
	out := &Patch{Name: name}
	for _, f := range p.files {
		if len(f.Hunks) == 0 && f.Old == f.New {
			continue // git's header of a change of modes
		}
		if f.rename && (f.Old == "" || f.New == "") {
			return nil, fmt.Errorf("%s: line %d: a file is renamed, and one of its names is missing", name, f.line)
		}
		out.Files = append(out.Files, f)
	}
	if len(out.Files) == 0 {
		return nil, fmt.Errorf("%s: this is no unified diff: it changes no file", name)
	}
	return out, nil
}

type parser struct {
	name  string
	lines []string
	n     int // the next line
	files []File
	git   bool // the last file began with git's header and has no names of its own yet
}

func (p *parser) errorf(format string, args ...any) error {
	return fmt.Errorf("%s: line %d: %s", p.name, p.n+1, fmt.Sprintf(format, args...))
}

func (p *parser) last() *File { return &p.files[len(p.files)-1] }

// next reads a line that is in no hunk, with what belongs to it.
func (p *parser) next() error {
	line := strings.TrimRight(p.lines[p.n], "\r\n")
	switch {
	case strings.HasPrefix(line, "diff --git "):
		p.files = append(p.files, File{line: p.n + 1})
		p.git = true
	case p.git && strings.HasPrefix(line, "rename from "), p.git && strings.HasPrefix(line, "rename to "):
		return p.rename(line)
	case p.git && strings.HasPrefix(line, "copy from "), strings.HasPrefix(line, "GIT binary patch"),
		strings.HasPrefix(line, "Binary files ") && strings.HasSuffix(line, " differ"):
		return p.errorf("copies and binary changes cannot be applied")
	case p.git && (strings.HasPrefix(line, "new file mode ") || strings.HasPrefix(line, "new mode ")) && !strings.Contains(line, "mode 100"):
		return p.errorf("%q: only regular files can be patched", line)
	case strings.HasPrefix(line, "--- ") && p.n+1 < len(p.lines) && strings.HasPrefix(p.lines[p.n+1], "+++ "):
		return p.names()
	case strings.HasPrefix(line, "@@ -"):
		return p.hunk(line)
	}
	p.n++
	return nil
}

func (p *parser) rename(line string) error {
	f := p.last()
	f.rename = true
	name, old := strings.CutPrefix(line, "rename from ")
	name = strings.TrimPrefix(name, "rename to ")
	if err := p.checkPath(name); err != nil {
		return err
	}
	if old {
		f.Old = name
	} else {
		f.New = name
	}
	p.n++
	return nil
}

// names reads the two lines "--- a/FILE" and "+++ b/FILE".
func (p *parser) names() (err error) {
	if !p.git {
		p.files = append(p.files, File{line: p.n + 1})
	}
	p.git = false
	f := p.last()
	was := *f
	if f.Old, err = p.path(p.lines[p.n][4:]); err != nil {
		return err
	}
	p.n++
	if f.New, err = p.path(p.lines[p.n][4:]); err != nil {
		return err
	}
	switch {
	case f.Old == "" && f.New == "":
		return p.errorf("it has no file before and none after")
	case was.rename && (was.Old != f.Old || was.New != f.New):
		return p.errorf("the names of a renamed file contradict each other")
	case f.Old != f.New && f.Old != "" && f.New != "" && !f.rename:
		f.Old = f.New // "--- a/f.c.orig", "+++ b/f.c"
	}
	p.n++
	return nil
}

// path reads the name of a file; "" for /dev/null.
func (p *parser) path(text string) (string, error) {
	text = strings.TrimRight(text, "\r\n")
	if strings.HasPrefix(text, `"`) {
		s, err := strconv.Unquote(text)
		if err != nil {
			return "", p.errorf("%s is no name of a file", text)
		}
		text = s
	} else {
		text, _, _ = strings.Cut(text, "\t") // the time
		text = strings.TrimRight(text, " ")
	}
	if text == "/dev/null" {
		return "", nil
	}
	if path.IsAbs(text) {
		return "", p.leaves(text, "is absolute")
	}
	_, name, ok := strings.Cut(text, "/")
	if !ok {
		return "", p.errorf("%q has no directory to leave out: names begin with a/ and b/, as those of git", text)
	}
	return name, p.checkPath(name)
}

func (p *parser) leaves(name, why string) error {
	return refusal.New(refusal.PatchPath, p.name, "line %d: the path %q %s", p.n+1, name, why)
}

// checkPath refuses what is not plainly a path below the tree.
func (p *parser) checkPath(name string) error {
	switch {
	case path.IsAbs(name):
		return p.leaves(name, "is absolute")
	case name == ".." || strings.HasPrefix(name, "../") || strings.Contains(name, "/../") || strings.HasSuffix(name, "/.."):
		return p.leaves(name, "leads out of the tree")
	case name == "" || path.Clean(name) != name || strings.TrimSpace(name) != name || strings.ContainsFunc(name, unicode.IsControl) || strings.Contains(name, `\`):
		return p.leaves(name, "is not the plain name of a file")
	case name == ".git" || strings.HasPrefix(name, ".git/"):
		return p.leaves(name, "is no source file")
	}
	return nil
}

// hunk reads a hunk with its lines.
func (p *parser) hunk(head string) error {
	if len(p.files) == 0 || p.git {
		return p.errorf("a hunk without the names of its file (--- and +++)")
	}
	h, ok := parseHead(head)
	if !ok {
		return p.errorf("%q is no head of a hunk", head)
	}
	oldLeft, newLeft := h.OldLines, h.NewLines
	for p.n++; oldLeft > 0 || newLeft > 0; p.n++ {
		if p.n >= len(p.lines) {
			return fmt.Errorf("%s: it ends within a hunk", p.name)
		}
		op, text := byte(' '), p.lines[p.n]
		if strings.TrimRight(text, "\r\n") != "" { // some mailers cut the space of an empty line
			op, text = text[0], text[1:]
		}
		switch op {
		case ' ':
			oldLeft, newLeft = oldLeft-1, newLeft-1
		case '-':
			oldLeft--
		case '+':
			newLeft--
		case '\\':
			if !h.noNewline() {
				return p.errorf("it is in a hunk and is none of its lines")
			}
			continue
		default:
			return p.errorf("it is in a hunk and is none of its lines")
		}
		if oldLeft < 0 || newLeft < 0 {
			return p.errorf("the hunk has more lines than it says")
		}
		h.Lines = append(h.Lines, Line{op, text})
	}
	if p.n < len(p.lines) && strings.HasPrefix(p.lines[p.n], `\`) {
		h.noNewline()
		p.n++
	}
	f := p.last()
	f.Hunks = append(f.Hunks, h)
	return nil
}

// noNewline takes "\ No newline at end of file" for the line before it.
func (h *Hunk) noNewline() bool {
	if len(h.Lines) == 0 {
		return false
	}
	l := &h.Lines[len(h.Lines)-1]
	l.Text = strings.TrimSuffix(l.Text, "\n")
	return true
}

// parseHead reads "@@ -old,lines +new,lines @@ anything".
func parseHead(head string) (h Hunk, ok bool) {
	fields := strings.Fields(head)
	if len(fields) < 4 || fields[0] != "@@" || !strings.HasPrefix(fields[3], "@@") {
		return h, false
	}
	var ok2 bool
	h.Old, h.OldLines, ok = parseRange(fields[1], "-")
	h.New, h.NewLines, ok2 = parseRange(fields[2], "+")
	return h, ok && ok2 && h.OldLines+h.NewLines > 0
}

func parseRange(text, sign string) (from, lines int, ok bool) {
	text, ok = strings.CutPrefix(text, sign)
	first, rest, many := strings.Cut(text, ",")
	from, err := strconv.Atoi(first)
	lines = 1
	if many && err == nil {
		lines, err = strconv.Atoi(rest)
	}
	return from, lines, ok && err == nil && from >= 0 && lines >= 0 && from <= maxLines && lines <= maxLines
}
