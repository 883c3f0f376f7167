package kbuild

import (
	"bytes"
	"iter"
)

// A cToken is a name, a number or a sign of C source.
type cToken struct {
	text  string
	line  int  // from 1
	first bool // it is at the beginning of its line
}

// cTokens yields the tokens of C source without comments, strings and
// directives.
func cTokens(text []byte) iter.Seq[cToken] {
	return func(yield func(cToken) bool) {
		line, start := 1, true // start: only white space so far on the line
		for i := 0; i < len(text); {
			n := 1
			c := text[i]
			switch {
			case c == '\n', c == ' ', c == '\t', c == '\r', c == '\f':
			case c == '#' && start:
				n = directive(text[i:])
			case bytes.HasPrefix(text[i:], []byte("//")):
				n = upTo(text[i:], "\n")
			case bytes.HasPrefix(text[i:], []byte("/*")):
				n = 2 + upTo(text[i+2:], "*/") + 2
			case c == '"' || c == '\'':
				n = quoted(text[i:])
			default:
				for isIdent(c) && i+n < len(text) && isIdent(text[i+n]) {
					n++
				}
				if !yield(cToken{string(text[i : i+n]), line, i == 0 || text[i-1] == '\n'}) {
					return
				}
			}
			n = min(n, len(text)-i)
			start = c == '\n' || start && (c == ' ' || c == '\t')
			line += bytes.Count(text[i:i+n], []byte{'\n'})
			i += n
		}
	}
}

func isIdent(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z'
}

// upTo is how many bytes are before the end of something.
func upTo(text []byte, end string) int {
	if i := bytes.Index(text, []byte(end)); i >= 0 {
		return i
	}
	return len(text)
}

// directive is the length of a line for the preprocessor, with those that
// continue it.
func directive(text []byte) int {
	n := upTo(text, "\n")
	for n < len(text) && bytes.HasSuffix(bytes.TrimSuffix(text[:n], []byte{'\r'}), []byte{'\\'}) {
		n += 1 + upTo(text[n+1:], "\n")
	}
	return n
}

// quoted is the length of a string or character with its quotes. One that does
// not end on its line is taken for a single sign.
func quoted(text []byte) int {
	for i := 1; i < len(text) && text[i] != '\n'; i++ {
		switch text[i] {
		case '\\':
			i++
		case text[0]:
			return i + 1
		}
	}
	return 1
}
