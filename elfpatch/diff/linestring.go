package diff

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"livepatch/elfpatch/kernel"
)

// sourceFile is the name of the file that the object was made from, "" if it
// was made from several.
func (c *comparison) sourceFile() string {
	name := ""
	for _, sym := range c.orig.f.Symbols {
		if sym.Type == elf.STT_FILE && sym.Name != name {
			if name != "" {
				return ""
			}
			name = sym.Name
		}
	}
	return name
}

// sourceName is the text of the string that a reference leads to, if it is the
// name of a source file; else "".
func (s *side) sourceName(r *ref) string {
	if r.to == nil || r.to.kind == function || r.to.bss || r.to.sec == 0 || r.add < 0 || uint64(r.add) >= r.to.size {
		return ""
	}
	b := s.data(r.to)[r.add:]
	if k := bytes.IndexByte(b, 0); k >= 0 {
		b = b[:k]
	}
	if len(b) < 3 || len(b) > 4096 {
		return ""
	}
	if text := string(b); hasSuffix(text, ".c", ".h", ".S", ".rs", ".inc", ".cc", ".cpp", ".cxx", ".c++", ".C", ".hh", ".hpp", ".hxx", ".h++", ".ipp", ".tcc") {
		return text
	}
	return ""
}

// lineString notes a claim for two strings that differ in a line behind the
// name of a file only: "mm/slub.c:120".
func (c *comparison) lineString(p *pairing) bool {
	x, y := c.orig.data(p.orig), c.patched.data(p.patched)
	n := 0
	for n < len(x) && n < len(y) && x[n] == y[n] {
		n++
	}
	for n > 0 && isDigit(x[n-1]) {
		n--
	}
	i, k := n, n
	for i < len(x) && isDigit(x[i]) {
		i++
	}
	for k < len(y) && isDigit(y[k]) {
		k++
	}
	if i == n || k == n || n < 4 || x[n-1] != ':' || !bytes.Equal(x[i:], y[k:]) {
		return false
	}
	head := string(x[:n-1])
	if !hasSuffix(head, ".c", ".h", ".S", ".rs") {
		return false
	}
	file := head[strings.LastIndexAny(head, " \t(\"'=,")+1:]
	old, err := strconv.ParseInt(string(x[n:i]), 10, 32)
	now, err2 := strconv.ParseInt(string(y[n:k]), 10, 32)
	if err != nil || err2 != nil || len(file) < 3 {
		return false
	}
	was, _ := c.orig.quote(p.orig, 0)
	is, _ := c.patched.quote(p.patched, 0)
	c.claim(p, claim{old: old, new: now, strong: true, file: file, why: &Difference{Old: was, New: is, whole: true}})
	return true
}

func isDigit(b byte) bool { return b >= '0' && b <= '9' }

// withoutLines returns the contents of two variables that describe a place in
// the code, without the line and the column there, and notes what differs in
// those.
func (c *comparison) withoutLines(p *pairing, x, y []byte) ([]byte, []byte) {
	if p.orig.special == nil || p.patched.special == nil || len(x) == 0 || len(y) == 0 {
		return x, y
	}
	for _, f := range kernel.LineFields {
		if f.Off+4 > uint64(min(len(x), len(y))) || !c.orig.hasField(p.orig, f) || !c.patched.hasField(p.patched, f) {
			continue
		}
		mask := uint32(1)<<f.Bits - 1
		if f.Bits == 32 {
			mask = ^uint32(0)
		}
		old, now := binary.LittleEndian.Uint32(x[f.Off:]), binary.LittleEndian.Uint32(y[f.Off:])
		if old&mask == now&mask {
			continue
		}
		x, y = bytes.Clone(x), bytes.Clone(y)
		binary.LittleEndian.PutUint32(x[f.Off:], old&^mask)
		binary.LittleEndian.PutUint32(y[f.Off:], now&^mask)
		if f.Column {
			continue
		}
		file := ""
		for i := range p.orig.refs {
			if file == "" {
				file = c.orig.sourceName(&p.orig.refs[i])
			}
		}
		old, now = old&mask, now&mask
		c.claim(p, claim{old: int64(old), new: int64(now), strong: true, file: file,
			why: &Difference{Off: f.Off, Old: fmt.Sprintf("line %d", old), New: fmt.Sprintf("line %d", now)}})
	}
	return x, y
}

// hasField reports data that a row of the table of line fields is about. What
// clang does not name has to look like a place: a file name, and no reference
// in the fields.
func (s *side) hasField(p *piece, f kernel.LineField) bool {
	if f.Data == "__unnamed_" || f.Data == "Lubsan_data" {
		if !strings.Contains(p.special.Name, f.Data) || len(p.refs) == 0 || p.refs[0].off != 0 || s.sourceName(&p.refs[0]) == "" {
			return false
		}
	} else if p.special.Name != f.Data {
		return false
	}
	k := p.refAt(f.Off)
	return k == len(p.refs) || p.refs[k].off >= f.Off+4
}
