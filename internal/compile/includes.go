package compile

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// includeLine is a line that includes a file; what is no name in quotes or
// brackets is a macro.
var includeLine = regexp.MustCompile(`(?m)^[ \t]*#[ \t]*(?:include|include_next|import)[ \t]*([<"][^>"\n]+[>"]|[A-Za-z_].*)`)

// maxScan bounds the files in which includes are looked for.
const maxScan = 8 << 20

// includers tells which files may include, directly or through others, a file
// of one of the names. It goes by the last element of names and takes computed
// includes for any, so it names too many files, never too few.
func includers(files []string, names map[string]bool) map[string]bool {
	type scanned struct {
		path, base string
		includes   []string
		any        bool
	}
	var all []scanned
	for _, path := range files {
		if !mayInclude(path) {
			continue
		}
		st, err := os.Stat(path)
		if err != nil || st.Size() > maxScan {
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil || bytes.IndexByte(b[:min(len(b), 512)], 0) >= 0 {
			continue
		}
		f := scanned{path: path, base: filepath.Base(path)}
		for _, m := range includeLine.FindAllSubmatch(b, -1) {
			if text := string(m[1]); text[0] == '<' || text[0] == '"' {
				f.includes = append(f.includes, filepath.Base(text[1:len(text)-1]))
			} else {
				f.any = true
			}
		}
		all = append(all, f)
	}
	reached := map[string]bool{}
	for n := range names {
		reached[n] = true
	}
	out := map[string]bool{}
	for grew := true; grew; {
		grew = false
		for _, f := range all {
			if out[f.path] {
				continue
			}
			hit := f.any
			for _, n := range f.includes {
				hit = hit || reached[n]
			}
			if hit {
				out[f.path], reached[f.base], grew = true, true, true
			}
		}
	}
	return out
}

// mayInclude leaves out what is no text of a program.
func mayInclude(path string) bool {
	switch filepath.Ext(path) {
	case ".o", ".a", ".so", ".lo", ".la", ".d", ".gz", ".xz", ".png", ".pod", ".md", ".txt", ".html", ".po", ".pem", ".json":
		return false
	}
	return true
}

// dependencies reads the rule that a compiler writes for make: the files
// behind the colon.
func dependencies(rule string) (files []string) {
	_, rest, ok := strings.Cut(rule, ":")
	if !ok {
		return nil
	}
	var word strings.Builder
	for i := 0; i <= len(rest); i++ {
		switch {
		case i == len(rest) || rest[i] == ' ' || rest[i] == '\n' || rest[i] == '\t':
			if word.Len() > 0 {
				files = append(files, word.String())
				word.Reset()
			}
		case rest[i] == '\\' && i+1 < len(rest) && (rest[i+1] == '\n' || rest[i+1] == ' ' || rest[i+1] == '#'):
			if i++; rest[i] != '\n' {
				word.WriteByte(rest[i])
			}
		case rest[i] == '$' && i+1 < len(rest) && rest[i+1] == '$':
			i++
			word.WriteByte('$')
		default:
			word.WriteByte(rest[i])
		}
	}
	return files
}
