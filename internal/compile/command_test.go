package compile

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestParseCommand(t *testing.T) {
	for _, c := range []struct {
		line, compiler, flags, sources, output string
		kind                                   Kind
	}{
		{"gcc -O2 -c a.c -o a.o", "gcc", "-O2", "a.c", "a.o", KindObject},
		{"gcc -c a.c b.c", "gcc", "", "a.c b.c", "", KindObject},
		{"cc -oa.o -c -MD -MFa.d -MT x -MQ y -MP a.c", "cc", "", "a.c", "a.o", KindObject},
		{"cc -Wp,-MMD,.a.d -c a.c", "cc", "", "a.c", "", KindObject},
		{"ccache /usr/bin/g++ -I inc -include c.h -c x.cc", "/usr/bin/g++", "-I inc -include c.h", "x.cc", "", KindObject},
		{"env A=b nice -n 3 gcc -c x.c", "gcc", "", "x.c", "", KindObject},
		{"gcc -x c -c file.txt", "gcc", "-x c", "file.txt", "", KindObject},
		{"gcc -xc -c file.txt -x none b.o", "gcc", "-xc -x none", "file.txt", "", KindObject},
		{"gcc -x c-header -c a.hh", "gcc", "-x c-header", "", "", KindOther},
		{"gcc -D x.c -c a.S", "gcc", "-D x.c", "a.S", "", KindObject},
		{"gcc a.c b.o -lm -o prog", "gcc", "-lm", "a.c", "prog", KindProgram},
		{"gcc a.o b.o -o prog", "gcc", "", "", "prog", KindOther},
		{"gcc -E a.c", "gcc", "-E", "a.c", "", KindText},
		{"gcc -MM a.c", "gcc", "-MM", "a.c", "", KindText},
		{"gcc -S a.c -o a.s", "gcc", "-S", "a.c", "a.s", KindText},
		{"clang -fsyntax-only a.c", "clang", "-fsyntax-only", "a.c", "", KindText},
		{"gcc -c -xc -", "gcc", "-xc", "", "", KindOther},
		{"gcc --version", "gcc", "--version", "", "", KindOther},
		{"gcc -### -c a.c", "gcc", "-###", "a.c", "", KindOther},
		{"gcc", "gcc", "", "", "", KindOther},
	} {
		cmd, err := ParseCommand(strings.Fields(c.line))
		if err != nil {
			t.Errorf("%s: %v", c.line, err)
			continue
		}
		if cmd.Compiler != c.compiler || strings.Join(cmd.Flags, " ") != c.flags || strings.Join(cmd.Sources, " ") != c.sources ||
			cmd.Output != c.output || cmd.Kind != c.kind {
			t.Errorf("%s: %+v", c.line, *cmd)
		}
	}
	for line, want := range map[string]string{"": "no compiler", "ccache": "no compiler", "nice -n": "no compiler", "gcc -o": "-o of the compiler has no value"} {
		if _, err := ParseCommand(strings.Fields(line)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", line, err, want)
		}
	}
}

func TestEntries(t *testing.T) {
	for line, want := range map[string][]Entry{
		"gcc -O2 -c a.c d/b.c": {
			{Directory: "/w", File: "a.c", Arguments: strings.Fields("gcc -O2 -c -o a.o a.c"), Output: "a.o"},
			{Directory: "/w", File: "d/b.c", Arguments: strings.Fields("gcc -O2 -c -o b.o d/b.c"), Output: "b.o"},
		},
		"gcc -g a.c -o prog": {{Directory: "/w", File: "a.c", Arguments: strings.Fields("gcc -g -c a.c")}},
		"gcc a.o -o prog":    nil,
		"gcc -E a.c":         nil,
	} {
		cmd, err := ParseCommand(strings.Fields(line))
		if err != nil {
			t.Fatal(err)
		}
		got := cmd.Entries("/w")
		if !slices.EqualFunc(got, want, func(a, b Entry) bool {
			return a.Directory == b.Directory && a.File == b.File && a.Output == b.Output && slices.Equal(a.Arguments, b.Arguments)
		}) {
			t.Errorf("%s: %+v", line, got)
		}
	}
}

func TestSplitWords(t *testing.T) {
	for in, want := range map[string][]string{
		``:                          nil,
		` a  b	c` + "\n":            {"a", "b", "c"},
		`-D'x y' -D"a b"c`:          {"-Dx y", "-Da bc"},
		`"-DV=\"1\""`:               {`-DV="1"`},
		`'-DV="1"'`:                 {`-DV="1"`},
		`-DV=\"a\ b\"`:              {`-DV="a b"`},
		`"a\nb" ''`:                 {`a\nb`, ""},
		`"C:\\x"`:                   {`C:\x`},
		`a\` + "\n" + `b 'it'\''s'`: {"a\nb", "it's"},
	} {
		got, err := splitWords(in)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{`"a`, `'a`, `a\`} {
		if got, err := splitWords(in); err == nil {
			t.Errorf("%q: %q without an error", in, got)
		}
	}
}

func TestExpandResponse(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one", "-O2 @two '-DA=b c'")
	write("two", "-c\na.c")
	write("loop", "@loop")
	write("open", "'")
	got, err := ExpandResponse(dir, []string{"gcc", "@one", "@none", "@"})
	if want := []string{"gcc", "-O2", "-c", "a.c", "-DA=b c", "@none", "@"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	for _, arg := range []string{"@loop", "@open", "@" + dir} {
		if got, err := ExpandResponse(dir, []string{arg}); err == nil {
			t.Errorf("%s: %q without an error", arg, got)
		}
	}
}

func TestBehindLibtool(t *testing.T) {
	self := []string{"/bin/livepatch", "cc", "--db", "/d", "--"}
	for line, want := range map[string]string{
		"./libtool --tag=CC --mode=compile gcc -c a.c -o a.lo":     "./libtool --tag=CC --mode=compile /bin/livepatch cc --db /d -- gcc -c a.c -o a.lo",
		"/bin/bash ../libtool --silent --mode=compile g++ -c a.cc": "/bin/bash ../libtool --silent --mode=compile --tag=CXX /bin/livepatch cc --db /d -- g++ -c a.cc",
		"libtool --mode=compile gcc-12 -c a.c":                     "libtool --mode=compile --tag=CC /bin/livepatch cc --db /d -- gcc-12 -c a.c",
		"libtool --mode=link gcc a.lo -o a":                        "",
		"gcc -c a.c":                                               "",
	} {
		if got := strings.Join(behindLibtool(strings.Fields(line), self), " "); got != want {
			t.Errorf("%s:\n%s\nwant %s", line, got, want)
		}
	}
}
