package modcheck

import (
	"debug/elf"
	"maps"

	"livepatch/elfpatch"
	"livepatch/internal/kimage"
	"livepatch/internal/refusal"
)

// rename changes the name of a livepatch symbol.
func rename(old, new string) func(*elfpatch.File) {
	return func(f *elfpatch.File) { symbolNamed(f, old).Name = new }
}

// withExport changes what one symbol is exported as.
func withExport(name string, change func(e *kimage.Export)) func(*Set) {
	return func(s *Set) {
		s.Exports = maps.Clone(s.Exports)
		e := s.Exports[name]
		change(&e)
		s.Exports[name] = e
	}
}

var targetMutants = []mutant{
	{name: "unknown klp symbol", change: rename(".klp.sym.vmlinux.helper,0", ".klp.sym.vmlinux.helped,0"), want: refusal.SymbolNotFound},
	{name: "unknown klp symbol of a module", change: rename(".klp.sym.widget.widget_gear,0", ".klp.sym.widget.helper,0"), want: refusal.SymbolNotFound},
	{name: "ambiguous klp symbol", change: rename(".klp.sym.vmlinux.helper,0", ".klp.sym.vmlinux.twin,0"), want: refusal.AddressAmbiguous},
	{name: "position too big", change: rename(".klp.sym.vmlinux.helper,0", ".klp.sym.vmlinux.helper,2"), want: refusal.WrongPosition},
	{name: "position of a twin too big", change: rename(".klp.sym.vmlinux.helper,0", ".klp.sym.vmlinux.twin,3"), want: refusal.WrongPosition},
	{name: "unknown function", edits: swap(".asciz \"old_show\"", ".asciz \"old_shew\""), want: refusal.SymbolNotFound},
	{name: "ambiguous function", edits: swap(".quad .Ltwin, new_twin, 2", ".quad .Ltwin, new_twin, 0"), want: refusal.AddressAmbiguous},
	{name: "position of a function too big", edits: swap(".quad .Ltwin, new_twin, 2", ".quad .Ltwin, new_twin, 3"), want: refusal.WrongPosition},
	{name: "function of the wrong object", edits: swap(".asciz \"widget_turn\"", ".asciz \"old_direct\""), want: refusal.SymbolNotFound},
	{name: "function without a site", edits: []edit{{".asciz \"twin\"", ".asciz \"quiet\""}, {".quad .Ltwin, new_twin, 2", ".quad .Ltwin, new_twin, 0"}}, want: refusal.NoFtraceSite},
	{name: "module function without a site", edits: swap(".asciz \"widget_turn\"", ".asciz \"widget_bare\""), want: refusal.NoFtraceSite},
	{name: "function with two sites", edits: swap(".asciz \"old_show\"", ".asciz \"crowded\""), want: refusal.NoFtraceSite},
	{name: "function with the site of another", edits: []edit{{".asciz \"twin\"", ".asciz \"barren\""}, {".quad .Ltwin, new_twin, 2", ".quad .Ltwin, new_twin, 0"}}, want: refusal.NoFtraceSite},
	{name: "function in init text", edits: []edit{{".asciz \"twin\"", ".asciz \"early\""}, {".quad .Ltwin, new_twin, 2", ".quad .Ltwin, new_twin, 0"}}, want: refusal.NoFtraceSite},
	{name: "function is data", edits: []edit{{".asciz \"twin\"", ".asciz \"counter\""}, {".quad .Ltwin, new_twin, 2", ".quad .Ltwin, new_twin, 0"}}, want: refusal.NoFtraceSite},
	{name: "not exported", edits: swap("k_call _printk", "k_call _printj"), want: refusal.NotExported},
	{name: "license", edits: swap("license=GPL", "license=Proprietary"), want: refusal.NotExported},
	{name: "exported by a module that is not named", set: withExport("spaced", func(e *kimage.Export) { e.Module = "widget" }), want: refusal.NotExported},
	{name: "namespace", edits: swap("import_ns=SPACE", "import_ns=PLACE"), want: refusal.NamespaceMissing},
	{name: "namespace of other modules", set: withExport("spaced", func(e *kimage.Export) { e.Namespace = "module:kvm,kvm-amd" }), want: refusal.NamespaceMissing},
	{name: "wrong checksum", edits: swap("k_version 0x33333333", "k_version 0x33333334"), want: refusal.SymbolVersion},
	{name: "no checksum", edits: drop("\tk_version 0x33333333, _printk\n"), want: refusal.SymbolVersion},
	{name: "wrong module_layout", edits: swap("k_version 0x11111111", "k_version 0x11111112"), want: refusal.SymbolVersion},
	{name: "versions torn", edits: swap("\tk_version 0x99999999, __SCK__hook\n", "\tk_version 0x99999999, __SCK__hook\n\t.quad 0\n"), want: refusal.SymbolVersion},
}

var relocationMutants = []mutant{
	{name: "unknown type", change: relocs(".text", first(func(r *elfpatch.Rela) { r.Type = uint32(elf.R_X86_64_GOTPCREL) })), want: refusal.RelocationInvalid},
	{name: "outside of the section", change: relocs(".data", first(func(r *elfpatch.Rela) { r.Offset = 1 << 20 })), want: refusal.RelocationInvalid,
		also: []refusal.Code{refusal.LandingPadMissing}},
	{name: "across the end of the section", change: relocs(".gnu.linkonce.this_module", func(_ *elfpatch.File, list []elfpatch.Rela) []elfpatch.Rela {
		r := list[1]
		r.Offset = 1276
		return append(list, r)
	}), want: refusal.RelocationInvalid, also: []refusal.Code{refusal.ModuleFormat}},
	{name: "leads behind the strings", change: relocs(".text", func(f *elfpatch.File, list []elfpatch.Rela) []elfpatch.Rela {
		for i := range list {
			if list[i].Type == uint32(elf.R_X86_64_32S) {
				list[i].Addend += 0x1000
			}
		}
		return list
	}), want: refusal.RelocationInvalid},
	{name: "leads before the data", change: relocs(".data", first(func(r *elfpatch.Rela) { r.Addend = -8 - int64(r.Addend) })), want: refusal.RelocationInvalid},
	{name: "writes where bytes stand", edits: swap("widget_log:\n\t.quad new_log", "widget_log:\n\t.quad new_log"), change: func(f *elfpatch.File) {
		section(f, ".data").Data[section(f, ".data").Size-1] = 0
		b := append([]byte(nil), section(f, ".text").Data...)
		b[5] = 1
		section(f, ".text").Data = b
	}, want: refusal.RelocationInvalid},
	{name: "two at one place", change: relocs(".text", func(_ *elfpatch.File, list []elfpatch.Rela) []elfpatch.Rela {
		return append(list, list[0])
	}), want: refusal.RelocationInvalid},
	{name: "refers to what is not loaded", edits: swap("widget_log:\n\t.quad new_log", "\t.quad note\n\t.section .comment\nnote:\t.quad 0\n\t.data\nwidget_log:\n\t.quad new_log"), want: refusal.RelocationInvalid},
	{name: "too narrow", edits: swap("movq $.Lhello, %rdi", "movl $.Lhello, %edi\n\tnop"), want: refusal.RelocationInvalid},
	{name: "ordinary relocation to a klp symbol", change: func(f *elfpatch.File) {
		rewrite(f, ".rela.text", first(func(r *elfpatch.Rela) {
			for i := range f.Symbols {
				if f.Symbols[i].Name == ".klp.sym.vmlinux.helper,0" {
					r.Symbol = uint32(i)
				}
			}
		}))
	}, want: refusal.KLPFormat, also: []refusal.Code{refusal.MitigationMissing}},
	{name: "call into the middle", edits: swap("k_call spaced", "k_call new_log + 4\n\tk_call spaced"), change: nil, want: refusal.RelocationInvalid},
	{name: "no field of an instruction", change: relocs(".text", first(func(r *elfpatch.Rela) { r.Offset-- })), want: refusal.RelocationInvalid, also: []refusal.Code{refusal.MitigationMissing}},
}

var tableMutants = []mutant{
	{name: "bug table torn", edits: swap("\t.short 17, 2305\n", "\t.short 17, 2305, 0\n"), want: refusal.TableEntry},
	{name: "alternatives of another stride", edits: swap("\t.long 0x73\n", "\t.short 0x73\n"), want: refusal.TableEntry},
	{name: "bug at another instruction", edits: swap("\t.long 2b - ., .Lfile - .", "\t.long 3f - ., .Lfile - ."), want: refusal.TableEntry},
	{name: "bug outside of code", edits: swap("\t.long 2b - ., .Lfile - .", "\t.long .Lfile - ., .Lfile - ."), want: refusal.TableEntry},
	{name: "bug in the kernel", edits: swap("\t.long 2b - ., .Lfile - .", "\t.long _printk - ., .Lfile - ."), want: refusal.TableEntry},
	{name: "jump label inside an instruction", edits: swap("\t.long 776b - ., 2f - .", "\t.long 776b + 1 - ., 2f - ."), want: refusal.TableEntry},
	{name: "jump label at another instruction", edits: swap("\t.long 776b - ., 2f - .", "\t.long 2f - ., 2f - ."), want: refusal.TableEntry},
	{name: "jump label to nowhere", edits: swap("\t.long 776b - ., 2f - .", "\t.long 776b - ., 2f + 1 - ."), want: refusal.TableEntry},
	{name: "exception inside an instruction", edits: swap("\t.long 4b - ., 5b - ., 3", "\t.long 4b + 1 - ., 5b - ., 3"), want: refusal.TableEntry},
	{name: "exception continues in data", edits: swap("\t.long 4b - ., 5b - ., 3", "\t.long 4b - ., .Lfile - ., 3"), want: refusal.TableEntry},
	{name: "alternative cuts an instruction", edits: swap("\t.byte 7b - 6b, 9b - 8b", "\t.byte 7b - 6b - 1, 9b - 8b"), want: refusal.TableEntry},
	{name: "replacement longer than the code", edits: swap("6:\t.byte 0x0f, 0x1f, 0x40, 0x00", "6:\tnop\n\tnop"), want: refusal.TableEntry},
	{name: "replacement outside of its section", edits: swap("\t.long 6b - ., 8b - .", "\t.long 6b - ., 8b + 1 - ."), want: refusal.TableEntry},
	{name: "replacement cut", edits: swap("\t.byte 7b - 6b, 9b - 8b", "\t.byte 7b - 6b, 9b - 8b - 1"), want: refusal.TableEntry},
	{name: "static call at another instruction", edits: swap("\t.long 10b - ., __SCK__hook - .", "\t.long 4b - ., __SCK__hook - ."), want: refusal.TableEntry},
	{name: "seal at another instruction", edits: swap("k_table .ibt_endbr_seal, new_show", "k_table .ibt_endbr_seal, new_twin"), want: refusal.TableEntry},
	{name: "lock at another instruction", edits: swap("k_table .smp_locks, 3b", "k_table .smp_locks, 2b"), want: refusal.TableEntry},
	{name: "ftrace site at another instruction", edits: swap("\t.quad 773b\n", "\t.quad 773b + 5\n"), want: refusal.TableEntry},
	{name: "table that is not loaded", change: func(f *elfpatch.File) { section(f, ".return_sites").Flags &^= elf.SHF_ALLOC }, want: refusal.TableEntry},
	{name: "entry without relocation", change: relocs("__bug_table", func(_ *elfpatch.File, list []elfpatch.Rela) []elfpatch.Rela { return list[1:] }), want: refusal.TableEntry},
}

var codeMutants = []mutant{
	{name: "init without endbr64", edits: swap("k_func init_module\n\tendbr64", "k_func init_module"), want: refusal.LandingPadMissing},
	{name: "exit without endbr64", edits: swap("k_func cleanup_module\n\tendbr64", "k_func cleanup_module"), want: refusal.LandingPadMissing},
	{name: "callback without endbr64", edits: swap("k_func before_patch\n\tendbr64", "k_func before_patch"), want: refusal.LandingPadMissing},
	{name: "kpatch callback without endbr64", base: "kpatch-x86.S", edits: swap("k_func before_patch\n\tendbr64", "k_func before_patch"), want: refusal.LandingPadMissing},
	{name: "in-tree callback without endbr64", base: "intree-x86.S", edits: swap("k_func before_patch\n\tendbr64", "k_func before_patch"), want: refusal.LandingPadMissing},
	{name: "replacement without endbr64", edits: swap("k_func new_turn\n\tendbr64", "k_func new_turn"), want: refusal.LandingPadMissing},
	{name: "address in data without endbr64", edits: swap("k_func new_log\t\t\t# its address is taken\n\tendbr64", "k_func new_log"), want: refusal.LandingPadMissing},
	{name: "address in code without endbr64", edits: []edit{{"k_func new_log\t\t\t# its address is taken\n\tendbr64", "k_func new_log"}, {"\t.quad new_log\n", "\t.quad 0\n"},
		{"\taddq $8, %rsp\n", "\tleaq new_log(%rip), %rdi\n\taddq $8, %rsp\n"}}, want: refusal.LandingPadMissing},
	{name: "plain return", edits: swap("k_func new_twin\n\tk_call spaced\n\tk_ret", "k_func new_twin\n\tk_call spaced\n\tret"), want: refusal.MitigationMissing},
	{name: "plain return in exit", edits: swap("k_func cleanup_module\n\tendbr64\n\tk_ret", "k_func cleanup_module\n\tendbr64\n\tret"), want: refusal.MitigationMissing},
	{name: "return that is not listed", edits: swap("k_func new_twin\n\tk_call spaced\n\tk_ret", "k_func new_twin\n\tk_call spaced\n\tjmp __x86_return_thunk"), want: refusal.MitigationMissing},
	{name: "indirect call", edits: swap("775:\tcall __x86_indirect_thunk_rax", "\tcall *%rax\n775:\tcall __x86_indirect_thunk_rax"), want: refusal.MitigationMissing},
	{name: "indirect jump", edits: swap("k_func new_twin\n\tk_call spaced\n\tk_ret", "k_func new_twin\n\tk_call spaced\n\tjmp *%rax"), want: refusal.MitigationMissing},
	{name: "indirect branch that is not listed", edits: drop("\tk_table .retpoline_sites, 775b\n"), want: refusal.MitigationMissing},
	{name: "call that is not listed", edits: swap("k_call spaced", "call spaced"), want: refusal.MitigationMissing},
	{name: "no retpoline tag", edits: drop("\t.asciz \"retpoline=Y\"\n"), want: refusal.MitigationMissing},
	{name: "no ORC tables", change: func(f *elfpatch.File) { section(f, ".orc_unwind").Name = ".xrc_unwind" }, want: refusal.UnwindMissing},
	{name: "ORC tables that are not loaded", change: func(f *elfpatch.File) { section(f, ".orc_unwind").Flags &^= elf.SHF_ALLOC }, want: refusal.UnwindMissing},
	{name: "function without ORC", change: relocs(".orc_unwind_ip", func(_ *elfpatch.File, list []elfpatch.Rela) []elfpatch.Rela {
		list[0].Addend = list[1].Addend
		return list
	}), want: refusal.UnwindMissing},
	{name: "ORC without type", change: func(f *elfpatch.File) {
		s := section(f, ".orc_unwind")
		s.Data = append([]byte(nil), s.Data...)
		s.Data[4], s.Data[5] = 0, 0
	}, want: refusal.UnwindMissing},
	{name: "ORC tables of different lengths", change: func(f *elfpatch.File) {
		s := section(f, ".orc_unwind")
		s.Data = s.Data[:len(s.Data)-6]
		s.Size -= 6
	}, want: refusal.UnwindMissing},
	{name: "ORC of another format", edits: swap("hash of the format..", "hash of another.....")[:1], want: refusal.UnwindMissing},
	{name: "no ORC header", change: func(f *elfpatch.File) { section(f, ".orc_header").Name = ".xrc_header" }, want: refusal.UnwindMissing},
	{name: "code that cannot be read", edits: swap("k_func new_twin\n\tk_call spaced", "k_func new_twin\n\t.byte 0x06\n\tk_call spaced"), want: refusal.Unsupported, also: []refusal.Code{refusal.RelocationInvalid, refusal.TableEntry}},
}
