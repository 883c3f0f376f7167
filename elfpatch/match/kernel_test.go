package match

import (
	"debug/elf"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/testkit"
)

// A kernel of assembly: the source of the object and that of the image are the
// same but for what a form says. Words in capitals are replaced.
const kernelWork = `
	SECTION(work)
	.globl work
	.type work, @function
work:	FENTRY
1:	SITE
	mov $1, %eax
	add $17, %eax
2:	mov $message, %rdi
	cmp $3, %eax
	TAIL helper
	jne 4f
	mov counter, %ecx
	JUMP helper
4:	xor %eax, %eax
	jmp 2b
	.size work, .-work
	SECTION(helper)
	.type helper, @function
helper:	lea 3(%rdi), %rax
	imul $77, %rax, %rax
	ret
	.size helper, .-helper
	.data
	.type counter, @object
counter: .long 5
	.size counter, 4
	.globl key
key:	.quad 0
	.section .rodata.str1.1,"aMS",@progbits,1
message: .asciz "a message of the kernel"
	.section __jump_table,"aw"
	.balign 8
	.long 1b-., 2b-.
	.quad key-.+2
	.section __mcount_loc,"a"
	.quad work
`

// form fills a source in.
func form(section bool, words ...string) string {
	s := kernelWork
	for _, name := range []string{"work", "helper"} {
		to := ".text"
		if section {
			to = ".section .text." + name + `,"ax",@progbits`
		}
		s = strings.ReplaceAll(s, "SECTION("+name+")", to)
	}
	words = append(words, "FENTRY", "call __fentry__", "SITE", "jmp 2b", "TAIL", "je", "JUMP", "jmp")
	for i := 0; i+1 < len(words); i += 2 {
		if words[i] == "SITE" {
			words[i+1] = strings.ReplaceAll(words[i+1], "2b", "2f")
		}
		s = strings.ReplaceAll(s, words[i], words[i+1])
	}
	return s
}

const kernelRest = `
	.text
	.globl __fentry__, elsewhere
	.type __fentry__, @function
__fentry__: ret
	.size __fentry__, .-__fentry__
	.type elsewhere, @function
elsewhere: ret
`

const kernelText = "0xffffffff81000000"

func assembled(t testing.TB, m elf.Machine, source string) string {
	t.Helper()
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in.s"), filepath.Join(dir, "out.o")
	if err := os.WriteFile(in, []byte(source), 0o666); err != nil {
		t.Fatal(err)
	}
	as := "as"
	if m == elf.EM_AARCH64 {
		as = "aarch64-linux-gnu-as"
	}
	testkit.Run(t, testkit.Tool(t, as), "-o", out, in)
	return out
}

// kernelOf links objects at addresses of a kernel.
func kernelOf(t testing.TB, m elf.Machine, objects ...string) *elfpatch.File {
	t.Helper()
	out, ld, text := filepath.Join(t.TempDir(), "vmlinux"), "ld", kernelText
	if m == elf.EM_AARCH64 {
		ld, text = "aarch64-linux-gnu-ld", "0xffff800080010000"
	}
	testkit.Run(t, testkit.Tool(t, ld), append([]string{"-Ttext=" + text, "-e", "0", "-z", "max-page-size=4096", "-o", out}, objects...)...)
	return testkit.ELF(t, out)
}

const (
	nop2 = ".byte 0x66, 0x90"
	nop5 = ".byte 0x0f, 0x1f, 0x44, 0x00, 0x00"
)

func TestKernelForms(t *testing.T) {
	for _, c := range []struct {
		name          string
		object, image []string
		want          string // code of the refusal
	}{
		{name: "the same"},
		{name: "objtool made no-ops", image: []string{"FENTRY", nop5, "SITE", nop2}},
		{name: "of the object too", object: []string{"FENTRY", nop5, "SITE", nop2}, image: []string{"FENTRY", nop5, "SITE", nop2}},
		{name: "only of the object", object: []string{"FENTRY", nop5, "SITE", nop2}},
		{name: "another no-op", image: []string{"SITE", "xchg %eax, %eax"}, want: "not-the-running-code"},
		{name: "a longer no-op", image: []string{"SITE", nop5}, want: "not-the-running-code in one section"},
		{name: "a no-op instead of another jump", image: []string{"TAIL", nop2 + "#"}, want: "not-the-running-code"},
		{name: "another condition", image: []string{"TAIL", "js"}, want: "not-the-running-code"},
		{name: "a jump elsewhere", object: []string{"SITE", nop2}, image: []string{"SITE", "jmp 4f"}, want: "not-the-running-code"},
		{name: "a call instead of a jump", image: []string{"JUMP", "call"}, want: "not-the-running-code"},
		{name: "another target", image: []string{"JUMP helper", "jmp elsewhere"}, want: "not-the-running-code"},
		{name: "a call of something else", object: []string{"FENTRY", nop5}, image: []string{"FENTRY", "call elsewhere"}, want: "not-the-running-code"},
		{name: "another number", image: []string{"$17", "$18"}, want: "not-the-running-code"},
		{name: "more code", image: []string{"add $17", "nop; add $17"}, want: "not-the-running-code"},
	} {
		for _, sections := range []bool{false, true} {
			obj := testkit.ELF(t, assembled(t, elf.EM_X86_64, form(sections, c.object...)))
			img := kernelOf(t, elf.EM_X86_64, assembled(t, elf.EM_X86_64, form(false, c.image...)), assembled(t, elf.EM_X86_64, kernelRest))
			work := sym(t, obj, "work")
			proof, err := Prove(obj, []int{work}, img, nil, Options{})
			want, inOne := strings.CutSuffix(c.want, " in one section")
			if inOne && sections {
				want = "" // then lengths of jumps do not count
			}
			if got := codes(err); got != orNil(want) {
				t.Errorf("%s, sections %v: %q: %v", c.name, sections, got, err)
			}
			if err != nil || inOne {
				continue
			}
			checkKernelProof(t, proof, obj, img, sections)
		}
	}
}

// orNil is what codes says of no error.
func orNil(want string) string {
	if want == "" {
		return "<nil>"
	}
	return want
}

// checkKernelProof compares the addresses that a proof gives with the symbols.
func checkKernelProof(t *testing.T, proof *Proof, obj, img *elfpatch.File, sections bool) {
	t.Helper()
	f := proof.Funcs[0]
	s := img.Symbols[sym(t, img, "work")]
	if f.Addr != s.Value || f.Size != s.Size {
		t.Errorf("work is at %#x, %d bytes; the symbol says %#x, %d", f.Addr, f.Size, s.Value, s.Size)
	}
	if short := f.Size < obj.Symbols[f.Symbol].Size; short != sections {
		t.Errorf("the image has %d bytes, the object %d", f.Size, obj.Symbols[f.Symbol].Size)
	}
	for _, name := range []string{"helper", "counter"} {
		r, ok := proof.Resolve(sym(t, obj, name))
		if want := addrs(img, name)[0]; !ok || r[Address].Value != want {
			t.Errorf("%s is at %#x, want %#x", name, r[Address].Value, want)
		}
	}
}

// Every bit of every byte of the function counts, in the compared bytes and in
// the fields.
func TestKernelMutants(t *testing.T) {
	for _, sections := range []bool{false, true} {
		obj := testkit.ELF(t, assembled(t, elf.EM_X86_64, form(sections)))
		img := kernelOf(t, elf.EM_X86_64, assembled(t, elf.EM_X86_64, form(false, "FENTRY", nop5, "SITE", nop2)), assembled(t, elf.EM_X86_64, kernelRest))
		s := img.Symbols[sym(t, img, "work")]
		for off := range s.Size {
			for bit := range 8 {
				g := edited(t, img, s.Value+off, func(b *byte) { *b ^= 1 << bit })
				if _, err := Prove(obj, []int{sym(t, obj, "work")}, g, nil, Options{}); err == nil {
					t.Errorf("sections %v: bit %d of byte %#x was changed and not noticed", sections, bit, off)
				}
			}
		}
	}
}

// armWork has a branch that a static key disables.
const armWork = `
	.text
	.globl work
	.type work, %function
work:	mov w0, #1
1:	SITE
	add w0, w0, #17
2:	ret
	.size work, .-work
	.data
	.globl key
key:	.quad 0
	.section __jump_table,"aw"
	.balign 8
	.long 1b-., 2b-.
	.quad key-.
`

func TestKernelFormsARM64(t *testing.T) {
	for _, c := range []struct{ object, image, want string }{
		{"nop", "nop", ""},
		{"b 2f", "nop", ""},
		{"nop", "b 2f", ""},
		{"nop", "b 1b", "not-the-running-code"},
		{"nop", "mov w1, w1", "not-the-running-code"},
	} {
		obj := testkit.ELF(t, assembled(t, elf.EM_AARCH64, strings.ReplaceAll(armWork, "SITE", c.object)))
		img := kernelOf(t, elf.EM_AARCH64, assembled(t, elf.EM_AARCH64, strings.ReplaceAll(armWork, "SITE", c.image)))
		_, err := Prove(obj, []int{sym(t, obj, "work")}, img, nil, Options{})
		if got := codes(err); got != orNil(c.want) {
			t.Errorf("%s in the object, %s in the image: %q: %v", c.object, c.image, got, err)
		}
	}
}

// sharedShow is an object with a static function of a common name: NAME makes it
// one of several, USE says how the object comes by it.
const sharedShow = `
	.text
	.type show, @function
show:	mov $7, %eax
	lea 9(%rdi,%rax), %rax
	imul $NUMBER, %rax, %rax
	ret
	.size show, .-show
	USE
`

func show(number, use string) string {
	return strings.ReplaceAll(strings.ReplaceAll(sharedShow, "NUMBER", number), "USE", use)
}

const (
	useCall = `
	.globl caller
	.type caller, @function
caller:	sub $8, %rsp
	call show
	add $8, %rsp
	ret
	.size caller, .-caller`
	useTable = `
	.data
	.globl table
	.type table, @object
table:	.quad 1, attribute
	.size table, 16
	.type attribute, @object
attribute: .quad show
	.size attribute, 8`
)

// Of several functions of a name, the bytes alone do not say which is the
// object's: a call does, or a table.
func TestKernelSharedNames(t *testing.T) {
	other := show("55", "")
	for _, c := range []struct{ name, object, image, want string }{
		{"no use", show("55", ""), show("55", ""), "address-ambiguous"},
		{"no use, others differ", show("56", ""), show("56", ""), "address-ambiguous"},
		{"a call", show("55", useCall), show("55", useCall), ""},
		{"a table", show("55", useTable), show("55", useTable), ""},
		{"its own differs", show("55", useCall), show("57", useCall), "address-ambiguous"},
		{"its own differs, in a table", show("55", useTable), show("57", useTable), "address-ambiguous"},
	} {
		for _, split := range []bool{false, true} {
			source := c.object
			if split { // each function in a section of its own
				source = strings.Replace(source, ".text", `.section .text.show,"ax",@progbits`, 1)
				source = strings.Replace(source, ".globl caller", `.section .text.caller,"ax",@progbits`+"\n.globl caller", 1)
			}
			obj := testkit.ELF(t, assembled(t, elf.EM_X86_64, source))
			img := kernelOf(t, elf.EM_X86_64, assembled(t, elf.EM_X86_64, other), assembled(t, elf.EM_X86_64, c.image))
			proof, err := Prove(obj, []int{sym(t, obj, "show")}, img, nil, Options{})
			if got := codes(err); got != orNil(c.want) {
				t.Errorf("%s, sections %v: %q: %v", c.name, split, got, err)
			}
			if all := addrs(img, "show"); err == nil && proof.Funcs[0].Addr != all[1] {
				t.Errorf("%s, sections %v: found at %#x, of %#x", c.name, split, proof.Funcs[0].Addr, all)
			}
		}
	}
}
