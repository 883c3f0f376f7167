package kmod

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/kimage"
	"livepatch/internal/refusal"
	"livepatch/internal/testkit"
)

// TestRefuses has one module for every rule, which breaks it and no other.
func TestRefuses(t *testing.T) {
	long := strings.Repeat("n", 600)
	bind := func(name string, change func(*Binding)) func(*Spec) {
		return func(s *Spec) {
			b := s.Bindings[name]
			change(&b)
			s.Bindings[name] = b
		}
	}
	section := func(name string) func(*Spec) *elfpatch.Section {
		return func(s *Spec) *elfpatch.Section { return s.Object.Section(name) }
	}
	setRel := func(name string, i int, change func(*elfpatch.Rela, *elfpatch.File)) func(*Spec) {
		return func(s *Spec) {
			sec := section(name)(s)
			list, err := s.Object.Relocations(sec)
			if err != nil {
				t.Fatal(err)
			}
			change(&list[i], s.Object)
			if err := s.Object.SetRelocations(sec, list); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, tc := range map[string]struct {
		change func(*Spec)
		code   refusal.Code
		want   string
	}{
		"module without a name": {func(s *Spec) { s.Name = "" }, refusal.NameLimit, "is empty"},
		"long module name":      {func(s *Spec) { s.Name = long[:56] }, refusal.NameLimit, "56 characters, the kernel reads 55"},
		"dash in module name":   {func(s *Spec) { s.Name = "a-b" }, refusal.NameLimit, `character '-'`},
		"dot in object name":    {func(s *Spec) { s.Objects[0].Name = "x.fs" }, refusal.NameLimit, `character '.'`},
		"long object name":      {func(s *Spec) { s.Objects[0].Name = long[:56] }, refusal.NameLimit, "56 characters"},
		"nothing patched":       {func(s *Spec) { s.Objects = nil }, refusal.KLPStructures, "nothing is patched"},
		"object twice":          {func(s *Spec) { s.Objects = append(s.Objects, Object{Name: "vmlinux", Funcs: s.Objects[1].Funcs}) }, refusal.KLPStructures, "vmlinux: the object is listed twice"},
		"empty object":          {func(s *Spec) { s.Objects = append(s.Objects, Object{Name: "ext4"}) }, refusal.KLPStructures, "neither functions nor callbacks"},
		"patches itself":        {func(s *Spec) { s.Name = "xfs" }, refusal.KLPStructures, "would patch itself"},
		"function twice": {func(s *Spec) {
			s.Objects[1].Funcs = append(s.Objects[1].Funcs, Func{Name: "kernel_show", Sympos: 1, Replacement: "show"})
		}, refusal.KLPStructures, "function is listed twice"},
		"long function name":       {func(s *Spec) { s.Objects[1].Funcs[0].Name = long[:512] }, refusal.NameLimit, "512 characters, the kernel reads 511"},
		"short names of 5.10":      {func(s *Spec) { delete(s.ABI.Structs, "kallsym_iter"); s.Objects[1].Funcs[0].Name = long[:128] }, refusal.NameLimit, "128 characters, the kernel reads 127"},
		"negative position":        {func(s *Spec) { s.Objects[1].Funcs[0].Sympos = -1 }, refusal.WrongPosition, "positions count from 1"},
		"no replacement":           {func(s *Spec) { s.Objects[1].Funcs[0].Replacement = "other" }, refusal.KLPStructures, "replacement other is not in the object"},
		"replacement is data":      {func(s *Spec) { s.Objects[1].Funcs[0].Replacement = "pointer" }, refusal.KLPStructures, "is not code"},
		"unknown callback":         {func(s *Spec) { s.Objects[1].Callbacks = map[CallbackKind]string{"pre_load": "show"} }, refusal.KLPStructures, `called "pre_load"`},
		"callback is data":         {func(s *Spec) { s.Objects[1].Callbacks = map[CallbackKind]string{PrePatch: "count"} }, refusal.KLPStructures, "callback count is not code"},
		"kernel without callbacks": {func(s *Spec) { delete(s.ABI.Structs["klp_object"].Members, "callbacks") }, refusal.KLPStructures, "knows no post_patch callbacks"},
		"kernel without replace":   {func(s *Spec) { delete(s.ABI.Structs["klp_patch"].Members, "replace") }, refusal.KLPStructures, "cannot replace other patches"},
		"kernel without states":    {func(s *Spec) { delete(s.ABI.Structs["klp_patch"].Members, "states") }, refusal.KLPStructures, "knows no states"},
		"state 0":                  {func(s *Spec) { s.States[0].ID = 0 }, refusal.KLPStructures, "number 0"},
		"state twice":              {func(s *Spec) { s.States = append(s.States, s.States[0]) }, refusal.KLPStructures, "state 1 is listed twice"},
		"no layouts":               {func(s *Spec) { s.ABI = nil }, refusal.KLPStructures, "layouts of the kernel's structures are not known"},
		"no struct module":         {func(s *Spec) { delete(s.ABI.Structs, "module") }, refusal.KLPStructures, "layout of struct module is not known"},
		"no livepatch core":        {func(s *Spec) { delete(s.ABI.Structs, "klp_patch"); s.Replace, s.States = false, nil }, refusal.NoLivepatch, "without a livepatch core"},
		"no member":                {func(s *Spec) { delete(s.ABI.Structs["klp_func"].Members, "old_name") }, refusal.KLPStructures, "no member old_name"},
		"member outside":           {func(s *Spec) { s.ABI.Structs["klp_func"].Members["old_name"] = kimage.Member{Offset: 146, Size: 8} }, refusal.KLPStructures, "cannot have old_name"},
		"vermagic":                 {func(s *Spec) { s.Vermagic = "6.12.0" }, refusal.WrongVermagic, "no vermagic"},
		"license":                  {func(s *Spec) { s.License = "Proprietary" }, refusal.NotExported, "under GPL only"},
		"kCFI":                     {func(s *Spec) { s.CFI = true }, refusal.Unsupported, "kCFI"},
		"name of the base module":  {func(s *Spec) { s.Name = BaseName }, refusal.NameLimit, "that of the base module"},
		"padding":                  {func(s *Spec) { s.Padding = 65 }, refusal.Unsupported, "65 bytes of padding"},
		"own information":          {func(s *Spec) { s.Info = []string{"intree=Y"} }, refusal.ModuleFormat, `"intree=Y"`},
		"zero in information":      {func(s *Spec) { s.Info = []string{"author=a\x00b"} }, refusal.ModuleFormat, "has a zero in it"},
		"dependency":               {func(s *Spec) { s.Depends = []string{"a,b"} }, refusal.NameLimit, `character ','`},
		"unbound":                  {func(s *Spec) { delete(s.Bindings, "printer") }, refusal.SymbolNotFound, "nothing is known of printer"},
		"bound in no way":          {bind("printer", func(b *Binding) { b.Kind = "guess" }), refusal.SymbolNotFound, `in no known way ("guess")`},
		"absent but needed":        {bind("printer", func(b *Binding) { b.Kind = Absent }), refusal.SymbolNotFound, "not weak"},
		"no klp_enable_patch":      {func(s *Spec) { delete(s.Bindings, enablePatch) }, refusal.NotExported, "klp_enable_patch: the kernel is not known to export it"},
		"no return thunk":          {func(s *Spec) { s.Bindings[returnThunk] = Binding{Kind: KLP} }, refusal.NotExported, "__x86_return_thunk: the kernel is not known to export it"},
		"no module_layout":         {func(s *Spec) { delete(s.Bindings, moduleLayout) }, refusal.SymbolVersion, "version of the kernel's module format"},
		"no version":               {bind(enablePatch, func(b *Binding) { b.HasCRC = false }), refusal.SymbolVersion, "klp_enable_patch: its version is not known"},
		"long export":              {func(s *Spec) { s.Versions = BasicVersions; bind("printer", func(b *Binding) { b.Name = long[:56] })(s) }, refusal.NameLimit, "has 56 characters, a version"},
		"module namespace":         {bind("printer", func(b *Binding) { b.Namespace = "module:kvm" }), refusal.NamespaceMissing, "certain modules only"},
		"comma in symbol":          {bind("kernel_variable", func(b *Binding) { b.Name = "a,b" }), refusal.NameLimit, `has a ","`},
		"long symbol":              {bind("kernel_variable", func(b *Binding) { b.Name = long[:512] }), refusal.NameLimit, "512 characters"},
		"symbol position":          {bind("kernel_variable", func(b *Binding) { b.Pos = -1 }), refusal.WrongPosition, "is to be at -1"},
		"object of symbol":         {bind("module_variable", func(b *Binding) { b.Object = "a.b" }), refusal.NameLimit, `character '.'`},
		"kernel needs a module":    {bind("module_variable", func(b *Binding) { b.For = "" }), refusal.KLPFormat, "code of the kernel refers to module_variable of module xfs"},
		"module not patched":       {bind("module_variable", func(b *Binding) { b.For = "ext4" }), refusal.KLPFormat, "module ext4 is there, which is not patched"},
		"late table": {func(s *Spec) {
			s.Bindings["__fentry__"] = s.Bindings["module_variable"]
			setRel("__mcount_loc", 0, func(r *elfpatch.Rela, f *elfpatch.File) {
				r.Symbol = symbolNamed(f, "__fentry__")
			})(s)
		}, refusal.TableEntry, "reads this table before"},
		"unknown relocation": {setRel(".text", 0, func(r *elfpatch.Rela, _ *elfpatch.File) { r.Type = uint32(elf.R_X86_64_GOTPCREL) }), refusal.RelocationInvalid, "no relocations of type R_X86_64_GOTPCREL"},
		"relocation outside": {setRel(".text", 0, func(r *elfpatch.Rela, _ *elfpatch.File) { r.Offset = 31 }), refusal.RelocationInvalid, "not inside of the section"},
		"relocation of bss": {func(s *Spec) {
			if err := s.Object.SetRelocations(section(".bss")(s), []elfpatch.Rela{{Type: x64PC32}}); err != nil {
				t.Fatal(err)
			}
		}, refusal.RelocationInvalid, "not inside of the section"},
		"field not zero": {func(s *Spec) { section(".text")(s).Data[5] = 1 }, refusal.RelocationInvalid, "field of a relocation is not zero"},
		"reference to debug": {setRel(".text", 0, func(r *elfpatch.Rela, f *elfpatch.File) {
			r.Symbol = uint32(f.AddSymbol(elfpatch.Symbol{Name: "note", Section: f.Section(".comment").Index}))
		}), refusal.RelocationInvalid, "note, which is not part of the module"},
		"writable code":      {func(s *Spec) { section(".text")(s).Flags |= elf.SHF_WRITE }, refusal.ModuleFormat, "writable and executable"},
		"section twice":      {func(s *Spec) { section(".rodata")(s).Name = ".data" }, refusal.ModuleFormat, "two sections have this name"},
		"section of its own": {func(s *Spec) { section(".bss")(s).Name = "__ksymtab" }, refusal.Unsupported, "exported symbols"},
		"thread-local":       {func(s *Spec) { section(".data")(s).Flags |= elf.SHF_TLS }, refusal.Unsupported, "section of this kind"},
		"common":             {func(s *Spec) { s.Object.AddSymbol(elfpatch.Symbol{Name: "c", Section: elfpatch.Common}) }, refusal.Unsupported, "no common symbols"},
		"init of its own":    {func(s *Spec) { s.Object.AddSymbol(elfpatch.Symbol{Name: "init_module", Section: 1}) }, refusal.Unsupported, "a meaning of its own"},
		"no unwind tables":   {func(s *Spec) { section(".orc_unwind")(s).Name = ".rodata.orc" }, refusal.UnwindMissing, "no ORC tables"},
		"odd unwind tables":  {func(s *Spec) { sec := section(".orc_unwind")(s); sec.Data = sec.Data[:11]; sec.Size = 11 }, refusal.UnwindMissing, "11 bytes for 8 bytes of addresses"},
		"uncovered": {func(s *Spec) {
			setRel(".orc_unwind_ip", 0, func(r *elfpatch.Rela, _ *elfpatch.File) { r.Addend = 1 })(s)
		}, refusal.UnwindMissing, "no entry covers"},
	} {
		s := x86Spec(t)
		tc.change(&s)
		_, err := Emit(s)
		list := refusals(t, err)
		if len(list) != 1 || list[0].Code != tc.code || !strings.Contains(list[0].Error(), tc.want) {
			t.Errorf("%s: want %s with %q, got %v", name, tc.code, tc.want, err)
		}
	}
}

func symbolNamed(f *elfpatch.File, name string) uint32 {
	for i, s := range f.Symbols {
		if s.Name == name {
			return uint32(i)
		}
	}
	panic("no symbol " + name)
}

// TestStaticCallKey is about a key that only an exported trampoline leads to.
func TestStaticCallKey(t *testing.T) {
	for kind, want := range map[BindingKind]int{Export: 0, KLP: 1} {
		b := x86Object()
		sec := b.section(".static_call_sites", elf.SHF_WRITE, 1, make([]byte, 8))
		b.rel(sec, 0, x64PC32, symbolNamed(b.f, "show"), 0)
		b.rel(sec, 4, x64PC32, b.undefined("__SCT__might_resched"), 2)
		bindings := x86Spec(t).Bindings
		bindings["__SCT__might_resched"] = Binding{Kind: kind}
		m := mergeObject(t, b, "xfs", bindings)
		if keys := m.Keys(); len(keys) != 1 || keys[0] != "__SCK__might_resched" {
			t.Errorf("keys %q", keys)
		}
		s := x86Spec(t)
		s.Object, s.Bindings = m.Object, ownBindings(m.Bindings)
		_, err := Emit(s)
		if list := refusals(t, err); len(list) != want || want > 0 && list[0].Code != refusal.TableEntry {
			t.Errorf("%s: %v", kind, err)
		}
		m.AddKey(m.Keys()[0], Binding{Kind: KLP})
		if keys := m.Keys(); len(keys) != 0 {
			t.Errorf("keys %q are asked for again", keys)
		}
	}
}

// TestUnseal keeps the landing pads of functions that the kernel calls through
// the module's structures.
func TestUnseal(t *testing.T) {
	b := x86Object()
	show := symbolNamed(b.f, "show")
	other := b.symbol("other", elf.STT_FUNC, elf.STB_LOCAL, 1, 9, 4)
	text := b.symbol("", elf.STT_SECTION, elf.STB_LOCAL, 1, 0, 0)
	sec := b.section(sealed, 0, 1, make([]byte, 12))
	for i, sym := range []uint32{show, other, text} {
		b.rel(sec, uint64(4*i), x64PC32, sym, 0)
	}
	s := x86Spec(t)
	m := mergeObject(t, b, "xfs", s.Bindings)
	s.Object, s.Bindings = m.Object, ownBindings(m.Bindings)
	out, err := Emit(s)
	if err != nil {
		t.Fatal(err)
	}
	f := checkModule(t, out)
	rels, err := f.Relocations(f.Section(sealed))
	if err != nil || len(rels) != 1 || f.Section(sealed).Size != 4 || f.Symbols[rels[0].Symbol].Name != "other" || rels[0].Offset != 0 {
		t.Errorf("%+v, error %v", rels, err)
	}
}

// TestEmitWrongFile is about what is no refusal.
func TestEmitWrongFile(t *testing.T) {
	for _, f := range []*elfpatch.File{nil, elfpatch.New(elf.ET_EXEC, elf.EM_X86_64), elfpatch.New(elf.ET_REL, elf.EM_RISCV)} {
		s := x86Spec(t)
		s.Object = f
		if _, err := Emit(s); err == nil || !strings.HasPrefix(err.Error(), "emit golden: ") {
			t.Errorf("%v", err)
		}
	}
}

// TestVariants are modules for kernels without this or that.
func TestVariants(t *testing.T) {
	for name, tc := range map[string]struct {
		change       func(*Spec)
		has, without []string
	}{
		"no versions":  {func(s *Spec) { s.Versions = NoVersions; delete(s.Bindings, moduleLayout) }, nil, []string{"__versions", "__version_ext_crcs"}},
		"extended":     {func(s *Spec) { s.Versions = ExtendedVersions }, []string{"__version_ext_crcs", "__version_ext_names"}, []string{"__versions"}},
		"no thunks":    {func(s *Spec) { s.Rethunk, s.Retpoline = false, false }, []string{".exit.text"}, []string{".rela.exit.text"}},
		"own thunk":    {func(s *Spec) { s.Object.Section(".return_sites").Name = ".rodata.other" }, []string{".return_sites"}, nil},
		"no unloading": {func(s *Spec) { delete(s.ABI.Structs["module"].Members, "exit") }, []string{".gnu.linkonce.this_module"}, nil},
		"module export": {func(s *Spec) {
			s.Bindings["printer"] = Binding{Kind: Export, Object: "libcrc32c", Name: "crc32c", CRC: 5, HasCRC: true}
		}, []string{".modinfo"}, nil},
	} {
		s := x86Spec(t)
		tc.change(&s)
		b, err := Emit(s)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		f := checkModule(t, b)
		for _, sec := range tc.has {
			if f.Section(sec) == nil {
				t.Errorf("%s: no section %s", name, sec)
			}
		}
		for _, sec := range tc.without {
			if f.Section(sec) != nil {
				t.Errorf("%s: there is a section %s", name, sec)
			}
		}
		if name == "module export" && !bytes.Contains(f.Section(".modinfo").Data, []byte("\x00depends=libcrc32c\x00")) {
			t.Errorf("%q", f.Section(".modinfo").Data)
		}
	}
}

// TestTools has readelf and modinfo read modules.
func TestTools(t *testing.T) {
	for name, spec := range map[string]Spec{"x86": x86Spec(t), "arm64": arm64Spec(t)} {
		b, err := Emit(spec)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), name+".ko")
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		var stderr bytes.Buffer
		cmd := exec.Command(testkit.Tool(t, "readelf"), "-aW", file)
		cmd.Stderr = &stderr
		if out, err := cmd.Output(); err != nil || stderr.Len() > 0 || bytes.Contains(out, []byte("arning")) {
			t.Errorf("%s: readelf: %v\n%s", name, err, stderr.Bytes())
		}
		out, err := exec.Command(testkit.Tool(t, "modinfo"), "-F", "vermagic", file).CombinedOutput()
		if err != nil || string(out) != spec.Vermagic+"\n" {
			t.Errorf("%s: modinfo: %v\n%s", name, err, out)
		}
	}
}

func FuzzEmit(f *testing.F) {
	for _, s := range []Spec{x86Spec(f), arm64Spec(f)} {
		b, err := s.Object.Bytes()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := elfpatch.Parse(b)
		if err != nil || file.Type != elf.ET_REL {
			return
		}
		part := Part{Name: "fuzz.o", Cut: asCut(file, "show"), Bindings: map[int]Binding{}}
		for i, x := range part.Cut.Externals {
			part.Bindings[i] = Binding{Kind: Export, Name: x.Name}
		}
		m, err := Merge(file.Machine, []Part{part})
		if err != nil {
			return
		}
		s := x86Spec(t)
		s.Object, s.Bindings = m.Object, ownBindings(m.Bindings)
		if b, err := Emit(s); err == nil {
			if _, err := elfpatch.Parse(b); err != nil {
				t.Errorf("the module cannot be read: %v", err)
			}
		}
	})
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte("# CONFIG_A is not set\nCONFIG_B=y\nCONFIG_C=\"x\"\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := ParseConfig(b)
		if args := ObjtoolArgs(c); args[len(args)-1] != "--module" {
			t.Errorf("arguments %q", args)
		}
	})
}

func BenchmarkEmit(b *testing.B) {
	s := x86Spec(b)
	var n int
	for b.Loop() {
		out, err := Emit(s)
		if err != nil {
			b.Fatal(err)
		}
		n = len(out)
	}
	b.ReportMetric(float64(n), "bytes")
}
