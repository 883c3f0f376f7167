package compile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Limits of what response files may hold; the longest command lines of large
// programs have some ten thousand words.
const (
	maxWords    = 1 << 20
	maxResponse = 64 << 20
	maxNesting  = 16
)

// splitWords splits a command as a shell does that expands nothing: blanks
// separate, quotes and backslashes keep. Compile databases and response files
// are written so.
func splitWords(s string) (words []string, err error) {
	var word strings.Builder
	quote, begun := byte(0), false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quote == '\'' && c == '\'', quote == '"' && c == '"':
			quote = 0
		case quote == '\'':
			word.WriteByte(c)
		case c == '\\':
			if i++; i == len(s) {
				return nil, errors.New("a backslash at the end")
			}
			// Within double quotes a shell keeps it before ordinary characters.
			if quote == '"' && !strings.ContainsRune("\"\\$`\n", rune(s[i])) {
				word.WriteByte('\\')
			}
			word.WriteByte(s[i])
			begun = true
		case quote == 0 && (c == '\'' || c == '"'):
			quote, begun = c, true
		case quote == 0 && (c == ' ' || c == '\t' || c == '\n' || c == '\r'):
			if begun {
				words = append(words, word.String())
				word.Reset()
				begun = false
			}
		default:
			word.WriteByte(c)
			begun = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("a quote %c without its end", quote)
	}
	if begun {
		words = append(words, word.String())
	}
	return words, nil
}

// ExpandResponse replaces each @FILE with the words of the file, as compilers
// do. Names are relative to dir. What names no file stays.
func ExpandResponse(dir string, args []string) ([]string, error) {
	e := responses{dir: dir}
	if err := e.add(args, 0); err != nil {
		return nil, err
	}
	return e.out, nil
}

type responses struct {
	dir   string
	out   []string
	bytes int64
}

func (e *responses) add(args []string, depth int) error {
	for _, arg := range args {
		name, ok := strings.CutPrefix(arg, "@")
		if !ok || name == "" {
			e.out = append(e.out, arg)
			if len(e.out) > maxWords {
				return fmt.Errorf("the command line has more than %d words", maxWords)
			}
			continue
		}
		if !filepath.IsAbs(name) {
			name = filepath.Join(e.dir, name)
		}
		st, err := os.Stat(name)
		if errors.Is(err, os.ErrNotExist) {
			e.out = append(e.out, arg)
			continue
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", arg, err)
		}
		if e.bytes += st.Size(); !st.Mode().IsRegular() || e.bytes > maxResponse || depth == maxNesting {
			return fmt.Errorf("read %s: no regular file, or the response files are longer than %d bytes or more than %d deep", arg, maxResponse, maxNesting)
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return fmt.Errorf("read %s: %w", arg, err)
		}
		words, err := splitWords(string(b))
		if err != nil {
			return fmt.Errorf("read %s: %w", arg, err)
		}
		if err := e.add(words, depth+1); err != nil {
			return err
		}
	}
	return nil
}
