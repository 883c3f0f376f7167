package modcheck

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/kimage"
	"livepatch/internal/testkit"
)

const vermagic = "6.12.0-test SMP preempt mod_unload modversions "

// edit replaces the one place where old stands in a source.
type edit struct{ old, new string }

var include = regexp.MustCompile(`(?m)^\s*\.include "(.*)"$`)

// source reads an assembler source with what it includes.
func source(t testing.TB, name string, edits ...edit) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	s := include.ReplaceAllStringFunc(string(b), func(line string) string {
		return source(t, include.FindStringSubmatch(line)[1])
	})
	for _, e := range edits {
		if n := strings.Count(s, e.old); n != 1 {
			t.Fatalf("%s: %q is there %d times", name, e.old, n)
		}
		s = strings.Replace(s, e.old, e.new, 1)
	}
	return s
}

func tools(m elf.Machine) string {
	if m == elf.EM_AARCH64 {
		return "aarch64-linux-gnu-"
	}
	return "x86_64-linux-gnu-"
}

// assemble makes an object.
func assemble(t testing.TB, m elf.Machine, text string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out.o")
	cmd := exec.Command(testkit.Tool(t, tools(m)+"as"), "-o", out, "-")
	cmd.Stdin = strings.NewReader(text)
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parseObject(t testing.TB, b []byte) *elfpatch.File {
	t.Helper()
	f, err := elfpatch.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func fileOf(t testing.TB, f *elfpatch.File) []byte {
	t.Helper()
	b, err := f.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// livepatch makes a livepatch module: symbols klp..OBJECT..NAME..POSITION become
// livepatch symbols, and their relocations livepatch relocations of the object.
func livepatch(t testing.TB, m elf.Machine, name string, edits ...edit) *elfpatch.File {
	t.Helper()
	f := parseObject(t, assemble(t, m, source(t, name, edits...)))
	owner := map[uint32]string{}
	inTree := strings.HasPrefix(name, "intree")
	if inTree { // what that tool leaves where it moved relocations from
		f.AddSymbol(elfpatch.Symbol{Name: ".klp.tombstone.x", Bind: elf.STB_WEAK, Section: shnLivepatch})
	}
	tombstone := uint32(len(f.Symbols) - 1)
	for i := range f.Symbols {
		s := &f.Symbols[i]
		if p := strings.Split(s.Name, ".."); len(p) == 4 && p[0] == "klp" {
			s.Name, s.Section = ".klp.sym."+p[1]+"."+p[2]+","+p[3], shnLivepatch
			owner[uint32(i)] = p[1]
		}
	}
	for _, s := range slices.Clone(f.Sections) {
		list, err := f.Relocations(s)
		if err != nil {
			t.Fatal(err)
		}
		var keep []elfpatch.Rela
		moved := map[string][]elfpatch.Rela{}
		for _, r := range list {
			if o := owner[r.Symbol]; o != "" {
				moved[o] = append(moved[o], r)
				if inTree {
					keep = append(keep, elfpatch.Rela{Offset: r.Offset, Symbol: tombstone})
				}
			} else {
				keep = append(keep, r)
			}
		}
		if len(moved) == 0 {
			continue
		}
		if err := f.SetRelocations(s, keep); err != nil {
			t.Fatal(err)
		}
		for _, o := range []string{"vmlinux", "widget"} {
			if len(moved[o]) > 0 {
				addRelas(f, klpRela+o+"."+s.Name, s, moved[o])
			}
		}
	}
	return f
}

func addRelas(f *elfpatch.File, name string, target *elfpatch.Section, list []elfpatch.Rela) *elfpatch.Section {
	var data []byte
	for _, r := range list {
		data = le.AppendUint64(data, r.Offset)
		data = le.AppendUint32(data, r.Type)
		data = le.AppendUint32(data, r.Symbol)
		data = le.AppendUint64(data, uint64(r.Addend))
	}
	return f.AddSection(elfpatch.Section{Name: name, Type: elf.SHT_RELA, Flags: elf.SHF_ALLOC | elf.SHF_INFO_LINK | shfLivepatch,
		Link: uint32(f.SymbolTable().Index), Info: uint32(target.Index), Align: 8, EntSize: relaSize, Data: data})
}

// kernelOf links a kernel of our own.
func kernelOf(t testing.TB, m elf.Machine, name string, edits ...edit) *kimage.Kernel {
	t.Helper()
	dir := t.TempDir()
	obj, out := filepath.Join(dir, "k.o"), filepath.Join(dir, "k")
	if err := os.WriteFile(obj, assemble(t, m, source(t, name, edits...)), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(testkit.Tool(t, tools(m)+"ld"), "-T", "testdata/kernel.ld", "-o", out, obj)
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	k := &kimage.Kernel{File: parseObject(t, b), Machine: m, Release: "6.12.0-test", Vermagic: vermagic, BuildID: []byte{1, 2, 3, 4}, BTF: btf(m)}
	for i, s := range k.File.Symbols {
		if i == 0 || s.Section <= 0 || s.Type == elf.STT_SECTION || strings.HasPrefix(s.Name, "$") {
			continue
		}
		typ := byte('t')
		if s.Type == elf.STT_OBJECT {
			typ = 'd'
		}
		k.Symbols = append(k.Symbols, kimage.Symbol{Name: strings.TrimSuffix(s.Name, "_second"), Addr: s.Value, Size: s.Size, Type: typ})
	}
	sort.SliceStable(k.Symbols, func(i, j int) bool { return k.Symbols[i].Addr < k.Symbols[j].Addr })
	for i := range k.Symbols {
		for _, next := range k.Symbols[i:] {
			if next.Addr > k.Symbols[i].Addr {
				k.Symbols[i].Size = next.Addr - k.Symbols[i].Addr
				break
			}
		}
	}
	k.Reindex()
	return k
}

// btf is type information of the structures that modules contain.
func btf(m elf.Machine) []byte {
	strs := []byte{0}
	str := func(s string) uint32 {
		off := len(strs)
		strs = append(append(strs, s...), 0)
		return uint32(off)
	}
	var types []byte
	word := func(v ...uint32) {
		for _, x := range v {
			types = le.AppendUint32(types, x)
		}
	}
	word(str("long"), 1<<24, 8, 64)
	structure := func(name string, size uint32, members ...any) {
		word(str(name), 4<<24|uint32(len(members)/2), size)
		for i := 0; i < len(members); i += 2 {
			word(str(members[i].(string)), 1, 8*uint32(members[i+1].(int)))
		}
	}
	structure("module", 1280, "name", 24, "init", 312, "exit", 1200)
	structure("klp_patch", 200)
	structure("klp_object", 168)
	structure("klp_func", 152)
	structure("klp_state", 24)
	structure("alt_instr", map[elf.Machine]uint32{elf.EM_X86_64: 14, elf.EM_AARCH64: 12}[m])
	structure("bug_entry", 12)
	structure("jump_entry", 16)
	structure("exception_table_entry", 12)
	structure("static_call_site", 8)
	b := le.AppendUint16(nil, 0xeb9f)
	b = append(b, 1, 0)
	for _, v := range []int{24, 0, len(types), len(types), len(strs)} {
		b = le.AppendUint32(b, uint32(v))
	}
	return append(append(b, types...), strs...)
}

// exports are what the kernel of our own exports.
func exports() map[string]kimage.Export {
	all := map[string]kimage.Export{}
	for name, crc := range map[string]uint32{"module_layout": 0x11111111, "klp_enable_patch": 0x22222222, "_printk": 0x33333333, "__x86_return_thunk": 0x44444444,
		"__x86_indirect_thunk_rax": 0x55555555, "__fentry__": 0x66666666, "spaced": 0x77777777, "__SCT__hook": 0x88888888, "__SCK__hook": 0x99999999} {
		e := kimage.Export{Name: name, CRC: crc, HasCRC: true, Module: vmlinux, GPL: name == "klp_enable_patch"}
		if name == "spaced" {
			e.Namespace = "SPACE"
		}
		all[name] = e
	}
	return all
}

func moduleOf(t testing.TB, m elf.Machine, name string, edits ...edit) *kimage.Module {
	t.Helper()
	x, err := kimage.ParseModule(assemble(t, m, source(t, name, edits...)))
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func x86Set(t testing.TB) Set {
	t.Helper()
	return Set{
		Kernel:  kernelOf(t, elf.EM_X86_64, "kernel-x86.S"),
		Modules: []*kimage.Module{moduleOf(t, elf.EM_X86_64, "module-x86.S")},
		Exports: exports(),
	}
}
