package diff

import (
	"bytes"
	"fmt"
	"path"
	"strconv"
	"strings"
)

// LineShift says how the lines of source files moved.
type LineShift struct {
	Files map[string][]Move // by the name of the file in the source tree: "fs/proc/meminfo.c"
}

// A Move is a stretch of a file that the patch moved: it begins at Line of the
// original and goes on to the next Move.
type Move struct {
	Line int // in the original, from 1
	By   int // lines
}

// ParseLines reads from a unified diff how lines moved. Of the names of a file
// the one behind "+++" counts, without its first directory ("b/").
func ParseLines(patch []byte) (*LineShift, error) {
	l := &LineShift{Files: map[string][]Move{}}
	file := ""
	var old, left, left2 int // line of the original, and what is left of the hunk
	by := 0
	lines := bytes.Split(bytes.TrimSuffix(patch, []byte{'\n'}), []byte{'\n'})
	for n, line := range lines {
		text := strings.TrimSuffix(string(line), "\r")
		if left > 0 || left2 > 0 {
			switch {
			case strings.HasPrefix(text, "+"):
				by++
				left2--
				l.move(file, old, by)
			case strings.HasPrefix(text, "-"):
				by--
				old++
				left--
				l.move(file, old, by)
			case strings.HasPrefix(text, "\\"):
			case text == "" || text[0] == ' ':
				old++
				left--
				left2--
			default:
				return nil, fmt.Errorf("patch: line %d: it is in a hunk and is none of its lines", n+1)
			}
			if left < 0 || left2 < 0 {
				return nil, fmt.Errorf("patch: line %d: the hunk has more lines than it says", n+1)
			}
			continue
		}
		if name, ok := strings.CutPrefix(text, "+++ "); ok {
			name, _, _ = strings.Cut(name, "\t")
			_, rest, ok := strings.Cut(strings.TrimSpace(name), "/")
			if file, by = rest, 0; !ok {
				file = ""
			}
			continue
		}
		if !strings.HasPrefix(text, "@@ -") {
			continue
		}
		var err error
		if old, left, left2, err = hunk(text); err != nil {
			return nil, fmt.Errorf("patch: line %d: %w", n+1, err)
		}
	}
	if left > 0 || left2 > 0 {
		return nil, fmt.Errorf("patch: it ends within a hunk")
	}
	return l, nil
}

// move notes that from a line on a file is so many lines farther down.
func (l *LineShift) move(file string, line, by int) {
	if file == "" {
		return
	}
	moves := l.Files[file]
	if n := len(moves); n > 0 && moves[n-1].Line == line {
		moves[n-1].By = by
		return
	}
	l.Files[file] = append(moves, Move{line, by})
}

// hunk reads "@@ -from,lines +from,lines @@".
func hunk(text string) (from, left, left2 int, err error) {
	fields := strings.Fields(text)
	if len(fields) < 4 || fields[3] != "@@" {
		return 0, 0, 0, fmt.Errorf("%q is no head of a hunk", text)
	}
	if from, left, err = span(fields[1], "-"); err != nil {
		return 0, 0, 0, err
	}
	_, left2, err = span(fields[2], "+")
	if left == 0 {
		from++ // it names the line before
	}
	return from, left, left2, err
}

func span(text, sign string) (from, lines int, err error) {
	first, rest, found := strings.Cut(strings.TrimPrefix(text, sign), ",")
	from, err = strconv.Atoi(first)
	lines = 1
	if err == nil && found {
		lines, err = strconv.Atoi(rest)
	}
	if err != nil || from < 0 || lines < 0 || from > 1<<30 || lines > 1<<30 {
		return 0, 0, fmt.Errorf("%q is no range of lines", text)
	}
	return from, lines, nil
}

// fits reports whether a claim is what the patch did to its file. main is the
// file of the object, for claims that name none.
func (l *LineShift) fits(x *claim, main string) bool {
	file := x.file
	if file == "" {
		file = main
	}
	if file == "" {
		return false
	}
	for name, moves := range l.Files {
		if !sameFile(name, file) {
			continue
		}
		by := int64(0)
		for _, m := range moves {
			if int64(m.Line) <= x.old {
				by = int64(m.By)
			}
		}
		return x.new-x.old == by
	}
	return false
}

// sameFile reports whether one path ends as the other.
func sameFile(a, b string) bool {
	a, b = path.Clean(a), path.Clean(b)
	if len(a) < len(b) {
		a, b = b, a
	}
	return a == b || strings.HasSuffix(a, "/"+b)
}
