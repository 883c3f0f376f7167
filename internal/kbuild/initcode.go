package kbuild

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"livepatch/internal/srcpatch"
)

// initMarks put what they mark into sections that are gone once the kernel or
// the module has started (include/linux/init.h, 6.12). Others do so in some
// configurations only.
var initMarks = []string{"__init", "__initdata", "__initconst"}

// initCode warns of changes in functions and variables that are marked as used
// only while starting. It goes by the text: whether code changes there, only
// the compiler can say, and then it is refused.
func initCode(changes []srcpatch.Change) (notes []string) {
	for _, c := range changes {
		var names []string
		for _, side := range []struct {
			text  []byte
			lines []int
		}{{c.Before, c.Removed}, {c.After, c.Added}} {
			for _, d := range definitions(side.text) {
				if d.mark != "" && !slices.Contains(names, d.name) && d.touched(side.text, side.lines) {
					names = append(names, d.name)
					notes = append(notes, fmt.Sprintf("%s: %s is marked %s: it is used only while starting, and a change of it will be refused", c.Path, d.name, d.mark))
				}
			}
		}
	}
	return notes
}

// A definition is a function, variable or type of C source.
type definition struct {
	name     string
	mark     string // one of initMarks, "" without
	from, to int    // its lines, from 1
}

// touched reports whether one of the lines is of the definition and not empty.
func (d *definition) touched(text []byte, lines []int) bool {
	all := bytes.Split(text, []byte{'\n'})
	return slices.ContainsFunc(lines, func(n int) bool {
		return n >= d.from && n <= d.to && len(bytes.TrimSpace(all[n-1])) > 0
	})
}

// definitions splits C source into what is defined and declared at its top
// level. Macros stay as they are written, and of #if all branches are read: a
// brace at the beginning of a line ends what it stands in.
func definitions(text []byte) (out []definition) {
	var head []string // tokens of the definition, to its body or value
	from, depth := 0, 0
	whole := false // head is all of it
	end := func(line int) {
		if len(head) > 0 {
			out = append(out, definition{definedName(head), initMark(head), from, line})
		}
		head, whole, depth = nil, false, 0
	}
	for t := range cTokens(text) {
		switch {
		case t.text == "}" && t.first:
			depth = 0
		case t.text == "{":
			depth++
			whole = true
		case t.text == "}":
			depth = max(depth-1, 0)
		case t.text == "=":
			whole = true
		case t.text == ";" && depth == 0:
			end(t.line)
		case !whole:
			if len(head) == 0 {
				from = t.line
			}
			head = append(head, t.text)
		}
		if t.text == "}" && depth == 0 {
			end(t.line)
		}
	}
	return out
}

func initMark(head []string) string {
	for _, w := range head {
		if slices.Contains(initMarks, w) {
			return w
		}
	}
	return ""
}

// definedName is the name in a head: before the parameters, or before what says
// how many there are, or the last one. Names that begin with "__" are
// attributes, perhaps with arguments.
func definedName(head []string) string {
	name, attribute, inside := head[0], false, 0
	for i, w := range head {
		pointer := w == "(" && i+1 < len(head) && head[i+1] == "*"
		switch {
		case w == "(" && (attribute || inside > 0):
			inside++
		case w == ")" && inside > 0:
			inside--
		case inside > 0:
		case (w == "(" && !pointer || w == "[") && i > 0:
			return name
		case isIdent(w[0]) && !strings.HasPrefix(w, "__"):
			name = w
		}
		attribute = strings.HasPrefix(w, "__")
	}
	return name
}
