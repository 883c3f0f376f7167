package check

import (
	"debug/elf"
	"encoding/hex"
	"fmt"
	"strings"

	"livepatch/disasm"
	"livepatch/elfpatch"
	"livepatch/internal/pack"
	"livepatch/manifest"
)

// Payload says what a payload of a package is made of.
type Payload struct {
	Member   string    `json:"member"`
	Sections []Section `json:"sections"` // those that are loaded
}

// Section is a loaded section of a payload.
type Section struct {
	Name        string `json:"name"`
	Access      string `json:"access"` // "r-x", "r--", "rw-"
	Size        uint64 `json:"size"`
	Relocations int    `json:"relocations"`
}

// Payloads describes the payloads of a package.
func Payloads(p *pack.Package) ([]Payload, error) {
	var all []Payload
	for i := range p.Manifest.Targets {
		d, err := describe(p.Manifest.Targets[i].Payload.Member, p.Members)
		if err != nil {
			return nil, err
		}
		all = append(all, d)
	}
	return all, nil
}

func describe(member string, members map[string][]byte) (Payload, error) {
	d := Payload{Member: member, Sections: []Section{}}
	f, err := elfpatch.Parse(members[member])
	if err != nil {
		return d, fmt.Errorf("read %s: %w", member, err)
	}
	for _, s := range f.Sections {
		if s.Flags&elf.SHF_ALLOC == 0 {
			continue
		}
		list, err := f.Relocations(s)
		if err != nil {
			return d, fmt.Errorf("read %s: section %s: %w", member, s.Name, err)
		}
		d.Sections = append(d.Sections, Section{s.Name, access(s.Flags), s.Size, len(list)})
	}
	return d, nil
}

func access(f elf.SectionFlag) string {
	b := []byte("r--")
	if f&elf.SHF_WRITE != 0 {
		b[1] = 'w'
	}
	if f&elf.SHF_EXECINSTR != 0 {
		b[2] = 'x'
	}
	return string(b)
}

// Line is one instruction, or bytes that are none.
type Line struct {
	Addr  uint64
	Bytes string // hexadecimal; "··" for each byte of a hole
	Text  string
}

// Code takes the bytes at addr apart; those that are no instruction, such as
// the rest of one that was cut, become one line.
func Code(machine string, b []byte, addr uint64) []Line {
	return lines(Machine(machine), b, addr, nil, nil)
}

// Replaced takes a write apart, with the symbols of its holes as operands.
func Replaced(machine string, w *manifest.Write) []Line {
	hole := make([]bool, len(w.Template))
	names := map[uint64]string{} // what the empty holes seem to refer to
	for _, h := range w.Holes {
		size := 4
		at := w.Address + uint64(h.Offset)
		switch h.Kind {
		case "abs64":
			size = 8
			names[at] = literalMark + h.Symbol // the place that a far jump loads from
		case "rel32":
			names[at+4] = h.Symbol
		case "branch26":
			names[at] = h.Symbol
		}
		for i := h.Offset; i < h.Offset+size && i < len(hole); i++ {
			hole[i] = true
		}
	}
	return lines(Machine(machine), w.Template, w.Address, hole, func(addr uint64) (string, uint64) {
		return names[addr], addr
	})
}

// literalMark goes before the name of a place that holds an address.
const literalMark = "·"

func lines(m elf.Machine, b []byte, addr uint64, hole []bool, sym disasm.Symbolizer) []Line {
	var all []Line
	for off := 0; off < len(b); {
		if name, size := literal(b, off, addr, hole, sym); size > 0 {
			all = append(all, Line{addr + uint64(off), show(b, off, off+size, hole), "address of " + name})
			off += size
			continue
		}
		in, err := disasm.Decode(m, b[off:])
		if err != nil || in.Len > len(b)-off {
			all = append(all, Line{addr + uint64(off), show(b, off, len(b), hole), "(part of an instruction)"})
			break
		}
		text := disasm.Text(m, b[off:off+in.Len], addr+uint64(off), sym)
		if hole != nil {
			text = named(text)
		}
		all = append(all, Line{addr + uint64(off), show(b, off, off+in.Len, hole), text})
		off += in.Len
	}
	return all
}

// named leaves of an operand with a hole its name: the address is that of an
// empty hole. A load from the address beside the instruction needs no name.
func named(text string) string {
	text, _, _ = strings.Cut(text, " # ")
	text = strings.ReplaceAll(text, literalMark, "=") // as in ldr x16, =symbol
	text = strings.TrimRight(text, " ")
	before, name, ok := strings.Cut(text, " <")
	if i := strings.LastIndexByte(before, ' '); ok && i >= 0 {
		return strings.TrimRight(before[:i], " ") + " " + strings.TrimSuffix(name, ">")
	}
	return text
}

// literal reports an eight-byte address at off: a hole that begins there and
// is named as a place to load from.
func literal(b []byte, off int, addr uint64, hole []bool, sym disasm.Symbolizer) (string, int) {
	if hole == nil || !hole[off] || off+8 > len(b) {
		return "", 0
	}
	name, _ := sym(addr + uint64(off))
	name, ok := strings.CutPrefix(name, literalMark)
	if !ok {
		return "", 0
	}
	return name, 8
}

func show(b []byte, from, to int, hole []bool) string {
	var parts []string
	for i := from; i < to; i++ {
		if hole != nil && hole[i] {
			parts = append(parts, "··")
		} else {
			parts = append(parts, hex.EncodeToString(b[i:i+1]))
		}
	}
	return strings.Join(parts, " ")
}
