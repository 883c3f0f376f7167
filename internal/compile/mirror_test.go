package compile

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"livepatch/internal/testkit"
)

func TestReplacePaths(t *testing.T) {
	for in, want := range map[string]string{
		"/s/src":                     "M/s/src",
		"-I/s/src/inc":               "-IM/s/src/inc",
		"-ffile-prefix-map=/s/src=.": "-ffile-prefix-map=M/s/src=.",
		"-DX=\"/s/src/x\"":           "-DX=\"M/s/src/x\"",
		"-Wl,/s/src,/s/src/a":        "-Wl,M/s/src,M/s/src/a",
		"/s/srcs":                    "/s/srcs",
		"/t/s/src":                   "/t/s/src",
		"../s/src":                   "../s/src",
		"-I/opt/s/src -I/s/src":      "-I/opt/s/src -IM/s/src",
		"/s/src/s/src":               "M/s/src/s/src",
		"":                           "",
	} {
		if got := replacePaths(in, "/s/src", "M/s/src"); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

// What is read through the mirror is of the mirror, and nothing is written
// through it.
func TestMirror(t *testing.T) {
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	for name, text := range map[string]string{"src/a.c": "a", "inc/a.h": "h", ".git/x": "x", "src/.git": "is a file"} {
		testkit.Run(t, "mkdir", "-p", filepath.Join(tree, filepath.Dir(name)))
		if err := os.WriteFile(filepath.Join(tree, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	links := map[string]string{"src/rel.h": "../inc/a.h", "src/abs.h": filepath.Join(tree, "inc/a.h"), "src/out": "/etc/hostname", "lib": "inc", "up": "../../elsewhere"}
	for name, to := range links {
		if err := os.Symlink(to, filepath.Join(tree, name)); err != nil {
			t.Fatal(err)
		}
	}
	scratch := filepath.Join(dir, "scratch")
	m, err := newMirror(context.Background(), scratch, []string{tree, filepath.Join(tree, "src")})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.replace(filepath.Join(tree, "inc/a.h"), []byte("new"), true); err != nil {
		t.Fatal(err)
	}
	if err := m.replace(filepath.Join(tree, "src/b.c"), []byte("b"), true); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"src/a.c": "a", "src/rel.h": "new", "src/abs.h": "new", "lib/a.h": "new", "src/../lib/../inc/a.h": "new", "src/b.c": "b"} {
		if got := string(testkit.Read(t, m.in(filepath.Join(tree, name)))); got != want {
			t.Errorf("%s is %q in the mirror, want %q", name, got, want)
		}
	}
	if got := string(testkit.Read(t, filepath.Join(tree, "inc/a.h"))); got != "h" {
		t.Errorf("the tree was changed: %q", got)
	}
	for _, name := range []string{".git", "src/b.c"} {
		where := m.in(filepath.Join(tree, name))
		if name == "src/b.c" {
			where = filepath.Join(tree, name)
		}
		if _, err := os.Lstat(where); err == nil {
			t.Errorf("%s is there", where)
		}
	}
	if got := m.out(m.in("/x/y")); got != "/x/y" || m.out("/x/y") != "/x/y" {
		t.Errorf("out of the mirror: %s", got)
	}
	if len(m.roots) != 1 {
		t.Errorf("roots %q: one is in the other", m.roots)
	}
}

func TestFlags(t *testing.T) {
	f := strings.Fields
	if got, want := usable(f("-O2 -save-temps=obj -dumpbase x -gsplit-dwarf -I inc -fstack-usage -g")), f("-O2 -I inc -g"); !slices.Equal(got, want) {
		t.Errorf("usable: %q, want %q", got, want)
	}
	for flags, want := range map[string][3]bool{ // link time, profile, debug
		"-O2":                            {},
		"-flto -g":                       {true, false, true},
		"-flto=auto -fno-lto":            {},
		"-fprofile-use=x -ggdb3":         {false, true, true},
		"-fprofile-use -fno-profile-use": {},
		"-g -g0":                         {},
	} {
		if got := [3]bool{linkTime(f(flags)), profiled(f(flags)), hasDebug(f(flags))}; got != want {
			t.Errorf("%s: %v, want %v", flags, got, want)
		}
	}
	got := recorded("/h/src", f("-O2 -I/h/src/inc -I/h/deps -isystem /opt/x -isystem /h/src/y -DA=/h/src/z -ffile-prefix-map=/h/src=. -fdebug-prefix-map=/h/b=x -include c.h"))
	if want := f("-O2 -I./inc -isystem ./y -DA=./z -ffile-prefix-map=.=. -include c.h"); !slices.Equal(got, want) {
		t.Errorf("recorded: %q, want %q", got, want)
	}
	m := &mirror{scratch: "/m", roots: []string{"/h/src"}}
	if got, want := m.anchored("/h/src/b", f("-I../inc -I../../dep -include ../../c.h -I /abs -B.")), f("-I../inc -I/h/dep -include /h/c.h -I /abs -B."); !slices.Equal(got, want) {
		t.Errorf("anchored: %q, want %q", got, want)
	}
}

func TestDependencies(t *testing.T) {
	got := dependencies("x: a.c /usr/include/b.h \\\n  with\\ blank.h \\\n c$$d.h e\\#f.h\n")
	if want := []string{"a.c", "/usr/include/b.h", "with blank.h", "c$d.h", "e#f.h"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := dependencies("nothing"); got != nil {
		t.Errorf("%q of no rule", got)
	}
}

func TestIncluders(t *testing.T) {
	dir := t.TempDir()
	var files []string
	for name, text := range map[string]string{
		"direct.c": "#include \"touched.h\"\n", "through.c": " # include <x/middle.h>\n", "middle.h": "#include <touched.h>\n",
		"computed.c": "#include HEADER\n", "none.c": "#include <stdio.h>\n// #include touched.h\n", "object.o": "#include \"touched.h\"\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, path)
	}
	var got []string
	for path := range includers(files, map[string]bool{"touched.h": true}) {
		got = append(got, filepath.Base(path))
	}
	slices.Sort(got)
	if want := []string{"computed.c", "direct.c", "middle.h", "through.c"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
