package kbuild

import (
	"fmt"
	"strings"
)

// splitCommand takes apart a command as kbuild saves it: words with quotes as
// the shell has them, and ";" between programs. Anything else that a shell
// would interpret is an error, for no shell sees it here.
func splitCommand(line string) (programs [][]string, err error) {
	var argv []string
	var word strings.Builder
	in := false // a word has begun
	end := func() {
		if in {
			argv = append(argv, word.String())
			word.Reset()
			in = false
		}
	}
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == ' ' || c == '\t':
			end()
		case c == ';':
			end()
			if len(argv) > 0 {
				programs, argv = append(programs, argv), nil
			}
		case c == '\'':
			n := strings.IndexByte(line[i+1:], '\'')
			if n < 0 {
				return nil, fmt.Errorf("a quote is not closed in the command %.200q", line)
			}
			word.WriteString(line[i+1 : i+1+n])
			i, in = i+1+n, true
		case c == '"':
			n := strings.IndexByte(line[i+1:], '"')
			if n < 0 || strings.ContainsAny(line[i+1:i+1+n], "\\$`") {
				return nil, fmt.Errorf("quotes in the command %.200q are not understood", line)
			}
			word.WriteString(line[i+1 : i+1+n])
			i, in = i+1+n, true
		case c == '\\' && i+1 < len(line):
			i++
			word.WriteByte(line[i])
			in = true
		case strings.IndexByte("|&<>()$`*?[\n\r", c) >= 0:
			return nil, fmt.Errorf("the command has %q, which is for a shell: %.200q", c, line)
		default:
			word.WriteByte(c)
			in = true
		}
	}
	end()
	if len(argv) > 0 {
		programs = append(programs, argv)
	}
	if len(programs) == 0 {
		return nil, fmt.Errorf("the command is empty")
	}
	return programs, nil
}

// savedCommand reads the command of an object and the files that it was made
// from out of what kbuild keeps beside it (.NAME.o.cmd).
func savedCommand(text string) (programs [][]string, deps []string, err error) {
	first, rest, _ := strings.Cut(text, "\n")
	name, line, ok := strings.Cut(first, " := ")
	if !ok || !strings.Contains(name, "cmd_") {
		return nil, nil, fmt.Errorf("it does not begin with a command: %.80q", first)
	}
	line = strings.NewReplacer("$(pound)", "#", "$$", "$").Replace(line)
	if programs, err = splitCommand(line); err != nil {
		return nil, nil, err
	}
	for l := range strings.Lines(rest) {
		switch l = strings.TrimSuffix(strings.TrimSpace(l), " \\"); {
		case strings.HasPrefix(l, "source_"):
			_, source, _ := strings.Cut(l, ":= ")
			deps = append(deps, source)
		case l == "" || strings.HasPrefix(l, "$(wildcard") || strings.Contains(l, "deps_"):
		default:
			deps = append(deps, strings.TrimSuffix(l, ":"))
		}
	}
	return programs, deps, nil
}
