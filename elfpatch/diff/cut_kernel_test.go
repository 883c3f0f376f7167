package diff

import (
	"bytes"
	"debug/elf"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/elfpatch/kernel"
	"livepatch/internal/testkit"
)

// wellFormedKernel checks what every cut of a kernel object promises.
func wellFormedKernel(t testing.TB, cut *Cut) *elfpatch.File {
	t.Helper()
	f, err := elfpatch.Parse(must(cut.Object.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	undefined := 0
	for i, s := range cut.Object.Symbols[1:] {
		if s.Type == elf.STT_SECTION || isMapping(cut.Object.Machine, s.Name) {
			continue
		}
		if names[s.Name] || s.Name == "" {
			t.Errorf("symbol %d: the name %q is not unique", i+1, s.Name)
		}
		names[s.Name] = true
		if s.Section == elfpatch.Undefined {
			undefined++
		} else if s.Section > 0 && s.Value+s.Size > cut.Object.Sections[s.Section].Size {
			t.Errorf("symbol %s ends behind its section", s.Name)
		}
	}
	if undefined != len(cut.Externals) {
		t.Errorf("%d undefined symbols, %d externals", undefined, len(cut.Externals))
	}
	for _, fn := range cut.Funcs {
		if s := cut.Object.Symbols[fn.Symbol]; s.Section <= 0 || s.Type != elf.STT_FUNC || fn.Orig == 0 {
			t.Errorf("replacement %s is %+v", fn.Name, s)
		}
	}
	for _, sec := range f.Sections {
		if rule := kernel.TextOf(sec.Name); rule != nil && rule.Fate != kernel.TextFixed && sec.Name != ".static_call.text" {
			t.Errorf("section %s is in the cut", sec.Name)
		}
		checkRelocations(t, f, sec)
	}
	for _, table := range cut.Kernel.Tables {
		checkTable(t, f, table)
	}
	return f
}

func checkRelocations(t testing.TB, f *elfpatch.File, sec *elfpatch.Section) {
	t.Helper()
	rels, err := f.Relocations(sec)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rels {
		info, ok := elfpatch.RelocInfo(f.Machine, r.Type)
		if !ok || r.Offset+uint64(info.Size) > sec.Size || r.Symbol == 0 && info.Size > 0 {
			t.Errorf("%s+%#x: %s cannot be applied", sec.Name, r.Offset, info.Name)
			continue
		}
		// What code adds to an address stays close to what it means.
		if sym := f.Symbols[r.Symbol]; sym.Section > 0 {
			at := int64(sym.Value) + r.Addend
			if at < -4096 || at > int64(f.Sections[sym.Section].Size)+4096 {
				t.Errorf("%s+%#x: it leads to %s%+d, of %d bytes", sec.Name, r.Offset, f.Sections[sym.Section].Name, at, f.Sections[sym.Section].Size)
			}
		}
	}
}

// checkTable checks that a table has the form that its section has, and that
// every entry is about code of the cut.
func checkTable(t testing.TB, f *elfpatch.File, table TableCount) {
	t.Helper()
	row := kernel.Lookup(f.Machine, table.Section)
	if row == nil || row.Use == kernel.Descriptors {
		return
	}
	entries := 0
	for _, sec := range f.Sections {
		if sec.Name != table.Section {
			continue
		}
		rels, err := sortedRelocations(f, sec)
		if err != nil {
			t.Fatal(err)
		}
		var offs []uint64
		for _, r := range rels {
			offs = append(offs, r.Offset)
		}
		stride, codeField := uint64(0), uint64(0)
		switch {
		case table.Section == ".orc_unwind":
			if len(rels) != 0 || sec.Size%uint64(table.Entries) != 0 {
				t.Errorf("%s: %d bytes for %d entries", sec.Name, sec.Size, table.Entries)
			}
			return
		case row.Use == kernel.Dropped:
			stride = sec.Size / uint64(table.Entries)
		default:
			l, err := kernel.Split(row, sec.Size, sec.EntSize, offs)
			if err != nil {
				t.Errorf("%v", err)
				return
			}
			stride = l.Size
			if c, ok := l.Field(kernel.FieldCode); ok {
				codeField = uint64(c.Off)
			}
		}
		entries += int((sec.Size + stride - 1) / stride)
		for _, r := range rels {
			if r.Offset%stride != codeField {
				continue
			}
			sym := f.Symbols[r.Symbol]
			about := elf.SHF_EXECINSTR
			if sec.Name == ".discard.annotate_data" { // about entries of tables
				about = elf.SHF_ALLOC
			}
			if sym.Section <= 0 || f.Sections[sym.Section].Flags&about == 0 {
				t.Errorf("%s+%#x is about %s, no code of the cut", sec.Name, r.Offset, sym.Name)
			} else if at := int64(sym.Value) + r.Addend; at < 0 || at > int64(f.Sections[sym.Section].Size) {
				t.Errorf("%s+%#x leads to %s%+d", sec.Name, r.Offset, f.Sections[sym.Section].Name, at)
			}
		}
	}
	if entries != table.Entries {
		t.Errorf("%s has %d entries, %d are told", table.Section, entries, table.Entries)
	}
}

// specialBytes reads the column of expected.tsv.
func specialBytes(t testing.TB, k kernelCase) map[string]int {
	t.Helper()
	table, err := os.ReadFile(filepath.Join(filepath.Dir(k.base), "expected.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for _, row := range strings.Split(string(table), "\n") {
		col := strings.Split(row, "\t")
		if col[0] != filepath.Base(k.base) {
			continue
		}
		for _, word := range strings.Fields(col[5]) {
			name, n, _ := strings.Cut(word, "=")
			out[name], _ = strconv.Atoi(n)
		}
	}
	return out
}

// others says by how many bytes a table of ours differs from that of the tool
// that expected.tsv describes, and why.
var others = map[string]map[string]struct {
	bytes int
	why   string
}{
	"x86_64/clang-lstr": {
		".kpatch.callbacks.pre_patch":    {0, "callbacks are told by KernelCut.Callbacks"},
		".kpatch.callbacks.post_patch":   {0, "callbacks are told by KernelCut.Callbacks"},
		".kpatch.callbacks.pre_unpatch":  {0, "callbacks are told by KernelCut.Callbacks"},
		".kpatch.callbacks.post_unpatch": {0, "callbacks are told by KernelCut.Callbacks"},
	},
	"x86_64/convert-global-local":                {".altinstr_replacement": {8, "only what the kept entries use, not the section"}},
	"x86_64/fixup-section":                       {".altinstr_replacement": {30, "only what the kept entries use, not the section"}},
	"x86_64/dynamic-debug-jump-label-issue-1253": {"__dyndbg": {56, "the one descriptor that new code uses, not the section"}},
	"x86_64/jump-label-issue-1021":               {},
	"x86_64/import-ns":                           {".modinfo": {0, "namespaces are told by KernelCut.ImportNS"}},
	"x86_64/static-call-issue-1165": {
		".orc_unwind":    {54, "two entries are about .altinstr_aux, which new code jumps to"},
		".orc_unwind_ip": {36, "two entries are about .altinstr_aux, which new code jumps to"},
	},
}

// Every pair that can be patched is cut, twice alike, into an object that is
// sound, and the tables have the sizes that the table of cases says.
func TestKernelCutVectors(t *testing.T) {
	for _, tc := range kernelCases(t) {
		if tc.exit != "0" {
			continue
		}
		t.Run(tc.name, func(t *testing.T) {
			a, b := tc.files(t)
			cut := cutKernel(t, a, b, CutOptions{})
			f := wellFormedKernel(t, cut)
			if again := cutKernel(t, a, b, CutOptions{}); !bytes.Equal(must(cut.Object.Bytes()), must(again.Object.Bytes())) {
				t.Error("a second cut differs")
			}
			sizes := map[string]int{}
			for _, sec := range f.Sections {
				if kernel.Lookup(f.Machine, sec.Name) != nil && sec.Type != elf.SHT_RELA {
					sizes[sec.Name] += int(sec.Size)
				}
			}
			want := specialBytes(t, tc)
			for name := range sizes {
				if _, ok := want[name]; !ok && !strings.HasPrefix(name, ".discard") && name != mcountSection && name != pfeSection {
					want[name] = 0
				}
			}
			for name, n := range want {
				got, other := sizes[name], others[tc.name][name]
				if other.why != "" {
					n = other.bytes
				}
				if got != n {
					t.Errorf("%s has %d bytes, want %d", name, got, n)
				}
			}
			names := map[string]bool{}
			for _, fn := range cut.Funcs {
				names[fn.Name] = true
			}
			for _, name := range tc.changed {
				if !names[name] {
					t.Errorf("no replacement of %s", name)
				}
			}
			inspect(t, f.Machine, must(cut.Object.Bytes()))
		})
	}
}

// The other way round, and against themselves, objects do no harm.
func TestKernelCutReversed(t *testing.T) {
	for _, tc := range kernelCases(t) {
		a, b := tc.files(t)
		for _, pair := range [][2]*elfpatch.File{{b, a}, {a, a}, {b, b}} {
			d, err := Compare(pair[0], pair[1], Options{Name: "o", Kernel: true})
			if err != nil {
				continue
			}
			cut, err := d.CutFor(CutOptions{})
			if err != nil {
				t.Logf("%s: %v", tc.name, err)
				continue
			}
			wellFormedKernel(t, cut)
			if pair[0] == pair[1] && (len(cut.Funcs) > 0 || len(cut.Kernel.Callbacks) == 0 && len(cut.Object.Sections) > 1) {
				t.Errorf("%s: the cut of nothing has %d functions and %d sections", tc.name, len(cut.Funcs), len(cut.Object.Sections))
			}
		}
	}
}

func cutKernel(t testing.TB, a, b *elfpatch.File, opt CutOptions) *Cut {
	t.Helper()
	d, err := Compare(a, b, Options{Name: "o", Kernel: true})
	if err != nil {
		t.Fatal(err)
	}
	cut, err := d.CutFor(opt)
	if err != nil {
		t.Fatal(err)
	}
	return cut
}

// inspect has other programs read the cut.
func inspect(t testing.TB, m elf.Machine, object []byte) {
	t.Helper()
	prefix := ""
	if m == elf.EM_AARCH64 {
		prefix = "aarch64-linux-gnu-"
	}
	path := filepath.Join(t.(*testing.T).TempDir(), "cut.o")
	write(t, path, object)
	out := run(t, "", testkit.Tool(t, "readelf"), "-aW", path)
	for _, line := range strings.Split(out, "\n") {
		if strings.Contains(line, "Warning") || strings.Contains(line, "Error") {
			t.Errorf("readelf: %s", line)
		}
	}
	run(t, "", testkit.Tool(t, prefix+"ld"), "-r", "-o", path+".r", path)
}
