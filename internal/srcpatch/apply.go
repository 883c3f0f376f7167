package srcpatch

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// A Tree is the files that patches touch, as they are now and as they were.
type Tree struct {
	read  func(path string) (data []byte, exists bool, err error)
	files map[string]*text
}

// NewTree makes a tree whose files come from read.
func NewTree(read func(path string) (data []byte, exists bool, err error)) *Tree {
	return &Tree{read: read, files: map[string]*text{}}
}

// text is a file in lines. Each line knows which line of the original it is.
type text struct {
	was    []string
	lines  []textLine
	exists bool // now
	before bool // in the original
}

type textLine struct {
	text string
	orig int // from 1; 0: a patch added it
}

// An ApplyError says which part of a patch does not fit the tree.
type ApplyError struct {
	Patch, File string
	Hunk, Of    int // from 1; 0: the file as a whole
	Reason      string
}

func (e *ApplyError) Error() string {
	at := e.Patch + ": " + e.File
	if e.Hunk > 0 {
		at += fmt.Sprintf(": hunk %d of %d", e.Hunk, e.Of)
	}
	return at + ": " + e.Reason
}

// Apply applies a patch to what the patches before it left. An error leaves
// the tree in a state that is of no use.
func (t *Tree) Apply(p *Patch) error {
	for i := range p.Files {
		f := &p.Files[i]
		if err := t.applyFile(p.Name, f); err != nil {
			return err
		}
	}
	return nil
}

func (t *Tree) applyFile(patch string, f *File) error {
	fail := func(format string, args ...any) error {
		return &ApplyError{Patch: patch, File: f.Path(), Reason: fmt.Sprintf(format, args...)}
	}
	name := f.Old
	if name == "" {
		name = f.New
	}
	x, err := t.open(name)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", patch, err)
	case f.Old == "" && x.exists && len(x.lines) > 0:
		return fail("it is to be a new file, and the tree has it")
	case f.Old != "" && !x.exists:
		return fail("the tree has no such file")
	}
	if f.rename {
		to, err := t.open(f.New)
		if err != nil {
			return fmt.Errorf("%s: %w", patch, err)
		}
		if to.exists {
			return fail("%s is to be renamed to it, and the tree has it", f.Old)
		}
		to.lines, x.lines, x.exists = x.lines, nil, false
		for i := range to.lines {
			to.lines[i].orig = 0 // they are lines of another file
		}
		x = to
	}
	if err := x.apply(patch, f); err != nil {
		return err
	}
	x.exists = f.New != ""
	if !x.exists && len(x.lines) > 0 {
		return fail("it is to be removed, and the patch leaves %d lines of it", len(x.lines))
	}
	return nil
}

func (t *Tree) open(name string) (*text, error) {
	if x, ok := t.files[name]; ok {
		return x, nil
	}
	data, exists, err := t.read(name)
	if err != nil {
		return nil, err
	}
	x := &text{exists: exists, before: exists, was: splitLines(data)}
	for i, l := range x.was {
		x.lines = append(x.lines, textLine{l, i + 1})
	}
	t.files[name] = x
	return x, nil
}

func splitLines(data []byte) []string {
	lines := strings.SplitAfter(string(data), "\n")
	if n := len(lines); lines[n-1] == "" {
		lines = lines[:n-1]
	}
	return lines
}

// apply applies the hunks of a file from its beginning to its end.
func (x *text) apply(patch string, f *File) error {
	done, shift := 0, 0 // lines that are behind, and how far the file moved
	for i := range f.Hunks {
		h := &f.Hunks[i]
		at := h.Old - 1
		if h.OldLines == 0 {
			at = h.Old // it names the line before
		}
		old, now := h.side('-'), h.side('+')
		pos, ok := x.find(old, at+shift, done)
		if !ok {
			reason := fmt.Sprintf("the file has nothing like its lines %d to %d", h.Old, h.Old+max(h.OldLines-1, 0))
			if len(now) > 0 && x.has(now, h.New-1, 0) {
				reason = "it seems to be applied already"
			}
			return &ApplyError{Patch: patch, File: f.Path(), Hunk: i + 1, Of: len(f.Hunks), Reason: reason}
		}
		shift = pos - at
		var lines []textLine
		k := pos
		for _, l := range h.Lines {
			switch l.Op {
			case ' ':
				lines = append(lines, x.lines[k])
				k++
			case '-':
				k++
			case '+':
				lines = append(lines, textLine{text: l.Text})
			}
		}
		x.lines = slices.Replace(x.lines, pos, k, lines...)
		done = pos + len(lines)
		shift += len(lines) - (k - pos)
	}
	return nil
}

// side is what a hunk has of the old file ('-') or the new one ('+').
func (h *Hunk) side(op byte) (out []string) {
	for _, l := range h.Lines {
		if l.Op == ' ' || l.Op == op {
			out = append(out, l.Text)
		}
	}
	return out
}

// find returns the place nearest to at, not before from, where the file has
// the lines.
func (x *text) find(lines []string, at, from int) (int, bool) {
	last := len(x.lines) - len(lines)
	for off := 0; at-off >= from || at+off <= last; off++ {
		if x.has(lines, at-off, from) {
			return at - off, true
		}
		if x.has(lines, at+off, from) {
			return at + off, true
		}
		if len(lines) == 0 {
			break // nothing says where but the number
		}
	}
	return 0, false
}

func (x *text) has(lines []string, at, from int) bool {
	if at < from || at+len(lines) > len(x.lines) {
		return false
	}
	for i, l := range lines {
		if x.lines[at+i].text != l {
			return false
		}
	}
	return true
}

// A Change is a file that is not what it was.
type Change struct {
	Path           string
	Before, After  []byte
	Existed, Exist bool
	Removed, Added []int // lines, from 1: of Before that are gone, of After that are new
}

// Changes lists what all patches together changed, by path.
func (t *Tree) Changes() (out []Change) {
	for name, x := range t.files {
		c := Change{Path: name, Existed: x.before, Exist: x.exists}
		kept := map[int]bool{}
		for i, l := range x.lines {
			c.After = append(c.After, l.text...)
			if kept[l.orig] = true; l.orig == 0 {
				c.Added = append(c.Added, i+1)
			}
		}
		for i, l := range x.was {
			c.Before = append(c.Before, l...)
			if !kept[i+1] {
				c.Removed = append(c.Removed, i+1)
			}
		}
		if c.Existed != c.Exist || !bytes.Equal(c.Before, c.After) {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b Change) int { return strings.Compare(a.Path, b.Path) })
	return out
}

// Diff is what all patches together changed as one patch without context.
func (t *Tree) Diff() []byte {
	var b bytes.Buffer
	for _, c := range t.Changes() {
		x := t.files[c.Path]
		from, to := "a/"+c.Path, "b/"+c.Path
		if !c.Existed {
			from = "/dev/null"
		}
		if !c.Exist {
			to = "/dev/null"
		}
		fmt.Fprintf(&b, "--- %s\n+++ %s\n", from, to)
		x.writeHunks(&b)
	}
	return b.Bytes()
}

// writeHunks writes each stretch of lines that were removed or added.
func (x *text) writeHunks(b *bytes.Buffer) {
	old, now := 0, 0 // lines that are behind
	for old < len(x.was) || now < len(x.lines) {
		from, to := old, now
		for to < len(x.lines) && x.lines[to].orig == 0 {
			to++
		}
		next := len(x.was) // the next line of the original that is still there
		if to < len(x.lines) {
			next = x.lines[to].orig - 1
		}
		if next > from || to > now {
			fmt.Fprintf(b, "@@ -%s +%s @@\n", hunkRange(from, next-from), hunkRange(now, to-now))
			for _, l := range x.was[from:next] {
				writeLine(b, '-', l)
			}
			for _, l := range x.lines[now:to] {
				writeLine(b, '+', l.text)
			}
		}
		old, now = next, to
		if to < len(x.lines) {
			old, now = old+1, now+1
		}
	}
}

func hunkRange(behind, lines int) string {
	if lines == 0 {
		return fmt.Sprintf("%d,0", behind)
	}
	return fmt.Sprintf("%d,%d", behind+1, lines)
}

func writeLine(b *bytes.Buffer, op byte, line string) {
	b.WriteByte(op)
	b.WriteString(line)
	if !strings.HasSuffix(line, "\n") {
		b.WriteString("\n\\ No newline at end of file\n")
	}
}
