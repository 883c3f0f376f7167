package report

import (
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"livepatch/elfpatch/diff"
	"livepatch/internal/build"
	"livepatch/internal/testkit"
)

func TestReadable(t *testing.T) {
	for in, want := range map[string]string{
		"call _ZN3foo3barEi+0x10":    "call foo::bar(int)+0x10",
		"mov _ZZ4mainE1n(%rip),%rax": "mov main::n(%rip),%rax",
		"call _RNvC7mycrate3foo":     "call mycrate::foo",
		"lea 0x8(%rsp),%rax":         "lea 0x8(%rsp),%rax",
		"call _Zzz":                  "call _Zzz",
		"je _ZN3foo3barEi.cold":      "je foo::bar(int) [clone .cold]",
	} {
		if got := readable(in); got != want {
			t.Errorf("readable(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestMarked(t *testing.T) {
	for _, tc := range []struct{ old, now, want, want2 string }{
		{"mov $0x7,%esi", "mov $0x9,%esi", "mov [$0x7],%esi", "mov [$0x9],%esi"},
		{"add %rsi,%rax", "lea (%rsi),%rax", "[add %rsi],%rax", "[lea (%rsi)],%rax"},
		{"lea table(%rip),%rax", "lea table(%rip),%rax", "[lea table(%rip),%rax]", "[lea table(%rip),%rax] (what it refers to differs)"},
		{"call a", "call a {x}", "call a[]", "call a[ {x}]"},
	} {
		a, b := marked(tc.old, tc.now)
		show := func(o operands) string { return o.Before + "[" + o.Differs + "]" + o.After }
		if show(a) != tc.want || show(b) != tc.want2 {
			t.Errorf("%q, %q: %s, %s", tc.old, tc.now, show(a), show(b))
		}
	}
}

// Unchanged stretches are folded but for what is beside a difference; no row is
// lost.
func TestFolds(t *testing.T) {
	for _, tc := range []struct{ kinds, want string }{
		{"ssssssssssssssss", "(16)"},
		{"cssssssssssssssss", "5(12)"},
		{"ssssssssssssssssc", "(12)5"},
		{"ssssscsssssacsssssr", "19"}, // gaps too short to fold
		{"sssssssssscssssssssssssssc", "(6)9(6)5"},
		{"", ""},
	} {
		var rows []diff.Row
		for i, k := range tc.kinds {
			l := diff.Line{Off: uint64(i), Text: "nop"}
			rows = append(rows, diff.Row{Kind: diff.RowKind(strings.IndexRune("s.cra", k)), Old: l, New: l})
		}
		f := function{Two: true}
		f.setRows(rows)
		got := ""
		for _, b := range f.Blocks {
			n := 0
			for _, c := range b.Chunks {
				n += len(c.Rows)
			}
			if b.Fold != "" {
				got += fmt.Sprintf("(%d)", n)
			} else {
				got += fmt.Sprint(n)
			}
		}
		if got != tc.want {
			t.Errorf("%s is folded as %s, want %s", tc.kinds, got, tc.want)
		}
	}
}

// A function of tens of thousands of instructions, all of which moved and every
// fifth of which changed, is no trouble.
func TestLongFunction(t *testing.T) {
	const lines = 30000
	var files [2]string
	for i := range files {
		var b strings.Builder
		b.WriteString(".text\n.globl f\n.type f,@function\nf:\n")
		for n := range lines {
			if n%5 == 0 {
				fmt.Fprintf(&b, "add $%d,%%eax\n", n+i)
			} else {
				fmt.Fprintf(&b, "mov %d(%%rdi),%%rsi\n", n*8)
			}
		}
		b.WriteString("ret\n.size f,.-f\n")
		src := filepath.Join(t.TempDir(), "f.s")
		if err := os.WriteFile(src, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		files[i] = src + ".o"
		testkit.Run(t, testkit.Compiler(t, elf.EM_X86_64), "-c", "-o", files[i], src)
	}
	d, err := diff.Compare(testkit.ELF(t, files[0]), testkit.ELF(t, files[1]), diff.Options{})
	if err != nil {
		t.Fatal(err)
	}
	part := build.Part{Target: &build.Target{Name: "t"}, Pair: build.Pair{OrigName: "f.o", PatchedName: "f.o"}, Delta: d}
	start := time.Now()
	page := html(t, Input{Name: "long", Result: &build.Result{Parts: []build.Part{part}}})
	if took := time.Since(start); took > time.Minute {
		t.Errorf("the page took %v", took)
	}
	if n := strings.Count(page, `<tr class="c h">`); n < lines/5 {
		t.Errorf("%d differences, not %d", n, lines/5)
	}
	t.Logf("%d bytes in %v", len(page), time.Since(start))
}
