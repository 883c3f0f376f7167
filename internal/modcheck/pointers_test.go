package modcheck

import (
	"debug/elf"
	"strings"
	"testing"

	"livepatch/internal/check"
	"livepatch/internal/kimage"
	"livepatch/internal/refusal"
)

// takenInData and takenInCode take the address of a symbol in one more place.
func takenInData(symbol string) []edit {
	return swap("widget_log:\n\t.quad new_log", "widget_log:\n\t.quad new_log, "+symbol)
}

func takenInCode(symbol string) []edit {
	return swap("\taddq $8, %rsp\n", "\tleaq "+symbol+"(%rip), %rdi\n\taddq $8, %rsp\n")
}

// withKernel and withModule check against another kernel or module.
func withKernel(t *testing.T, edits ...edit) func(*Set) {
	k := kernelOf(t, elf.EM_X86_64, "kernel-x86.S", edits...)
	return func(s *Set) { s.Kernel = k }
}

func withModule(t *testing.T, edits ...edit) func(*Set) {
	m := moduleOf(t, elf.EM_X86_64, "module-x86.S", edits...)
	return func(s *Set) { s.Modules = []*kimage.Module{m} }
}

const (
	padded   = "klp..vmlinux..old_show..0"
	unpadded = "klp..vmlinux..old_direct..0"
	sealed   = "klp..vmlinux..helper..0"
	early    = "klp..vmlinux..early..0"
)

// uses lets the function that is replaced refer to something.
func uses(instruction string) edit {
	return edit{"k_func old_show\t\t\t# reached through a pointer\n\tendbr64\n\tk_fentry\n", "k_func old_show\n\tendbr64\n\tk_fentry\n\t" + instruction + "\n"}
}

func TestPointersOutside(t *testing.T) {
	exported := func(pad string) func(*Set) {
		return withKernel(t, edit{"k_func quiet", "\t.globl spaced\nk_func spaced\n" + pad + "\tk_ret\nk_end spaced\nk_func quiet"})
	}
	set := x86Set(t)
	for _, m := range []mutant{
		{name: "in data", edits: takenInData(unpadded), want: refusal.LandingPadMissing},
		{name: "in data, sealed", edits: takenInData(sealed), want: refusal.LandingPadMissing},
		{name: "in data, as distance", edits: swap("\t.quad new_log\n", "\t.quad new_log\n\t.long "+sealed+" - .\n"), want: refusal.LandingPadMissing},
		{name: "in data, with a pad", edits: takenInData(padded)},
		{name: "in code", edits: takenInCode(unpadded), want: refusal.LandingPadMissing},
		{name: "in code, sealed", edits: takenInCode(sealed), want: refusal.LandingPadMissing},
		{name: "in code, with a pad", edits: takenInCode(padded)},
		{name: "in code, as number", edits: swap("movq $.Lhello, %rdi", "movq $"+sealed+", %rdi"), want: refusal.LandingPadMissing},
		{name: "in code, compared", edits: swap("movq $.Lhello, %rdi", "cmpq $"+sealed+", (%rdi)"), want: refusal.LandingPadMissing},
		{name: "in code, read", edits: swap("movq klp..vmlinux..counter..0(%rip), %rax", "movq "+sealed+"(%rip), %rax")},
		{name: "in code, in a jump", edits: swap("k_func new_twin\n\tk_call spaced\n\tk_ret", "k_func new_twin\n\tk_call spaced\n\tjmp "+sealed)},
		{name: "in code that replaces other", edits: []edit{{"6:\t.byte 0x0f, 0x1f, 0x40, 0x00", "6:\t.byte 0x0f, 0x1f, 0x80, 0, 0, 0, 0"}, {"8:\tmovq %rax, %rcx", "8:\tleaq " + sealed + "(%rip), %rcx"}},
			want: refusal.LandingPadMissing},
		{name: "of a module", edits: takenInData("klp..widget..widget_gear..0"), want: refusal.LandingPadMissing},
		{name: "of a module, with a pad", edits: takenInData("klp..widget..widget_turn..0")},
		{name: "of a module, sealed", edits: takenInData("klp..widget..widget_turn..0"), set: withModule(t, edit{"k_end widget_turn\n", "k_end widget_turn\n\tk_table .ibt_endbr_seal, widget_turn\n"}),
			want: refusal.LandingPadMissing},
		{name: "exported", edits: takenInCode("spaced"), set: exported(""), want: refusal.LandingPadMissing},
		{name: "exported, sealed", edits: takenInCode("spaced"), set: exported("\tendbr64\n\tk_table .ibt_endbr_seal, spaced\n"), want: refusal.LandingPadMissing},
		{name: "exported, with a pad", edits: takenInCode("spaced"), set: exported("\tendbr64\n")},
		{name: "second of a name", edits: takenInData("klp..vmlinux..twin..2"), want: refusal.LandingPadMissing},
		{name: "of data", edits: takenInData("klp..vmlinux..counter..0")},
		{name: "of a boundary", edits: takenInCode("klp..vmlinux.._einittext..0")},
		{name: "as the replaced function has it", edits: takenInCode(unpadded), set: withKernel(t, uses("leaq old_direct(%rip), %rax"))},
		{name: "as the replaced function has it, as number", edits: takenInCode(unpadded), set: withKernel(t, uses("movq $old_direct, %rax"))},
		{name: "in code, while the replaced function calls it", edits: takenInCode(unpadded), set: withKernel(t, uses("call old_direct")), want: refusal.LandingPadMissing},
		{name: "in data, while the replaced function has it", edits: takenInData(unpadded), set: withKernel(t, uses("leaq old_direct(%rip), %rax")), want: refusal.LandingPadMissing},
		{name: "sealed, while the replaced function has it", edits: takenInCode(sealed), set: withKernel(t, uses("leaq helper(%rip), %rax")), want: refusal.LandingPadMissing},
		{name: "no IBT", edits: takenInData(unpadded), set: withKernel(t, drop("\tk_table .ibt_endbr_seal, helper\n")...)},
	} {
		checkMutant(t, set, m)
	}
}

func TestInitMemory(t *testing.T) {
	set := x86Set(t)
	calls := swap("k_call klp..vmlinux..helper..0", "k_call "+early)
	for _, m := range []mutant{
		{name: "called", edits: calls, want: refusal.InitMemory},
		{name: "referred to by a static key", edits: swap("\t.quad klp..vmlinux..key..0 - .", "\t.quad "+early+" - ."), want: refusal.InitMemory},
		{name: "called by the replaced function", edits: calls, set: withKernel(t, uses("call early"))},
		{name: "boundary", edits: takenInCode("klp..vmlinux.._sinittext..0")},
		{name: "of a module", edits: swap("klp..widget..widget_gear..0", "klp..widget..widget_both_init..0"), want: refusal.SymbolNotFound},
		{name: "of the processors", edits: calls, set: withKernel(t, edit{"_sinittext:\n", "_sinittext:\n__per_cpu_start:\n"}, edit{"_einittext:\n", "__per_cpu_end:\n_einittext:\n"})},
	} {
		checkMutant(t, set, m)
	}
}

// checkMutant asks for the refusal that a mutant wants, or for none.
func checkMutant(t *testing.T, set Set, m mutant) {
	t.Run(strings.ReplaceAll(m.name, " ", "-"), func(t *testing.T) {
		s := set
		if m.set != nil {
			m.set(&s)
		}
		r := Check(fileOf(t, livepatch(t, elf.EM_X86_64, "static-x86.S", m.edits...)), s)
		if m.want != "" {
			expect(t, r, m.want, m.also...)
		} else if r.Count(check.Refused) > 0 {
			t.Error(reportText(r))
		}
	})
}

// The report names the place, the function and its object.
func TestPointersOutsideText(t *testing.T) {
	r := Check(fileOf(t, livepatch(t, elf.EM_X86_64, "static-x86.S", takenInCode(sealed)...)), x86Set(t))
	const want = "new_show+0x44 it takes the address of helper of vmlinux, whose endbr64 the kernel overwrites since nothing else takes it (.ibt_endbr_seal): calls through pointers to it end in an oops"
	for _, x := range r.Results {
		if x.Code == refusal.LandingPadMissing && x.Where+" "+x.Text == want {
			return
		}
	}
	t.Errorf("want %q\n%s", want, reportText(r))
}

// Without the file of an object, its functions are left to the kernel.
func TestPointersOutsideLater(t *testing.T) {
	set := x86Set(t)
	set.Modules = nil
	r := Check(fileOf(t, livepatch(t, elf.EM_X86_64, "static-x86.S", takenInData("klp..widget..widget_gear..0")...)), set)
	for _, x := range r.Results {
		if x.What == whatEntry && x.Where == "widget" && x.Status == check.Later {
			return
		}
	}
	t.Error(reportText(r))
}

func TestArm64PointersOutside(t *testing.T) {
	bare := edit{"k_func quiet\n\tret\n", "\t.type quiet,%function\nquiet:\n\tret\n"}
	taken := func(symbol string) []edit {
		return swap("\tadrp x0, .Lhello\n", "\tadrp x3, "+symbol+"\n\tadd x3, x3, :lo12:"+symbol+"\n\tadrp x0, .Lhello\n")
	}
	const quiet = "klp..vmlinux..quiet..0"
	before := edit{"k_func old_show\n\tk_site\n", "k_func old_show\n\tk_site\n\tadrp x5, quiet\n\tadd x4, x5, :lo12:quiet\n"}
	for _, m := range []struct {
		name   string
		edits  []edit
		kernel []edit
		want   refusal.Code
	}{
		{"in code", taken(quiet), []edit{bare}, refusal.LandingPadMissing},
		{"in code, with a pad", taken("klp..vmlinux..helper..0"), []edit{bare}, ""},
		{"in data", swap("\t.quad new_log\n", "\t.quad new_log, "+quiet+"\n"), []edit{bare}, refusal.LandingPadMissing},
		{"in a constant of the text", swap("literal:\n\t.quad 0x123456789abcdef0", "literal:\n\t.quad "+quiet), []edit{bare}, refusal.LandingPadMissing},
		{"in code, read", swap("\tadrp x0, .Lhello\n", "\tadrp x3, "+quiet+"\n\tldr w3, [x3, :lo12:"+quiet+"]\n\tadrp x0, .Lhello\n"), []edit{bare}, ""},
		{"in a call", swap("bl klp..vmlinux..helper..0", "bl "+quiet), []edit{bare}, ""},
		{"as the replaced function has it", taken(quiet), []edit{bare, before}, ""},
		{"with paciasp", taken(quiet), []edit{{bare.old, strings.Replace(bare.new, "quiet:\n", "quiet:\n\thint #25\n", 1)}}, ""},
	} {
		t.Run(strings.ReplaceAll(m.name, " ", "-"), func(t *testing.T) {
			r := Check(fileOf(t, livepatch(t, elf.EM_AARCH64, "static-arm64.S", m.edits...)), arm64Set(t, m.kernel...))
			if m.want != "" {
				expect(t, r, m.want)
			} else if r.Count(check.Refused) > 0 {
				t.Error(reportText(r))
			}
		})
	}
}
