package modcheck

import (
	"debug/elf"
	"slices"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/check"
	"livepatch/internal/refusal"
)

// A mutant is a valid module with one thing wrong.
type mutant struct {
	name   string
	base   string // source, static-x86.S if empty
	edits  []edit
	change func(f *elfpatch.File)
	set    func(s *Set)
	want   refusal.Code
	also   []refusal.Code // what cannot be separated from it
}

func TestMutants(t *testing.T) {
	set := x86Set(t)
	codes := map[refusal.Code]bool{}
	for _, m := range slices.Concat(formatMutants, patchMutants, klpMutants, targetMutants, relocationMutants, tableMutants, codeMutants) {
		t.Run(strings.ReplaceAll(m.name, " ", "-"), func(t *testing.T) {
			base := m.base
			if base == "" {
				base = "static-x86.S"
			}
			f := livepatch(t, elf.EM_X86_64, base, m.edits...)
			if m.change != nil {
				m.change(f)
			}
			s := set
			if m.set != nil {
				m.set(&s)
			}
			expect(t, Check(fileOf(t, f), s), m.want, m.also...)
		})
		codes[m.want] = true
	}
	for _, c := range refusal.Codes {
		if own := slices.Contains(ownCodes, c.Code); own && !codes[c.Code] {
			t.Errorf("no mutant is refused with %s", c.Code)
		}
	}
}

// ownCodes are the codes of this package.
var ownCodes = []refusal.Code{
	refusal.NotALivepatch, refusal.ModuleFormat, refusal.KLPFormat, refusal.KLPStructures, refusal.NameLimit, refusal.WrongVermagic,
	refusal.SymbolVersion, refusal.NotExported, refusal.NamespaceMissing, refusal.WrongPosition, refusal.NoFtraceSite,
	refusal.RelocationInvalid, refusal.TableEntry, refusal.LandingPadMissing, refusal.MitigationMissing, refusal.UnwindMissing,
	refusal.SymbolNotFound, refusal.AddressAmbiguous,
}

// expect asks for refusals with one code and no other.
func expect(t *testing.T, r *check.Report, want refusal.Code, also ...refusal.Code) {
	t.Helper()
	found := false
	for _, x := range r.Results {
		if x.Status != check.Refused {
			continue
		}
		found = found || x.Code == want
		if x.Code != want && !slices.Contains(also, x.Code) {
			t.Errorf("also refused: %s %s: %s [%s]", x.What, x.Where, x.Text, x.Code)
		}
	}
	if !found {
		t.Errorf("not refused with %s\n%s", want, reportText(r))
	}
}

func drop(old string) []edit      { return []edit{{old, ""}} }
func swap(old, new string) []edit { return []edit{{old, new}} }
func section(f *elfpatch.File, name string) *elfpatch.Section {
	if s := f.Section(name); s != nil {
		return s
	}
	panic("no section " + name)
}

// symbolNamed returns a symbol, which must be there.
func symbolNamed(f *elfpatch.File, name string) *elfpatch.Symbol {
	for i := range f.Symbols {
		if f.Symbols[i].Name == name {
			return &f.Symbols[i]
		}
	}
	panic("no symbol " + name)
}

// relocs changes the ordinary relocations of a section.
func relocs(name string, change func(f *elfpatch.File, list []elfpatch.Rela) []elfpatch.Rela) func(*elfpatch.File) {
	return func(f *elfpatch.File) { rewrite(f, ".rela"+name, change) }
}

// rewrite changes a section of relocations.
func rewrite(f *elfpatch.File, name string, change func(f *elfpatch.File, list []elfpatch.Rela) []elfpatch.Rela) {
	s := section(f, name)
	list := change(f, decodeRela(s.Data))
	s.Data = nil
	for _, r := range list {
		s.Data = le.AppendUint64(s.Data, r.Offset)
		s.Data = le.AppendUint32(s.Data, r.Type)
		s.Data = le.AppendUint32(s.Data, r.Symbol)
		s.Data = le.AppendUint64(s.Data, uint64(r.Addend))
	}
	s.Size = uint64(len(s.Data))
}

func first(change func(r *elfpatch.Rela)) func(*elfpatch.File, []elfpatch.Rela) []elfpatch.Rela {
	return func(_ *elfpatch.File, list []elfpatch.Rela) []elfpatch.Rela {
		change(&list[0])
		return list
	}
}

var formatMutants = []mutant{
	{name: "no livepatch tag", edits: drop("\t.asciz \"livepatch=Y\"\n"), want: refusal.NotALivepatch},
	{name: "enables nothing", edits: []edit{{"jmp klp_enable_patch", "jmp _printk"}}, want: refusal.NotALivepatch},
	{name: "no modinfo", change: func(f *elfpatch.File) { section(f, ".modinfo").Name = ".xnfo" }, want: refusal.ModuleFormat},
	{name: "two modinfos", change: func(f *elfpatch.File) { section(f, ".rodata.str1.1").Name = ".modinfo" }, want: refusal.ModuleFormat},
	{name: "no this_module", change: func(f *elfpatch.File) { section(f, thisModule).Name = ".data.this" }, want: refusal.ModuleFormat},
	{name: "this_module too short", edits: swap(".zero 1280 - 1208", ".zero 1272 - 1208"), want: refusal.ModuleFormat},
	{name: "this_module not loaded", change: func(f *elfpatch.File) { section(f, thisModule).Flags &^= elf.SHF_ALLOC }, want: refusal.ModuleFormat,
		also: []refusal.Code{refusal.RelocationInvalid}},
	{name: "init at another offset", edits: []edit{{"312 - 24 - 4", "304 - 24 - 4"}, {".zero 1200 - 320", ".zero 1208 - 320"}}, want: refusal.ModuleFormat},
	{name: "exit at another offset", edits: []edit{{".zero 1200 - 320", ".zero 1208 - 320"}, {".zero 1280 - 1208", ".zero 1280 - 1216"}}, want: refusal.ModuleFormat},
	{name: "no exit", edits: swap("\t.quad cleanup_module\n", "\t.quad 0\n"), want: refusal.ModuleFormat},
	{name: "init is no function", edits: swap("\t.quad init_module\n", "\t.quad init_module + 4\n"), want: refusal.ModuleFormat, also: []refusal.Code{refusal.LandingPadMissing}},
	{name: "another name", edits: swap("\t.asciz \"fix\"\n", "\t.asciz \"fox\"\n"), want: refusal.ModuleFormat},
	{name: "name with dash", edits: []edit{{"\t.asciz \"fix\"\n", "\t.asciz \"f-x\"\n"}, {"name=fix", "name=f-x"}}, want: refusal.NameLimit},
	{name: "writable code", change: func(f *elfpatch.File) { section(f, ".text.widget").Flags |= elf.SHF_WRITE }, want: refusal.ModuleFormat},
	{name: "common symbol", edits: swap("\t.text\nk_func new_show", "\t.comm shared,8,8\n\t.text\nk_func new_show"), want: refusal.ModuleFormat},
	{name: "another vermagic", edits: swap("SMP preempt mod_unload modversions ", "SMP mod_unload modversions "), want: refusal.WrongVermagic},
	{name: "another release", edits: swap("6.12.0-test", "6.12.1-test"), want: refusal.WrongVermagic},
	{name: "no vermagic", edits: swap("vermagic=", "magic="), want: refusal.WrongVermagic},
	{name: "long symbol", change: func(f *elfpatch.File) { symbolNamed(f, "new_log").Name = strings.Repeat("x", 512) }, want: refusal.NameLimit},
}

var patchMutants = []mutant{
	{name: "no patch", edits: swap("patch:\t.quad __this_module", "patch:\t.quad 0"), want: refusal.KLPStructures, also: []refusal.Code{refusal.KLPFormat, refusal.LandingPadMissing}},
	{name: "replace out of range", edits: swap("\t.byte 1\n\t.zero 200 - 25", "\t.byte 2\n\t.zero 200 - 25"), want: refusal.KLPStructures},
	{name: "members of the kernel set", edits: swap("\t.zero 200 - 25", "\t.zero 100\n\t.quad 1\n\t.zero 200 - 25 - 108"), want: refusal.KLPStructures},
	{name: "functions without end", edits: swap("\t.quad .Ltwin, new_twin, 2\n\t.zero 152 - 24\n\t.zero 152\n", "\t.quad .Ltwin, new_twin, 2\n\t.zero 152 - 24\n"), want: refusal.KLPStructures,
		also: []refusal.Code{refusal.SymbolNotFound}},
	{name: "states without end", edits: []edit{{"\t.quad 0\n\t.zero 24\npatch:", "\t.quad 0\npatch:"}, {"\t.zero 200 - 25", "\t.zero 200 - 25\n"}}, want: refusal.KLPStructures},
	{name: "state twice", edits: swap("\t.quad 0\n\t.zero 24\npatch:", "\t.quad 0\n\t.quad 7, 3, 0\n\t.zero 24\npatch:"), want: refusal.KLPStructures},
	{name: "function without a name", edits: swap(".quad .Ltwin, new_twin, 2", ".quad 0, new_twin, 2"), want: refusal.KLPStructures},
	{name: "empty name", edits: swap(".asciz \"twin\"", ".asciz \"\""), want: refusal.KLPStructures},
	{name: "function without replacement", edits: swap(".quad .Ltwin, new_twin, 2", ".quad .Ltwin, 0, 2"), want: refusal.KLPStructures},
	{name: "replacement in the middle", edits: swap("new_show, 0\n", "new_show + 4, 0\n"), want: refusal.KLPStructures, also: []refusal.Code{refusal.LandingPadMissing}},
	{name: "replacement in init text", edits: swap(".Lturn, new_turn", ".Lturn, init_module"), want: refusal.KLPStructures},
	{name: "replacement is data", edits: swap(".Ltwin, new_twin", ".Ltwin, widget_log"), want: refusal.KLPStructures},
	{name: "function twice", edits: swap("\t.quad .Ltwin, new_twin, 2\n", "\t.quad .Lshow, new_twin, 1\n"), want: refusal.KLPStructures, also: []refusal.Code{refusal.LandingPadMissing}},
	{name: "object twice", edits: swap(".quad .Lwidget, wfuncs", ".quad 0, wfuncs"), want: refusal.KLPStructures,
		also: []refusal.Code{refusal.KLPFormat, refusal.SymbolNotFound}},
	{name: "object named vmlinux", edits: swap(".quad .Lwidget, wfuncs", ".quad .Lvmlinux, wfuncs"), want: refusal.KLPStructures,
		also: []refusal.Code{refusal.KLPFormat, refusal.SymbolNotFound}},
	{name: "object without functions", edits: swap(".quad .Lwidget, wfuncs", ".quad .Lwidget, 0"), want: refusal.KLPStructures},
	{name: "object with dash", edits: swap(".asciz \"widget\"", ".asciz \"wid-get\""), want: refusal.NameLimit, also: []refusal.Code{refusal.KLPFormat}},
	{name: "callback is data", edits: swap(".quad before_patch, 0, 0, 0", ".quad widget_log, 0, 0, 0"), want: refusal.KLPStructures, also: []refusal.Code{refusal.LandingPadMissing}},
	{name: "callback in the middle", edits: swap(".quad before_patch, 0, 0, 0", ".quad before_patch + 4, 0, 0, 0"), want: refusal.KLPStructures, also: []refusal.Code{refusal.LandingPadMissing}},
	{name: "structures in init data", edits: []edit{{"\t.data\n\t.p2align 5\nfuncs:", "\t.section .init.data,\"aw\"\n\t.p2align 5\nfuncs:"}}, want: refusal.KLPStructures},
	{name: "structures are constant", edits: []edit{{"\t.data\n\t.p2align 5\nfuncs:", "\t.section .rodata,\"a\"\n\t.p2align 5\nfuncs:"}}, want: refusal.KLPStructures},
	{name: "kpatch records torn", base: "kpatch-x86.S", edits: swap("2, .Lktwin, .Lkvmlinux\n", "2, .Lktwin, .Lkvmlinux\n\t.quad 0\n"), want: refusal.KLPStructures, also: []refusal.Code{refusal.KLPFormat}},
	{name: "kpatch record without object", base: "kpatch-x86.S", edits: swap("2, .Lktwin, .Lkvmlinux\n", "2, .Lktwin, 0\n"), want: refusal.KLPStructures,
		also: []refusal.Code{refusal.NameLimit}},
	{name: "kpatch callback twice", base: "kpatch-x86.S", edits: swap("\t.quad 0\t\t\t# what", "\t.quad before_patch, .Lkvmlinux\n\t.quad 0\t\t\t# what"), want: refusal.KLPStructures},
	{name: "in-tree objects torn", base: "intree-x86.S", edits: swap("\t.long 1, 0\n", "\t.long 1\n"), want: refusal.KLPStructures, also: []refusal.Code{refusal.KLPFormat}},
	{name: "in-tree too many functions", base: "intree-x86.S", edits: swap("\t.long 1, 0\n", "\t.long 2, 0\n"), want: refusal.KLPStructures},
	{name: "in-tree no functions", base: "intree-x86.S", edits: swap("\t.long 1, 0\n", "\t.long 0, 0\n"), want: refusal.KLPStructures},
	{name: "in-tree callback of the kernel", base: "intree-x86.S", edits: swap(".quad before_patch, 0, 0, 0, 0", ".quad before_patch, 0, 0, 0, 1"), want: refusal.KLPStructures},
}

var klpMutants = []mutant{
	{name: "klp section unmarked", change: func(f *elfpatch.File) { section(f, ".klp.rela.vmlinux..text").Flags &^= shfLivepatch }, want: refusal.KLPFormat},
	{name: "klp section not loaded", change: func(f *elfpatch.File) { section(f, ".klp.rela.vmlinux..text").Flags &^= elf.SHF_ALLOC }, want: refusal.KLPFormat},
	{name: "klp section without info link", change: func(f *elfpatch.File) { section(f, ".klp.rela.vmlinux..text").Flags &^= elf.SHF_INFO_LINK }, want: refusal.KLPFormat},
	{name: "klp section renamed", change: func(f *elfpatch.File) { section(f, ".klp.rela.vmlinux..text").Name = ".klp.rela.vmlinux" }, want: refusal.KLPFormat},
	{name: "klp section of another", change: func(f *elfpatch.File) { section(f, ".klp.rela.vmlinux..text").Name = ".klp.rela.vmlinux..data" }, want: refusal.KLPFormat},
	{name: "klp section of an object not patched", change: func(f *elfpatch.File) {
		section(f, ".klp.rela.widget..text.widget").Name = ".klp.rela.gadget..text.widget"
	},
		want: refusal.KLPFormat},
	{name: "klp section with a dash", change: func(f *elfpatch.File) {
		section(f, ".klp.rela.widget..text.widget").Name = ".klp.rela.wid-get..text.widget"
	},
		want: refusal.NameLimit, also: []refusal.Code{refusal.KLPFormat}},
	{name: "klp section linked elsewhere", change: func(f *elfpatch.File) { section(f, ".klp.rela.vmlinux..text").Link = 1 }, want: refusal.KLPFormat},
	{name: "klp section twice", change: func(f *elfpatch.File) {
		s := section(f, ".klp.rela.vmlinux..text")
		addRelas(f, s.Name, f.Sections[s.Info], nil)
	}, want: refusal.KLPFormat},
	{name: "klp reference to an ordinary symbol", change: func(f *elfpatch.File) {
		rewrite(f, ".klp.rela.vmlinux..text", func(f *elfpatch.File, list []elfpatch.Rela) []elfpatch.Rela {
			list[0].Symbol = uint32(slices.IndexFunc(f.Symbols, func(s elfpatch.Symbol) bool { return s.Name == "_printk" }))
			return list
		})
	}, want: refusal.KLPFormat},
	{name: "module section against vmlinux", change: func(f *elfpatch.File) {
		rewrite(f, ".klp.rela.widget..text.widget", func(f *elfpatch.File, list []elfpatch.Rela) []elfpatch.Rela {
			list[0].Symbol = uint32(slices.IndexFunc(f.Symbols, func(s elfpatch.Symbol) bool { return s.Name == ".klp.sym.vmlinux.helper,0" }))
			return list
		})
	}, want: refusal.KLPFormat},
	{name: "vmlinux section against a module", edits: swap("k_call klp..vmlinux..helper..0", "k_call klp..vmlinux..helper..0\n\tk_call klp..vmlinux..old_direct..0"), change: func(f *elfpatch.File) {
		symbolNamed(f, ".klp.sym.vmlinux.old_direct,0").Name = ".klp.sym.widget.widget_bare,0"
	}, want: refusal.KLPFormat},
	{name: "klp symbol unmarked", change: func(f *elfpatch.File) { symbolNamed(f, ".klp.sym.vmlinux.helper,0").Section = 0 }, want: refusal.KLPFormat,
		also: []refusal.Code{refusal.NotExported}},
	{name: "klp symbol unnamed", change: func(f *elfpatch.File) { symbolNamed(f, ".klp.sym.vmlinux.helper,0").Name = "helper" }, want: refusal.KLPFormat},
	{name: "klp symbol without position", change: func(f *elfpatch.File) { symbolNamed(f, ".klp.sym.vmlinux.helper,0").Name = ".klp.sym.vmlinux.helper" },
		want: refusal.KLPFormat},
	{name: "klp symbol with a word as position", change: func(f *elfpatch.File) { symbolNamed(f, ".klp.sym.vmlinux.helper,0").Name = ".klp.sym.vmlinux.helper,x" },
		want: refusal.KLPFormat},
	{name: "klp symbol too long", change: func(f *elfpatch.File) {
		symbolNamed(f, ".klp.sym.vmlinux.helper,0").Name = ".klp.sym.vmlinux." + strings.Repeat("h", 512) + ",0"
	}, want: refusal.NameLimit},
	{name: "klp object too long", change: func(f *elfpatch.File) {
		symbolNamed(f, ".klp.sym.widget.widget_gear,0").Name = ".klp.sym." + strings.Repeat("w", 56) + ".widget_gear,0"
	}, want: refusal.NameLimit},
	{name: "late relocation of a table", change: func(f *elfpatch.File) {
		s := section(f, ".klp.rela.vmlinux.__jump_table")
		s.Name = ".klp.rela.widget.__jump_table"
		symbolNamed(f, ".klp.sym.vmlinux.key,0").Name = ".klp.sym.widget.widget_state,0"
	}, want: refusal.KLPFormat},
}
