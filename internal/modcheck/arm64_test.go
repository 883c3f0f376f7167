package modcheck

import (
	"debug/elf"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/check"
	"livepatch/internal/refusal"
)

func arm64Set(t testing.TB, edits ...edit) Set {
	t.Helper()
	return Set{Kernel: kernelOf(t, elf.EM_AARCH64, "kernel-arm64.S", edits...), Exports: exports()}
}

func TestArm64(t *testing.T) {
	r := Check(fileOf(t, livepatch(t, elf.EM_AARCH64, "static-arm64.S")), arm64Set(t))
	if r.Count(check.Refused)+r.Count(check.Later) > 0 {
		t.Errorf("%s", reportText(r))
	}
	golden(t, "static-arm64.verify", reportText(r))
}

// Without BTI in the kernel, modules need none.
func TestArm64WithoutBTI(t *testing.T) {
	set := arm64Set(t, edit{"\\name:\n\tbti c\n", "\\name:\n"})
	f := livepatch(t, elf.EM_AARCH64, "static-arm64.S", edit{"k_func init_module\n\tbti c", "k_func init_module"})
	if r := Check(fileOf(t, f), set); r.Count(check.Refused) > 0 {
		t.Errorf("%s", reportText(r))
	}
}

func TestArm64Mutants(t *testing.T) {
	set := arm64Set(t)
	for _, m := range []mutant{
		{name: "init without pad", edits: swap("k_func init_module\n\tbti c", "k_func init_module"), want: refusal.LandingPadMissing},
		{name: "exit without pad", edits: swap("k_func cleanup_module\n\tbti c", "k_func cleanup_module"), want: refusal.LandingPadMissing},
		{name: "callback without pad", edits: swap("k_func before_patch\n\tpaciasp", "k_func before_patch\n\tnop"), want: refusal.LandingPadMissing},
		{name: "pad for jumps only", edits: swap("k_func new_log\n\tbti c", "k_func new_log\n\tbti j"), want: refusal.LandingPadMissing},
		{name: "replacement without pad", edits: swap("k_func new_twin\n\tbti c", "k_func new_twin\n\tnop"), want: refusal.LandingPadMissing},
		{name: "address in code", edits: []edit{{"k_func new_log\n\tbti c", "k_func new_log\n\tnop"}, {"\t.quad new_log\n", "\t.quad 0\n"},
			{"\tadrp x0, .Lhello\n", "\tadrp x3, new_log\n\tadrp x0, .Lhello\n"}}, want: refusal.LandingPadMissing},
		{name: "no plt", change: func(f *elfpatch.File) { section(f, ".init.plt").Name = ".init.xlt" }, want: refusal.ModuleFormat},
		{name: "wrong machine", set: func(s *Set) { *s = x86Set(t) }, want: refusal.ModuleFormat},
		{name: "bug at another instruction", edits: swap("\t.word 2b - ., .Lfile - .", "\t.word 3f - ., .Lfile - ."), want: refusal.TableEntry},
		{name: "bug inside an instruction", edits: swap("\t.word 2b - ., .Lfile - .", "\t.word 2b + 2 - ., .Lfile - ."), want: refusal.TableEntry},
		{name: "bug in data of the text", edits: swap("\t.word 2b - ., .Lfile - .", "\t.word literal - ., .Lfile - ."), want: refusal.TableEntry},
		{name: "jump label at another instruction", edits: swap("\t.word 1b - ., 2f - .", "\t.word 2f - ., 2f - ."), want: refusal.TableEntry},
		{name: "exception torn", edits: swap("\t.short 2, 0\n", "\t.short 2\n"), want: refusal.TableEntry},
		{name: "replacement longer than the code", edits: swap("7:\tisb\n", "7:\tisb\n\tisb\n"), want: refusal.TableEntry},
		{name: "site at another instruction", edits: swap("\t.quad 771b\n", "\t.quad 771b - 4\n"), want: refusal.TableEntry},
		{name: "no site", edits: swap("\t.asciz \"old_show\"", "\t.asciz \"quiet\""), want: refusal.NoFtraceSite},
		{name: "unknown type", change: relocs(".text", first(func(r *elfpatch.Rela) { r.Type = uint32(elf.R_AARCH64_ADR_GOT_PAGE) })), want: refusal.RelocationInvalid},
	} {
		t.Run(strings.ReplaceAll(m.name, " ", "-"), func(t *testing.T) {
			f := livepatch(t, elf.EM_AARCH64, "static-arm64.S", m.edits...)
			if m.change != nil {
				m.change(f)
			}
			s := set
			if m.set != nil {
				m.set(&s)
			}
			expect(t, Check(fileOf(t, f), s), m.want, m.also...)
		})
	}
}

// Branches to functions of a module are filled when the patch's code cannot be written.
func TestArm64Reach(t *testing.T) {
	for name, want := range map[string]bool{"bl klp..widget..spin..0": true, "b klp..widget..spin..0": true, "adrp x3, klp..widget..spin..0": false, "bl klp..vmlinux..helper..0": false} {
		f := livepatch(t, elf.EM_AARCH64, "static-arm64.S", edit{"\tbl klp..vmlinux..helper..0\n", "\t" + name + "\n"})
		if got := strings.Contains(reportText(Check(fileOf(t, f), arm64Set(t))), "reach 128 MB"); got != want {
			t.Errorf("%s: %t, want %t", name, got, want)
		}
	}
}
