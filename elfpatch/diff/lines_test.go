package diff

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"livepatch/elfpatch"
)

const linesPatch = `--- a/fs/proc/meminfo.c	2024-01-01
+++ b/fs/proc/meminfo.c	2024-01-02
@@ -10,4 +10,6 @@ static int show(void)
 ten
+new
+new
 eleven
 twelve
 thirteen
@@ -50,3 +52,1 @@
-fifty
-fifty-one
 fifty-two
diff --git a/mm/slub.c b/mm/slub.c
--- a/mm/slub.c
+++ b/mm/slub.c
@@ -7,0 +8 @@
+new
`

func TestParseLines(t *testing.T) {
	l, err := ParseLines([]byte(linesPatch))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := l.Files["fs/proc/meminfo.c"], []Move{{11, 2}, {51, 1}, {52, 0}}; !slices.Equal(got, want) {
		t.Errorf("meminfo.c: %v, want %v", got, want)
	}
	if got, want := l.Files["mm/slub.c"], []Move{{8, 1}}; !slices.Equal(got, want) {
		t.Errorf("slub.c: %v, want %v", got, want)
	}
	for _, tc := range []struct {
		old, new int64
		file     string
		want     bool
	}{
		{10, 10, "", true}, {11, 13, "", true}, {40, 42, "fs/proc/meminfo.c", true}, {40, 41, "", false}, {52, 52, "", true}, {60, 62, "", false},
		{8, 9, "mm/slub.c", true}, {8, 9, "./mm/slub.c", true}, {7, 8, "mm/slub.c", false}, {8, 9, "slab/slub.c", false}, {40, 42, "include/linux/fs.h", false},
	} {
		if got := l.fits(&claim{old: tc.old, new: tc.new, file: tc.file}, "meminfo.c"); got != tc.want {
			t.Errorf("%d -> %d in %q: %v", tc.old, tc.new, tc.file, got)
		}
	}
	for _, bad := range []string{"@@ -1,2 +1,2\n", "+++ b/x.c\n@@ -1,2 +1,2 @@\n a\n", "+++ b/x.c\n@@ -1 +1 @@\n-a\n-b\n+c\n", "@@ -a +1 @@\n", "@@ -1 +1 @@\n*a\n"} {
		if _, err := ParseLines([]byte(bad)); err == nil {
			t.Errorf("%q is taken for a patch", bad)
		}
	}
}

func FuzzParseLines(f *testing.F) {
	f.Add([]byte(linesPatch))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := ParseLines(b)
		if err != nil {
			return
		}
		for name, moves := range l.Files {
			if name == "" || len(moves) > len(b) {
				t.Errorf("%q: %d moves", name, len(moves))
			}
		}
	})
}

// The patch decides where it is given: what it did not move is a change.
func TestLinesOfPatch(t *testing.T) {
	tool(t, "gcc")
	k := slices.IndexFunc(kernelSources, func(c kernelSource) bool { return c.name == "lines moved" })
	a, b := kernelSources[k].compile(t, "gcc", "x86")
	for _, tc := range []struct {
		by   int // what the patch says; the lines in the source move by 5
		want bool
	}{{5, false}, {4, true}} {
		lines := &LineShift{Files: map[string][]Move{"case.c": {{Line: 50, By: tc.by}}}}
		d, err := Compare(a, b, Options{Kernel: true, Lines: lines})
		if err != nil {
			t.Fatal(err)
		}
		if d.Changed() != tc.want {
			t.Errorf("by %d lines: changed %v\n%s", tc.by, d.Changed(), summary(d))
		}
	}
}

// The line table says what a disassembler says.
func TestLineTable(t *testing.T) {
	for _, cc := range compilers {
		t.Run(cc.name, func(t *testing.T) {
			tool(t, cc.cc)
			for _, flags := range [][]string{{"-g", "-gdwarf-4"}, {"-g", "-gdwarf-5"}, {"-g", "-gdwarf-5", "-ffunction-sections"}} {
				f, _ := compile(t, cc.cc, "c", "int g;\n\nint f(int x)\n{\n\tg = x;\n\treturn g * x;\n}\n#line 5000\nint h(int x) { return g / x; }\n", flags)
				lines := readLines(f)
				if lines == nil {
					t.Fatalf("%v: no line table", flags)
				}
				want := map[string]int64{"f": 4, "h": 5000}
				for _, s := range f.Symbols {
					if w, ok := want[s.Name]; ok {
						delete(want, s.Name)
						if got, ok := lines.at(s.Section, s.Value); !ok || got < w-1 || got > w+1 { // of several rows of a place the last
							t.Errorf("%v: %s is at line %d, want %d", flags, s.Name, got, w)
						}
						if _, ok := lines.at(s.Section, f.Sections[s.Section].Size+100); ok {
							t.Errorf("%v: there is a line behind %s", flags, s.Name)
						}
					}
				}
				if len(want) > 0 {
					t.Errorf("%v: without %v", flags, want)
				}
			}
		})
	}
}

func FuzzLineTable(f *testing.F) {
	base := elfpatch.New(2, 62)
	if _, err := base.Bytes(); err == nil {
		f.Add([]byte(strings.Repeat("\x20\x00\x00\x00\x04\x00", 9)))
	}
	f.Add([]byte{0x30, 0, 0, 0, 4, 0, 18, 0, 0, 0, 1, 1, 1, 0xfb, 14, 13, 0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1, 0, 9, 2, 0, 0, 0, 0, 0, 0, 0, 0, 3, 5, 1, 0x21, 2, 4, 0, 1, 1, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		o := elfpatch.New(1, 62)
		text := o.AddSection(elfpatch.Section{Name: ".text", Type: 1, Flags: 6, Data: make([]byte, 64), Align: 1})
		sec := o.AddSection(elfpatch.Section{Name: ".debug_line", Type: 1, Data: b, Align: 1})
		sym := o.AddSymbol(elfpatch.Symbol{Name: "f", Type: 2, Section: text.Index, Size: 64})
		var rels []elfpatch.Rela
		for i := 0; i+8 <= len(b) && i < 256; i += 3 {
			rels = append(rels, elfpatch.Rela{Offset: uint64(i), Type: 1, Symbol: uint32(sym)})
		}
		if err := o.SetRelocations(sec, rels); err != nil {
			t.Skip("no object with these bytes can be made")
		}
		if l := readLines(o); l != nil {
			n := 0
			for _, rows := range l.rows {
				n += len(rows)
			}
			if n > len(b) {
				t.Errorf("%d rows from %d bytes", n, len(b))
			}
			l.at(text.Index, 7)
		}
	})
}

// A function that passes its file several times keeps the name in a register. The
// last function is no such case: what it passes is a file only sometimes.
func TestLinesBesideRegister(t *testing.T) {
	const source = `
extern char *copy(const char *, const char *file, int line);
extern void drop(char *, const char *file, int line), seen(const char *file, int line, const char *func), fail(int);
#line %d "case.c"
int set(char **p, const char *s)
{
	char *d = 0;
	if (s) {
		d = copy(s, __FILE__, __LINE__);
		if (!d) {
			seen(__FILE__, __LINE__, __func__);
			fail(7);
			return 0;
		}
	}
	drop(*p, __FILE__, __LINE__);
	*p = d;
	return 1;
}
void other(char **p, const char *s, int n)
{
	const char *name = s;
	while (n--) {
		drop(p[n], name, %d);
		name = __FILE__;
		fail(n);
	}
	drop(*p, name, 3);
}
`
	for _, cc := range compilers {
		t.Run(cc.name, func(t *testing.T) {
			tool(t, cc.cc)
			version := func(line, number int) *elfpatch.File {
				f, _ := compile(t, cc.cc, "c", fmt.Sprintf(source, line, number), []string{"-O2", "-fPIC", "-ffunction-sections"})
				return f
			}
			a := version(100, 500)
			for _, tc := range []struct {
				line, number, by int // of the other version, and what the patch says
				want             string
			}{
				{106, 500, 6, ""}, {106, 500, 5, "set"}, {106, 506, 6, "other"}, {100, 506, 6, "other"},
			} {
				lines := &LineShift{Files: map[string][]Move{"case.c": {{Line: 50, By: tc.by}}}}
				d, err := Compare(a, version(tc.line, tc.number), Options{Lines: lines})
				if err != nil {
					t.Fatal(err)
				}
				var changed []string
				for _, f := range d.Funcs {
					if f.Status != Same {
						changed = append(changed, f.Name)
					}
				}
				if got := strings.Join(changed, " "); got != tc.want {
					t.Errorf("moved to %d, number %d, a patch that moves by %d: changed %q, want %q", tc.line, tc.number, tc.by, got, tc.want)
				}
			}
		})
	}
}
