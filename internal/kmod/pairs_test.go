package kmod

import (
	"debug/elf"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/elfpatch/diff"
	"livepatch/internal/kimage"
	"livepatch/internal/testkit"
)

// handABI are the layouts of Debian's 6.12 kernels for x86-64, written by hand.
func handABI() *kimage.ABI {
	word := func(offs map[string]uint64) map[string]kimage.Member {
		m := map[string]kimage.Member{}
		for n, o := range offs {
			m[n] = kimage.Member{Offset: o, Size: 8}
		}
		return m
	}
	module := word(map[string]uint64{"init": 312, "exit": 1200})
	module["name"] = kimage.Member{Offset: 24, Size: 56}
	object := word(map[string]uint64{"name": 0, "funcs": 8})
	object["callbacks"] = kimage.Member{Offset: 16, Size: 40}
	patch := word(map[string]uint64{"mod": 0, "objs": 8, "states": 16})
	patch["replace"] = kimage.Member{Offset: 24, Size: 1}
	return &kimage.ABI{Structs: map[string]kimage.Struct{
		"module":        {Size: 1280, Members: module},
		"klp_func":      {Size: 152, Members: word(map[string]uint64{"old_name": 0, "new_func": 8, "old_sympos": 16})},
		"klp_object":    {Size: 168, Members: object},
		"klp_callbacks": {Size: 40, Members: word(map[string]uint64{"pre_patch": 0, "post_patch": 8, "pre_unpatch": 16, "post_unpatch": 24})},
		"klp_patch":     {Size: 200, Members: patch},
		"klp_state":     {Size: 24, Members: map[string]kimage.Member{"id": {Offset: 0, Size: 8}, "version": {Offset: 8, Size: 4}}},
		"kallsym_iter":  {Size: 700, Members: map[string]kimage.Member{"name": {Offset: 40, Size: 512}}},
	}}
}

// ownBindings are the exports that a module needs whatever it patches.
func ownBindings(b map[string]Binding) map[string]Binding {
	b[enablePatch] = Binding{Kind: Export, CRC: 0x4139d4f8, HasCRC: true, GPL: true}
	b[moduleLayout] = Binding{Kind: Export, CRC: 0x2f9b2b9a, HasCRC: true}
	b[returnThunk] = Binding{Kind: Export, CRC: 0x5b8239ca, HasCRC: true}
	return b
}

// TestPairs makes a module of every pair of real objects that can be patched.
func TestPairs(t *testing.T) {
	for dir, m := range map[string]elf.Machine{"x86_64": elf.EM_X86_64, "aarch64": elf.EM_AARCH64} {
		files, err := filepath.Glob(filepath.Join(testkit.Shared(t, "vectors/object-pairs/"+dir), "*.ORIG.o"))
		if err != nil || len(files) == 0 {
			t.Fatalf("no pairs: %v", err)
		}
		made := 0
		for _, orig := range files {
			after := strings.TrimSuffix(orig, ".ORIG.o") + ".PATCHED.o"
			if _, err := os.Stat(after); err != nil {
				continue
			}
			name := dir + "/" + strings.TrimSuffix(filepath.Base(orig), ".ORIG.o")
			part, ok := cutPair(t, name, orig, after)
			if !ok {
				continue
			}
			made++
			t.Run(name, func(t *testing.T) { emitParts(t, m, []Part{part}) })
		}
		t.Logf("%s: %d modules", dir, made)
		if made < 5 {
			t.Errorf("%s: only %d pairs can be patched", dir, made)
		}
	}
}

func cutPair(t *testing.T, name, orig, after string) (Part, bool) {
	t.Helper()
	parse := func(file string) *elfpatch.File {
		f, err := elfpatch.Parse(testkit.Read(t, file))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	delta, err := diff.Compare(parse(orig), parse(after), diff.Options{Name: name, Kernel: true})
	if err != nil {
		return Part{}, false
	}
	cut, err := delta.CutFor(diff.CutOptions{})
	if err != nil || len(cut.Funcs) == 0 {
		return Part{}, false
	}
	p := Part{Name: name, Cut: cut, Bindings: map[int]Binding{}}
	for i, x := range cut.Externals {
		p.Bindings[i] = Binding{Kind: KLP, Name: strings.ReplaceAll(x.Name, ",", "_")}
		if strings.HasPrefix(x.Name, "__x86_") || x.Name == "__fentry__" {
			p.Bindings[i] = Binding{Kind: Export, Name: x.Name, HasCRC: true}
		}
	}
	return p, true
}

func emitParts(t *testing.T, m elf.Machine, parts []Part) {
	t.Helper()
	merged, err := Merge(m, parts)
	if err != nil {
		t.Fatal(err)
	}
	s := Spec{
		Name: "pair", Object: merged.Object, Bindings: ownBindings(merged.Bindings), ABI: handABI(), Replace: true,
		Vermagic: "6.12.0 SMP preempt mod_unload modversions ", Versions: BasicVersions, ORC: merged.Object.Section(".orc_unwind_ip") != nil,
	}
	o := Object{}
	for i, p := range parts {
		for _, f := range p.Cut.Funcs {
			o.Funcs = append(o.Funcs, Func{Name: f.Name, Sympos: 1 + i, Replacement: merged.SymbolName(i, f.Symbol)})
		}
	}
	s.Objects = []Object{o}
	b, err := Emit(s)
	if err != nil {
		t.Fatal(err)
	}
	checkModule(t, b)
}

// checkModule checks what every module promises.
func checkModule(t testing.TB, b []byte) *elfpatch.File {
	t.Helper()
	f, err := elfpatch.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, s := range f.Sections[1:] {
		if s.Flags&elf.SHF_ALLOC == 0 && s.Type == elf.SHT_PROGBITS {
			t.Errorf("section %s is not for memory", s.Name)
		}
		if names[s.Name] {
			t.Errorf("two sections %s", s.Name)
		}
		names[s.Name] = true
		isKLP := strings.HasPrefix(s.Name, ".klp.rela.")
		if isKLP != (s.Flags&flagLivepatch != 0) || isKLP && (s.Type != elf.SHT_RELA || s.Flags&elf.SHF_ALLOC == 0 || f.Sections[s.Info].Flags&elf.SHF_ALLOC == 0) {
			t.Errorf("section %s: type %v, flags %v", s.Name, s.Type, s.Flags)
		}
		if s.Type != elf.SHT_RELA {
			continue
		}
		for at := 0; at < len(s.Data); at += relaSize {
			sym := f.Symbols[le.Uint32(s.Data[at+12:])]
			if (sym.Section == shnLivepatch) != isKLP {
				t.Errorf("%s: a relocation to %s", s.Name, sym.Name)
			}
		}
	}
	for _, s := range f.Symbols {
		if strings.HasPrefix(s.Name, ".klp.sym.") != (s.Section == shnLivepatch) {
			t.Errorf("symbol %s in section %d", s.Name, s.Section)
		}
	}
	return f
}
