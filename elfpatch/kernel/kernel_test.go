package kernel

import (
	"debug/elf"
	"path/filepath"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/testkit"
)

// Every object of a kernel is known as one, none of a program is.
func TestIsObject(t *testing.T) {
	programs, err := filepath.Glob(filepath.Join("..", "..", "testdata", "binaries", "*", "*.o"))
	if err != nil || len(programs) == 0 {
		t.Fatalf("no objects (%v)", err)
	}
	for _, path := range programs {
		if IsObject(testkit.ELF(t, path)) {
			t.Errorf("%s is taken for a kernel object", path)
		}
	}
	kernels, err := filepath.Glob(filepath.Join(testkit.Shared(t, "vectors/object-pairs"), "*", "*.o"))
	if err != nil || len(kernels) == 0 {
		t.Fatalf("no kernel objects (%v)", err)
	}
	for _, path := range kernels {
		if !IsObject(testkit.ELF(t, path)) {
			t.Errorf("%s is not known as a kernel object", path)
		}
	}
}

func TestIsObjectNeedsTwoMarks(t *testing.T) {
	object := func(sections, undefined []string) *elfpatch.File {
		f := elfpatch.New(elf.ET_REL, elf.EM_X86_64)
		for _, name := range sections {
			f.AddSection(elfpatch.Section{Name: name, Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC, Align: 1})
		}
		for _, name := range undefined {
			f.AddSymbol(elfpatch.Symbol{Name: name, Bind: elf.STB_GLOBAL})
		}
		return f
	}
	for _, tc := range []struct {
		name                string
		sections, undefined []string
		want                bool
	}{
		{"nothing", nil, nil, false},
		{"a profiled program", []string{".text"}, []string{"__fentry__", "printf"}, false},
		{"a program with its own printk", nil, []string{"printk", "kfree", "mutex_lock", "malloc"}, false},
		{"a program with an init section", []string{".init.text"}, []string{"puts"}, false},
		{"small kernel object", nil, []string{"__fentry__", "_printk"}, true},
		{"tables", []string{".altinstructions", ".smp_locks"}, nil, true},
		{"module", []string{".modinfo"}, nil, true},
	} {
		if got := IsObject(object(tc.sections, tc.undefined)); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
	f := object([]string{".modinfo"}, nil)
	f.Type = elf.ET_EXEC
	if IsObject(f) || IsObject(nil) {
		t.Error("only relocatable objects are")
	}
}

func TestTables(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range Sections {
		key := s.Name + s.Machine.String()
		if seen[key] {
			t.Errorf("%s: two rows", s.Name)
		}
		seen[key] = true
		if s.Source == "" || s.What == "" || s.Use == 0 {
			t.Errorf("%s: no source, meaning or use", s.Name)
		}
		if s.Use == Entries && len(s.Layouts) == 0 {
			t.Errorf("%s: no layout", s.Name)
		}
		for _, l := range s.Layouts {
			at := uint64(0)
			for _, f := range l.Fields {
				if uint64(f.Off) != at {
					t.Errorf("%s: layout of %d bytes: a gap at %d", s.Name, l.Size, at)
				}
				at += uint64(f.Size)
			}
			if at != l.Size {
				t.Errorf("%s: fields of %d bytes in entries of %d", s.Name, at, l.Size)
			}
			if s.Use == Entries && (len(l.Fields) == 0 || l.Fields[0].Kind != FieldCode) {
				t.Errorf("%s: entries do not begin with the code that they are about", s.Name)
			}
		}
	}
	for _, r := range append(append([]NameRule{}, SpecialStatics...), SanitizerData...) {
		if r.Source == "" || r.What == "" {
			t.Errorf("%s: no source or meaning", r.Name)
		}
	}
	for _, r := range LineCallees {
		if r.Source == "" {
			t.Errorf("%s: no source", r.Name)
		}
	}
	for _, f := range LineFields {
		if f.Source == "" {
			t.Errorf("%s: no source", f.Data)
		}
	}
	if n := len(SectionMarks); n > 64 {
		t.Errorf("%d section marks; IsObject counts 64", n)
	}
}

func TestLookup(t *testing.T) {
	for _, tc := range []struct {
		m    elf.Machine
		name string
		use  Use
	}{
		{elf.EM_X86_64, "__bug_table", Entries},
		{elf.EM_AARCH64, "__ex_table", Entries},
		{elf.EM_AARCH64, ".smp_locks", 0},
		{elf.EM_X86_64, "___ksymtab_gpl+kfree", Exports},
		{elf.EM_X86_64, ".discard.reachable", Dropped},
		{elf.EM_X86_64, "runtime_ptr_dentry_hashtable", Entries},
		{elf.EM_X86_64, ".initcall6.init", Registry},
		{elf.EM_X86_64, ".text.foo", 0},
		{elf.EM_X86_64, ".rela__bug_table", 0},
	} {
		got := Use(0)
		if row := Lookup(tc.m, tc.name); row != nil {
			got = row.Use
		}
		if got != tc.use {
			t.Errorf("%v %s: use %d, want %d", tc.m, tc.name, got, tc.use)
		}
	}
}

func TestSplit(t *testing.T) {
	// offsets of the relocations of n entries
	offs := func(n int, size uint64, fields ...uint64) []uint64 {
		var out []uint64
		for i := range n {
			for _, f := range fields {
				out = append(out, uint64(i)*size+f)
			}
		}
		return out
	}
	for _, tc := range []struct {
		name, section string
		m             elf.Machine
		size, ent     uint64
		relocs        []uint64
		want          uint64 // 0: refused
	}{
		{"bug", "__bug_table", elf.EM_X86_64, 36, 0, offs(3, 12, 0, 4), 12},
		{"bug of 6.19", "__bug_table", elf.EM_X86_64, 48, 0, offs(3, 16, 0, 4, 8), 16},
		{"bug of 6.19 without formats, or without file names", "__bug_table", elf.EM_X86_64, 48, 0, offs(3, 16, 0, 8), 0},
		{"bug without file names", "__bug_table", elf.EM_X86_64, 24, 0, offs(3, 8, 0), 8},
		{"torn bug table", "__bug_table", elf.EM_X86_64, 35, 0, offs(3, 12, 0, 4), 0},
		{"bug table with a relocation too many", "__bug_table", elf.EM_X86_64, 12, 0, []uint64{0, 4, 8}, 0},
		{"alternatives of 5.10", ".altinstructions", elf.EM_X86_64, 156, 0, offs(12, 13, 0, 4), 13},
		{"alternatives of 6.1", ".altinstructions", elf.EM_X86_64, 156, 0, offs(13, 12, 0, 4), 12},
		{"alternatives of 6.12", ".altinstructions", elf.EM_X86_64, 28, 0, offs(2, 14, 0, 4), 14},
		{"alternatives, size given", ".altinstructions", elf.EM_X86_64, 28, 14, offs(2, 14, 0, 4), 14},
		{"alternatives, wrong size given", ".altinstructions", elf.EM_X86_64, 28, 12, offs(2, 14, 0, 4), 0},
		{"exceptions of arm64, 5.10", "__ex_table", elf.EM_AARCH64, 16, 0, offs(2, 8, 0, 4), 8},
		{"exceptions of arm64", "__ex_table", elf.EM_AARCH64, 24, 0, offs(2, 12, 0, 4), 12},
		{"exceptions of x86, 5.10", "__ex_table", elf.EM_X86_64, 24, 0, offs(2, 12, 0, 4, 8), 12},
		{"static keys", "__jump_table", elf.EM_X86_64, 48, 0, offs(3, 16, 0, 4, 8), 16},
		{"static keys of 4.15", "__jump_table", elf.EM_X86_64, 48, 0, offs(2, 24, 0, 8, 16), 24},
		{"paravirt, the last entry short", ".parainstructions", elf.EM_X86_64, 28, 0, offs(2, 16, 0), 16},
		{"no relocations", "__bug_table", elf.EM_X86_64, 24, 0, nil, 0},
		{"empty", "__bug_table", elf.EM_X86_64, 0, 0, nil, 16},
		{"beyond the end", ".smp_locks", elf.EM_X86_64, 4, 0, []uint64{0, 4}, 0},
	} {
		l, err := Split(Lookup(tc.m, tc.section), tc.size, tc.ent, tc.relocs)
		got := uint64(0)
		if err == nil {
			got = l.Size
		}
		if got != tc.want {
			t.Errorf("%s: entries of %d bytes, want %d (%v)", tc.name, got, tc.want, err)
		}
	}
}

func FuzzSplit(f *testing.F) {
	f.Add(uint16(36), uint8(0), []byte{0, 4, 8, 4, 8, 4}, uint8(0))
	f.Fuzz(func(t *testing.T, size uint16, ent uint8, steps []byte, row uint8) {
		var offs []uint64
		at := uint64(0)
		for _, s := range steps {
			at += uint64(s)
			offs = append(offs, at)
		}
		s := &Sections[int(row)%len(Sections)]
		if l, err := Split(s, uint64(size), uint64(ent), offs); err == nil && l.Count(uint64(size)) < 0 {
			t.Error("a negative count")
		}
	})
}

func TestSpecialStatic(t *testing.T) {
	for name, want := range map[string]bool{
		"__key": true, "__key.12": true, "init.__key": true, "init.__key.3": true, "my__key": false, "__keys": false, "__already_done.5": true,
		"descriptor": true, "descriptor.20": true, "file_descriptor": false, "_rs.1": true, "users": false, "CSWTCH.17": true,
		"__UNIQUE_ID_ddebug123.4": true, "_entry.9": true, "my_entry.9": false, "f._entry_ptr.2": true, "counter.7": false,
	} {
		if got := SpecialStatic(name) != nil; got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestTextOf(t *testing.T) {
	for name, want := range map[string]TextFate{
		".init.text": TextInit, ".init.text.start": TextInit, ".noinstr.text": TextNever, ".sched.text": TextFixed, ".text.foo": 0,
		".text.unlikely.foo": TextFixed, ".exit.text": TextExit, ".hyp.text": TextNever,
	} {
		got := TextFate(0)
		if r := TextOf(name); r != nil {
			got = r.Fate
		}
		if got != want {
			t.Errorf("%s: %d, want %d", name, got, want)
		}
	}
	if strings.Contains(HasPrefix(PrefixSymbols, "__pfx_foo").Name, "cfi") {
		t.Error("__pfx_foo is padding")
	}
}
