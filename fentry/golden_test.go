package fentry

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"livepatch/internal/testkit"
)

var update = flag.Bool("update", false, "rewrite the goldens in testdata")

// binaries are the files of testdata/binaries that the goldens describe.
var binaries = []string{
	"counter.O2.before.o", "counter.sections.before.o", "counter.pic.before.o",
	"counter.cet.before.o", "counter.pfe2.before.o", "counter.pfe16.before.o", "counter.cetpfe2.before.o",
	"counter.fentry.before.o", "counter.fentrynop.before.o",
	"counter.bti.before.o", "counter.pfe4.before.o", "counter.btipfe4.before.o", "counter.standard.before.o",
	"calls.standard.before.o", "switch.O2.before.o", "switch.bti.before.o", "except.O2.before.o",
	"prog", "prog.exec", "prog.stripped", "libcounter.so", "tiny.static", "tiny.static-pie",
}

// line is everything said of one function, in one line.
func line(f *Func) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s+%#x size %d pad %d front %d | site +%d room %d", f.Section, f.Addr, f.Size, f.Padding, f.Front, f.Site-f.Addr, f.Room)
	for _, part := range []struct {
		name, value string
		show        bool
	}{
		{"nops", fmt.Sprint(f.Nops), f.Nops > 0},
		{"landing", f.Landing, f.Landing != ""},
		{"lead", fmt.Sprintf("%x", []byte(f.Lead)), f.Lead != nil},
	} {
		if part.show {
			fmt.Fprintf(&b, " %s %s", part.name, part.value)
		}
	}
	if f.Slot != nil {
		fmt.Fprintf(&b, " slot %#x", *f.Slot)
	}
	fmt.Fprintf(&b, " | %x | %s %s %s | %s", []byte(f.Expected), f.Kind, f.Strategy, f.Verdict, strings.Join(append([]string{f.Name}, f.Aliases...), " = "))
	if f.Reason != "" {
		fmt.Fprintf(&b, ": %s", f.Reason)
	}
	return b.String()
}

func TestGoldens(t *testing.T) {
	for _, dir := range []string{"x86_64-gcc", "x86_64-clang", "aarch64-gcc", "aarch64-clang"} {
		t.Run(dir, func(t *testing.T) {
			var got bytes.Buffer
			for _, name := range binaries {
				path := filepath.Join("..", "testdata", "binaries", dir, name)
				if _, err := os.Stat(path); err != nil {
					continue // of the other machine or compiler; the golden knows which
				}
				fmt.Fprintf(&got, "%s\n", name)
				list, err := Find(testkit.ELF(t, path), Options{})
				if err != nil {
					t.Fatalf("%s: %v", path, err)
				}
				for i := range list {
					fmt.Fprintf(&got, "  %s\n", line(&list[i]))
				}
			}
			golden := filepath.Join("testdata", dir+".golden")
			if *update {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got.String(), "\n")); d != "" {
				t.Errorf("sites differ from %s (-want +got):\n%s", golden, d)
			}
		})
	}
}

// A stripped program has the sites of the one with symbols, except where no
// unwind data describes a function; its debug file gives the names back.
func TestStrippedHasTheSameSites(t *testing.T) {
	for _, dir := range []string{"x86_64-gcc", "x86_64-clang", "aarch64-gcc", "aarch64-clang"} {
		t.Run(dir, func(t *testing.T) {
			path := func(name string) string { return filepath.Join("..", "testdata", "binaries", dir, name) }
			whole, err := Find(testkit.ELF(t, path("prog")), Options{})
			if err != nil {
				t.Fatal(err)
			}
			stripped := testkit.ELF(t, path("prog.stripped"))
			bare, err := NewFinder(stripped, Options{})
			if err != nil {
				t.Fatal(err)
			}
			named, err := Find(stripped, Options{Debug: testkit.ELF(t, path("prog.debug"))})
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(whole, named); d != "" {
				t.Errorf("with the debug file (-prog +prog.stripped):\n%s", d)
			}
			described := 0
			for _, f := range whole {
				got, err := bare.At(f.Addr, f.Size)
				if err != nil {
					t.Fatal(err)
				}
				if got.Site != f.Site || got.Verdict != f.Verdict || got.Kind != f.Kind {
					t.Errorf("%s: %s without symbols", line(&f), line(&got))
				}
				if !strings.HasPrefix(got.Name, "sub_") {
					t.Errorf("%#x is called %s without symbols", got.Addr, got.Name)
				}
			}
			for _, s := range bare.Starts() {
				if s.Sources&EHFrame != 0 {
					described++
				}
			}
			if described < len(whole)*3/4 {
				t.Errorf("unwind data describes %d of %d functions", described, len(whole))
			}
		})
	}
}
