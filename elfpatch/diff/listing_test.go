package diff

import (
	"debug/elf"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"livepatch/elfpatch"
	"livepatch/internal/testkit"
)

// listingText prints a listing, one row a line.
func listingText(rows []Row) string {
	var b strings.Builder
	side := func(l Line) string {
		if l.Text == "" {
			return ""
		}
		return fmt.Sprintf("%02x %s", l.Off, l.Text)
	}
	for _, r := range rows {
		line := fmt.Sprintf("%c %-28s| %s", "=.~-+"[r.Kind], side(r.Old), side(r.New))
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	return b.String()
}

func compared(t *testing.T, orig, patched *elfpatch.File) *Delta {
	t.Helper()
	d, err := Compare(orig, patched, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func find(t *testing.T, d *Delta, name string) Func {
	t.Helper()
	for _, f := range d.Funcs {
		if f.Name == name {
			return f
		}
	}
	t.Fatalf("no function %s", name)
	return Func{}
}

// The branch over what is inserted is the same; the one whose target is what
// was inserted is not.
func TestListing(t *testing.T) {
	a, b := assemble(t, elf.EM_X86_64, `
FUNC f
	test %edi,%edi
	je 1f
	jne 2f
	call g
.if AFTER
	nop
	call h
2:	incl counter(%rip)
	mov $2,%eax
.else
2:	mov $1,%eax
.endif
1:	ret
END f
`)
	d := compared(t, a, b)
	want := `
= 00 test %edi,%edi           | 00 test %edi,%edi
= 02 je +0x10                 | 02 je +0x1c
~ 04 jne +0xb                 | 04 jne +0x11
= 06 call g                   | 06 call g
+                             | 0b nop
+                             | 0c call h
+                             | 11 incl counter(%rip)
~ 0b mov $0x1,%eax            | 17 mov $0x2,%eax
= 10 ret                      | 1c ret
`
	if diff := cmp.Diff(want, "\n"+listingText(d.Listing(find(t, d, "f")))); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// Every instruction of both sides is in the listing once and in order, and a
// function that is the same has only rows that are.
func TestListingIsComplete(t *testing.T) {
	pairs, err := filepath.Glob(filepath.Join(testkit.Root(t), "testdata/binaries/*/*.before.o"))
	if err != nil || len(pairs) == 0 {
		t.Fatal(err, len(pairs))
	}
	listed := 0
	for _, before := range pairs {
		after := strings.Replace(before, ".before.o", ".after.o", 1)
		if matches, _ := filepath.Glob(after); len(matches) == 0 {
			continue
		}
		d := compared(t, testkit.ELF(t, before), testkit.ELF(t, after))
		for _, f := range d.Funcs {
			rows := d.Listing(f)
			if len(rows) == 0 {
				t.Fatalf("%s: %s has no rows", before, f.Name)
			}
			checkListing(t, d, f, rows)
			listed++
		}
	}
	if listed < 100 {
		t.Errorf("only %d functions", listed)
	}
}

func checkListing(t *testing.T, d *Delta, f Func, rows []Row) {
	t.Helper()
	var old, now []Line
	different := 0
	for _, r := range rows {
		if r.Old.Text != "" {
			old = append(old, r.Old)
		}
		if r.New.Text != "" {
			now = append(now, r.New)
		}
		if r.Kind != RowSame && r.Kind != RowPadding {
			different++
		}
	}
	if f.Status == Same && different > 0 || f.Status == Changed && f.Why != nil && f.Why.In == "" && different == 0 {
		t.Errorf("%s is %s; the listing has %d differences:\n%s", f.Name, f.Status, different, listingText(rows))
	}
	for _, side := range []struct {
		s    *side
		sym  int
		have []Line
	}{{d.c.orig, f.Orig, old}, {d.c.patched, f.Patched, now}} {
		if want := (&Code{side.s}).Lines(side.sym); !cmp.Equal(want, side.have) {
			t.Errorf("%s: (-want +got)\n%s", f.Name, cmp.Diff(want, side.have))
		}
	}
}
