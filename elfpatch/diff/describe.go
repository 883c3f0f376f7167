package diff

import (
	"debug/elf"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"livepatch/disasm"
	"livepatch/elfpatch"
)

// endText stands for the instruction that one of two functions does not have.
const endText = "(end)"

// describe names a place of a piece: "f+0x12", "table", the text of a string.
func describe(s *side, p *piece, add int64) string {
	name := p.name
	if p.kind == literal {
		if q, ok := s.quote(p, add); ok {
			return q
		}
		if p.sym == 0 {
			name = "constant"
			if len(p.refs) > 0 {
				name = "table"
			}
			if p.sec > 0 && s.secs[p.sec].kind == supportSect {
				name = s.f.Sections[p.sec].Name
			}
		}
	}
	switch {
	case add > 0:
		return fmt.Sprintf("%s+%#x", name, add)
	case add < 0:
		return fmt.Sprintf("%s-%#x", name, -add)
	}
	return name
}

// maxQuote bounds the text of a string literal in a description.
const maxQuote = 40

// quote returns the text of a string literal from an offset on.
func (s *side) quote(p *piece, add int64) (string, bool) {
	sec := s.f.Sections[p.sec]
	if sec.Flags&elf.SHF_STRINGS == 0 || sec.EntSize != 1 || add < 0 || uint64(add) >= p.size {
		return "", false
	}
	text := strings.TrimRight(string(s.data(p)[add:]), "\x00")
	if !utf8.ValidString(text) {
		return "", false
	}
	if len(text) > maxQuote {
		cut := maxQuote
		for !utf8.RuneStart(text[cut]) {
			cut--
		}
		text = text[:cut] + "…"
	}
	return strconv.Quote(text), true
}

// quoteFrom returns the text of a string literal from a byte near an offset on,
// behind an ellipsis.
func (s *side) quoteFrom(p *piece, from int) string {
	b := s.data(p)
	for from > 0 && from < len(b) && !utf8.RuneStart(b[from]) {
		from--
	}
	q, ok := s.quote(p, int64(min(from, len(b)-1)))
	if !ok {
		return ""
	}
	return `"…` + q[1:]
}

// refText describes what a reference leads to.
func (s *side) refText(r *ref) string {
	if r.to != nil {
		return describe(s, r.to, r.add)
	}
	sym := s.f.Symbols[r.sym]
	name := sym.Name
	switch {
	case r.sym == 0 && r.sec > 0:
		name = s.f.Sections[r.sec].Name
	case r.sym == 0:
		name = elfpatch.RelocName(s.f.Machine, r.typ)
	case sym.Type == elf.STT_SECTION && sym.Section > 0 && sym.Section < len(s.f.Sections):
		name = s.f.Sections[sym.Section].Name
	}
	if r.add != 0 && r.sym != 0 {
		return fmt.Sprintf("%s%+#x", name, r.add)
	}
	return name
}

// text prints one instruction of a function with names for what it refers to.
// Places in the function itself are printed as "+0x12".
func (s *side) text(p *piece, in insn, refs []ref) string {
	code := s.data(p)[in.off : in.off+uint32(in.len)]
	const mark = "\x01"
	out := disasm.Text(s.f.Machine, code, uint64(in.off), func(addr uint64) (string, uint64) { return mark, addr })
	d, err := disasm.Decode(s.f.Machine, code)
	rest := refs
	if err == nil && d.PCRel.Size > 0 {
		target := fmt.Sprintf("+%#x", uint64(int64(in.off)+d.PCOff))
		for i := range refs {
			if refs[i].off == uint64(in.off)+uint64(d.PCRel.Off) {
				target = s.refText(&refs[i])
				rest = append(append([]ref{}, refs[:i]...), refs[i+1:]...)
				break
			}
		}
		out = putTarget(out, "<"+mark+">", target)
	}
	for i := range rest {
		out += " {" + s.refText(&rest[i]) + "}"
	}
	return strings.Join(strings.Fields(out), " ")
}

// putTarget puts a name in the place of the address before mark: "jmp 0x12
// <mark>" becomes "jmp name", "mov 0x0(%rip),%eax # 0x12 <mark>" becomes "mov
// name(%rip),%eax".
func putTarget(text, mark, name string) string {
	i := strings.Index(text, mark)
	if i < 0 {
		return text + " {" + name + "}"
	}
	head, tail := strings.TrimRight(text[:i], " "), text[i+len(mark):]
	head = head[:strings.LastIndexByte(head, ' ')+1]
	before, comment := strings.CutSuffix(strings.TrimRight(head, " "), "#")
	if !comment {
		return head + name + tail
	}
	before = strings.TrimRight(before, " ")
	if k := strings.Index(before, "(%rip)"); k >= 0 {
		from := strings.LastIndexAny(before[:k], " ,*") + 1
		return before[:from] + name + before[k:] + tail
	}
	return before + " # " + name + tail
}

// dataText prints the word of a constant at an offset, or the byte if there is
// no whole word.
func dataText(b []byte, off, size int) string {
	if off &^= 3; off+4 <= size {
		var w uint32
		for i := range 4 {
			w |= uint32(byteAt(b, uint64(off+i))) << (8 * i)
		}
		return fmt.Sprintf("%#x", w)
	}
	return fmt.Sprintf("%#x", byteAt(b, uint64(off)))
}

func (d *Difference) String() string {
	s := fmt.Sprintf("+%#x: %s  ->  %s", d.Off, d.Old, d.New)
	if d.In != "" {
		s = fmt.Sprintf("+%#x: %s: %s  ->  %s", d.Off, d.In, d.Old, d.New)
	}
	return s
}
