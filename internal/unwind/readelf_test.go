package unwind

import (
	"bufio"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"livepatch/internal/testkit"
)

// segments is the memory of a file as it would be loaded at address 0.
type segments struct{ list []*elf.Prog }

func (s segments) ReadAt(b []byte, at int64) (int, error) {
	for _, p := range s.list {
		if p.Type == elf.PT_LOAD && uint64(at) >= p.Vaddr && uint64(at) < p.Vaddr+p.Filesz {
			return p.ReadAt(b, at-int64(p.Vaddr))
		}
	}
	return 0, io.EOF
}

// index reads the table of a file.
func index(t *testing.T, path string) *Table {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	for _, p := range f.Progs {
		if p.Type == elf.PT_GNU_EH_FRAME {
			table, err := FromIndex(segments{f.Progs}, p.Vaddr, 0, ^uint64(0))
			if err != nil {
				t.Fatal(err)
			}
			return table
		}
	}
	t.Fatalf("%s has no index", path)
	return nil
}

// names are registers as readelf calls them.
var names = map[string]uint64{
	"rax": 0, "rdx": 1, "rcx": 2, "rbx": 3, "rsi": 4, "rdi": 5, "rbp": 6, "rsp": 7, "r8": 8, "r9": 9, "r10": 10, "r11": 11,
	"r12": 12, "r13": 13, "r14": 14, "r15": 15, "ra": 16,
}

// Every row of real libraries is what readelf makes of it.
func TestRowsAgreeWithReadelf(t *testing.T) {
	testkit.Tool(t, "readelf")
	gcc := testkit.Tool(t, "gcc")
	for _, lib := range []string{"libc.so.6", "libstdc++.so.6"} {
		t.Run(lib, func(t *testing.T) {
			out, err := exec.Command(gcc, "-print-file-name="+lib).Output()
			path := strings.TrimSpace(string(out))
			if err != nil || !filepath.IsAbs(path) {
				t.Fatalf("gcc knows no %s: %v", lib, err)
			}
			f, err := elf.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			machine := f.Machine
			f.Close()
			if machine != elf.EM_X86_64 {
				t.Skipf("%v: only the names of x86-64 registers are known here", machine)
			}
			compareRows(t, path)
		})
	}
}

func compareRows(t *testing.T, path string) {
	table := index(t, path)
	cmd := exec.Command("readelf", "--debug-dump=frames-interp", path)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	var header []string
	inFDE, rows, bad := false, 0, 0
	scan := bufio.NewScanner(pipe)
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		w := strings.Fields(scan.Text())
		switch {
		case len(w) == 0:
		case strings.Contains(scan.Text(), " FDE ") || strings.Contains(scan.Text(), " CIE "):
			inFDE = strings.Contains(scan.Text(), " FDE ")
		case w[0] == "LOC":
			header = w
		case inFDE && len(w[0]) == 16 && len(header) > 1:
			var at uint64
			if _, err := fmt.Sscanf(w[0], "%x", &at); err != nil {
				continue
			}
			rows++
			if err := compareRow(table, at, header[1:], w[1:]); err != nil && bad < 10 {
				bad++
				t.Errorf("%s: %v", scan.Text(), err)
			}
		}
	}
	if rows < 1000 {
		t.Errorf("%d rows", rows)
	}
	t.Logf("%d rows", rows)
}

// compareRow compares one row. What readelf shows as u is undefined, or nothing
// was said of it yet.
func compareRow(table *Table, at uint64, columns, want []string) error {
	d, err := table.find(at)
	if err != nil {
		return err
	}
	row, err := d.row(at)
	if err != nil {
		return err
	}
	want = slices.DeleteFunc(slices.Clone(want), func(w string) bool { return w[0] == '(' }) // the name behind a number
	if len(want) != len(columns) {
		return fmt.Errorf("%d columns, %d values", len(columns), len(want))
	}
	for i, name := range columns {
		r := &row.cfa
		if name != "CFA" {
			n, ok := names[name]
			if !ok {
				continue
			}
			r = &row.rules[n]
			if name == "ra" && want[i] == "u" && r.kind != ruleUndefined {
				return fmt.Errorf("ra: %+v", r)
			}
		}
		if have := show(r, name == "CFA"); have != want[i] && !(have == "s" && want[i] == "u") {
			return fmt.Errorf("%s: %s, want %s", name, have, want[i])
		}
	}
	return nil
}

func show(r *rule, cfa bool) string {
	register := func(n uint64) string {
		for name, number := range names {
			if number == n {
				return name
			}
		}
		return fmt.Sprintf("r%d", n)
	}
	switch {
	case cfa && r.kind == ruleRegister:
		return fmt.Sprintf("%s%+d", register(r.register), r.offset)
	case r.kind == ruleExpression:
		return "exp"
	case r.kind == ruleValueExpression:
		return "vexp"
	case r.kind == ruleUndefined:
		return "u"
	case r.kind == ruleOffset:
		return fmt.Sprintf("c%+d", r.offset)
	case r.kind == ruleValue:
		return fmt.Sprintf("v%+d", r.offset)
	case r.kind == ruleRegister:
		return fmt.Sprintf("r%d", r.register)
	}
	return "s"
}
