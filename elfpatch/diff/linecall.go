package diff

import (
	"cmp"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"livepatch/disasm"
	"livepatch/elfpatch/kernel"
)

// lineInsn notes a claim for two instructions that differ in a number that they
// pass to a function which takes a line; false if they differ otherwise.
func (c *comparison) lineInsn(p *pairing, x, y []insn, i, k int) bool {
	reg, old, ok := loadedNumber(c.m, c.orig.bytesOf(p.orig, x[i]))
	reg2, now, ok2 := loadedNumber(c.m, c.patched.bytesOf(p.patched, y[k]))
	if !ok || !ok2 || reg != reg2 {
		return false
	}
	from, to := c.orig.passedTo(p.orig, x, i, reg), c.patched.passedTo(p.patched, y, k, reg)
	if from.callee == "" || from.callee != to.callee {
		return false
	}
	arg, ok := kernel.LineArg(from.callee)
	strong := ok && arg == argument(c.m, reg)
	weak := from.beside != "" && from.beside == to.beside || from.function && to.function && !kernel.IsPrinter(from.callee)
	file := from.beside
	if file == "" {
		file = from.file
	}
	c.claim(p, claim{
		old: old, new: now, strong: strong, beside: !strong && from.beside != "" && from.beside == to.beside, bare: !strong && !weak, file: file, orig: p.orig, oldOff: uint64(x[i].off), patched: p.patched, newOff: uint64(y[k].off),
		why: &Difference{Off: uint64(y[k].off), Old: c.orig.text(p.orig, x[i], nil), New: c.patched.text(p.patched, y[k], nil)},
	})
	return true
}

func (s *side) bytesOf(p *piece, in insn) []byte { return s.data(p)[in.off : in.off+uint32(in.len)] }

// loadedNumber tells which register an instruction puts a number into.
func loadedNumber(m elf.Machine, b []byte) (reg int, value int64, ok bool) {
	if m == elf.EM_AARCH64 {
		if len(b) != 4 {
			return 0, 0, false
		}
		w := binary.LittleEndian.Uint32(b)
		return int(w & 31), int64(w >> 5 & 0xffff), w&0xffe00000 == 0x52800000 // movz w, #imm
	}
	rex := byte(0)
	if len(b) > 5 && b[0]&0xf0 == 0x40 {
		rex, b = b[0], b[1:]
	}
	switch {
	case len(b) == 5 && b[0] >= 0xb8 && b[0] <= 0xbf && rex&8 == 0: // mov $imm32,%r32
		return int(b[0]&7) | int(rex&1)<<3, int64(binary.LittleEndian.Uint32(b[1:])), true
	case len(b) == 6 && b[0] == 0xc7 && b[1]&0xf8 == 0xc0: // mov $imm32,%r64
		return int(b[1]&7) | int(rex&1)<<3, int64(int32(binary.LittleEndian.Uint32(b[2:]))), true
	}
	return 0, 0, false
}

// x86Arguments are the registers of arguments, by number.
var x86Arguments = []int{7, 6, 2, 1, 8, 9}

// argument tells which argument a register holds, -1 for none.
func argument(m elf.Machine, reg int) int {
	if m == elf.EM_AARCH64 {
		if reg < 8 {
			return reg
		}
		return -1
	}
	return slices.Index(x86Arguments, reg)
}

// passing is what is known of the call that a number is passed to.
type passing struct {
	callee   string
	file     string // name of a source file that is passed too
	beside   string // … as the argument before or behind it
	function bool   // the name of the function (__func__) is the argument before it
}

// maxPassing bounds how many instructions stand between a number and the call.
const maxPassing = 24

// passedTo finds the call that a register is passed to, if nothing on the way
// uses it otherwise.
func (s *side) passedTo(p *piece, list []insn, i, reg int) (out passing) {
	arg := argument(s.f.Machine, reg)
	if arg < 0 {
		return out
	}
	for n := 0; n < maxPassing; n++ {
		i++
		if i >= len(list) {
			return out
		}
		if list[i].pad {
			continue
		}
		d, err := disasm.Decode(s.f.Machine, s.bytesOf(p, list[i]))
		if err != nil {
			return out
		}
		refs := s.refsOf(p, list[i])
		switch {
		case d.Flow == disasm.Call || d.Flow == disasm.Jump && len(refs) > 0:
			if len(refs) != 1 {
				return out
			}
			out.callee = s.calleeName(&refs[0])
			s.findFile(p, list, i, arg, &out)
			return out
		case d.Flow == disasm.Jump:
			k, ok := slices.BinarySearchFunc(list, int64(list[i].off)+d.PCOff, func(in insn, off int64) int { return cmp.Compare(int64(in.off), off) })
			if !ok {
				return out
			}
			i = k - 1
		case d.Flow != disasm.Next:
			return out
		case mentions(s.f.Machine, disasm.Text(s.f.Machine, s.bytesOf(p, list[i]), 0, nil), reg):
			return out
		}
	}
	return out
}

func (s *side) calleeName(r *ref) string {
	if r.to == nil {
		return s.f.Symbols[r.sym].Name
	}
	if r.to.kind == function && r.add == 0 {
		return r.to.name
	}
	return ""
}

// findFile looks at what is put into the other argument registers before a
// call.
func (s *side) findFile(p *piece, list []insn, call, arg int, out *passing) {
	for k := call - 1; k >= 0 && k >= call-maxPassing; k-- {
		refs := s.refsOf(p, list[k])
		d, err := disasm.Decode(s.f.Machine, s.bytesOf(p, list[k]))
		if err != nil || d.Flow == disasm.Call || d.Flow == disasm.IndirectCall {
			return
		}
		// A function that passes its file several times may keep it in a register.
		if to, from, ok := registerMove(s.f.Machine, s.bytesOf(p, list[k])); ok && out.beside == "" {
			if a := argument(s.f.Machine, to); a >= 0 && (a == arg-1 || a == arg+1) {
				out.beside = s.fileIn(p, list, k, from)
				out.file = cmp.Or(out.file, out.beside)
			}
		}
		for i := range refs {
			name := s.sourceName(&refs[i])
			function := refs[i].to != nil && refs[i].to.special != nil && strings.HasPrefix(refs[i].to.special.Name, "__func__") ||
				s.isNameOf(&refs[i], p)
			if name == "" && !function || refs[i].anchor {
				continue
			}
			if out.file == "" {
				out.file = name
			}
			a := -1
			if e := registerEffect(s.f.Machine, s.bytesOf(p, list[k])); e.address >= 0 {
				a = argument(s.f.Machine, e.address)
			}
			if a >= 0 && (a == arg-1 || a == arg+1) && out.beside == "" {
				out.beside = name
			}
			out.function = out.function || function && a >= 0 && a == arg-1
		}
	}
}

// fileIn is the name of a source file that a register holds at an instruction:
// it is put there shortly before, or nothing else is ever put there, but for
// what the caller had in it, which is restored at the end.
func (s *side) fileIn(p *piece, list []insn, at, reg int) (name string) {
	for k := at - 1; k >= 0 && k >= at-maxPassing; k-- {
		if registerEffect(s.f.Machine, s.bytesOf(p, list[k])).writes>>reg&1 == 0 {
			continue
		}
		if refs := s.refsOf(p, list[k]); len(refs) == 1 && s.sourceName(&refs[0]) != "" {
			return s.sourceName(&refs[0])
		}
		break
	}
	for _, in := range list {
		code := s.bytesOf(p, in)
		if registerEffect(s.f.Machine, code).writes>>reg&1 == 0 || restores(s.f.Machine, code) {
			continue
		}
		if _, from, ok := registerMove(s.f.Machine, code); ok && from == reg {
			continue
		}
		refs := s.refsOf(p, in)
		if len(refs) != 1 {
			return ""
		}
		this := s.sourceName(&refs[0])
		if this == "" || name != "" && this != name {
			return ""
		}
		name = this
	}
	return name
}

// registerMove decodes an instruction that copies a whole register.
func registerMove(m elf.Machine, code []byte) (to, from int, ok bool) {
	if m == elf.EM_AARCH64 {
		if len(code) != 4 {
			return 0, 0, false
		}
		w := binary.LittleEndian.Uint32(code)
		return int(w & 31), int(w >> 16 & 31), w&0xffe0ffe0 == 0xaa0003e0 // mov xd, xm
	}
	if len(code) != 3 || code[0]&0xf8 != 0x48 || code[2]>>6 != 3 {
		return 0, 0, false
	}
	reg, rm := int(code[2]>>3&7|code[0]&4<<1), int(code[2]&7|code[0]&1<<3)
	switch code[1] {
	case 0x89: // mov %reg,%rm
		return rm, reg, true
	case 0x8b:
		return reg, rm, true
	}
	return 0, 0, false
}

// restores reports an instruction that takes registers back from the stack.
func restores(m elf.Machine, code []byte) bool {
	if m == elf.EM_AARCH64 {
		w := binary.LittleEndian.Uint32(code)
		pair := w&0xfe400000 == 0xa8400000 // ldp x, x, [sp…]
		return w>>5&31 == 31 && (pair || w&0xffc00000 == 0xf9400000 || w&0xffe00c00 == 0xf8400400)
	}
	return len(code) == 1 && code[0]&0xf8 == 0x58 || len(code) == 2 && code[0]&0xf0 == 0x40 && code[1]&0xf8 == 0x58 // pop
}

// isNameOf reports a reference to a string that is the name of a function:
// clang makes __func__ one.
func (s *side) isNameOf(r *ref, p *piece) bool {
	if r.to == nil || r.to.kind != literal || r.to.bss || r.to.sec == 0 || r.add < 0 || uint64(r.add) >= r.to.size {
		return false
	}
	text, _, _ := cutString(s.data(r.to)[r.add:])
	name, _, _ := strings.Cut(owner(p).name, ".")
	return text != "" && text == name
}

// mentions reports an instruction, as text, that has to do with a register.
func mentions(m elf.Machine, text string, reg int) bool {
	var names []string
	if m == elf.EM_AARCH64 {
		names = []string{fmt.Sprintf("w%d", reg), fmt.Sprintf("x%d", reg)}
	} else {
		names = x86Names[reg]
	}
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9') }) {
		if slices.Contains(names, word) {
			return true
		}
	}
	return false
}

var x86Names = map[int][]string{
	7: {"rdi", "edi", "di", "dil"}, 6: {"rsi", "esi", "si", "sil"}, 2: {"rdx", "edx", "dx", "dl", "dh"},
	1: {"rcx", "ecx", "cx", "cl", "ch"}, 8: {"r8", "r8d", "r8w", "r8b"}, 9: {"r9", "r9d", "r9w", "r9b"},
}
