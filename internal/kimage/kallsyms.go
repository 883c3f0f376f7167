package kimage

import (
	"bytes"
	"debug/elf"
	"errors"
	"slices"

	"livepatch/elfpatch"
)

// The kernel carries its symbol table in read-only data, without a header that
// says where. scripts/kallsyms.c writes it as a series of arrays. Verified on 5.10,
// 6.1, 6.12 and 7.2:
//
//	up to 6.4:  offsets, relative base, count, names, markers, [order by name,] tokens, token index
//	from 6.5:   count, names, markers, tokens, token index, offsets, relative base, order by name
//	7.x:        the same without the base: offsets count from their own place
//
// The arrays are aligned to 8 bytes, in 7.x to 4. Names are strings of token
// numbers, one byte each, behind a length; every 256th name has a marker, its
// offset in names. A token is a string. The first character of an expanded name
// is its type.
//
// The token index is found by its form (256 rising offsets that fit the
// strings before it), the rest by walking the names, whose offsets the markers
// repeat. Nothing else has that form by chance, and two finds are an error.

// region is a stretch of the image that can hold the table.
type region struct {
	addr uint64
	data []byte
}

const (
	wordAlign      = 4 // least alignment of the arrays
	longAlign      = 8 // alignment of those with addresses or a base
	numTokens      = 256
	tokenIndexSize = 2 * numTokens
	maxToken       = 512 // a token is never longer than a name: KSYM_NAME_LEN, 6.1
	namesPerMarker = 256
	// effort bounds the steps of the search per byte of the image. Kernels of Debian take up
	// to 3; without a bound, an image made for it would keep the search busy for
	// ever. maxNames is how much memory all names may take; those kernels need 6 MB.
	effort     = 8
	maxNames   = 64 << 20
	minSymbols = 256     // the smallest kernels have thousands
	maxSymbols = 1 << 24 // the largest have 300 thousand
	usualName  = 24      // bytes of a name, on average
	maxNameLen = 1024    // with the type; KSYM_NAME_LEN is 128 to 5.x, 512 from 6.1
)

var errNoKallsyms = errors.New("no symbol table (kallsyms) in the kernel image; it needs CONFIG_KALLSYMS")

// rawTable is the table as far as its form tells: the names, and where the
// arrays are that may hold the addresses.
type rawTable struct {
	in     region
	names  []Symbol // without addresses
	num    int      // offset of the count in the region
	align  int      // of the arrays
	behind int      // offset of what follows the token index
}

// elfRegions returns the contents that may hold the table: the sections that
// are loaded, or the segments of a file without sections.
func elfRegions(f *elfpatch.File) []region {
	var out []region
	for _, s := range f.Sections {
		if s.Flags&elf.SHF_ALLOC != 0 && len(s.Data) > 0 {
			out = append(out, region{s.Addr, s.Data})
		}
	}
	if len(f.Sections) > 1 {
		return out
	}
	for _, p := range f.Segments {
		if p.Type == elf.PT_LOAD && p.FileSize > 0 {
			if b, ok := f.ReadAddr(p.VAddr, int(p.FileSize)); ok {
				out = append(out, region{p.VAddr, b})
			}
		}
	}
	return out
}

// findKallsyms looks for the one table in the regions.
func findKallsyms(regions []region) (*rawTable, error) {
	var found *rawTable
	work := &budget{}
	for _, r := range regions {
		work.left += effort * len(r.data)
		for at := tokenIndexSize; at+tokenIndexSize <= len(r.data); at += wordAlign {
			if !isTokenIndex(r.data[at : at+tokenIndexSize]) {
				continue
			}
			tokens, start, ok := tokensBefore(r.data, at, work)
			if !ok {
				continue
			}
			t, err := tableBefore(r, start, tokens, work)
			switch {
			case err != nil:
				return nil, err
			case t == nil:
				continue
			case found != nil:
				return nil, errors.New("two symbol tables (kallsyms) in the kernel image")
			}
			t.behind = at + tokenIndexSize
			found = t
		}
	}
	if found == nil {
		return nil, errNoKallsyms
	}
	return found, nil
}

// isTokenIndex reports 256 offsets of strings that follow each other.
func isTokenIndex(b []byte) bool {
	last := 0
	for i := 2; i < tokenIndexSize; i += 2 {
		v := int(le.Uint16(b[i:]))
		if v <= last || v > last+maxToken {
			return false
		}
		last = v
	}
	return le.Uint16(b) == 0
}

// budget is the work that may still be done.
type budget struct{ left int }

// spend takes n steps off; false when there are none left.
func (b *budget) spend(n int) bool {
	b.left -= n
	return b.left >= 0
}

// tokensBefore reads the strings before the token index at an offset.
func tokensBefore(data []byte, at int, work *budget) (tokens *[numTokens][]byte, start int, ok bool) {
	tokens = new([numTokens][]byte)
	last := int(le.Uint16(data[at+tokenIndexSize-2:]))
	for start = (at - last - 1) &^ (wordAlign - 1); start >= 0 && start >= at-last-maxToken; start -= wordAlign {
		if !work.spend(last / numTokens) {
			return nil, 0, false
		}
		if cutTokens(data[start:at], data[at:], tokens) {
			return tokens, start, true
		}
	}
	return nil, 0, false
}

// cutTokens takes the strings of a token table apart as its index says.
func cutTokens(table, index []byte, tokens *[numTokens][]byte) bool {
	for i := range tokens {
		from := int(le.Uint16(index[2*i:]))
		n := bytes.IndexByte(table[from:], 0)
		if n < 0 { // it is 0 for codes that no name uses
			return false
		}
		end := from + n + 1
		if i+1 < numTokens && end != int(le.Uint16(index[2*i+2:])) {
			return false
		}
		if i+1 == numTokens && (len(table)-end >= longAlign || !allZero(table[end:])) {
			return false
		}
		tokens[i] = table[from : from+n]
	}
	return true
}

func allZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// tableBefore looks for the count, the names and the markers in front of a token
// table; nil when there are none.
func tableBefore(r region, tokens int, strings *[numTokens][]byte, work *budget) (*rawTable, error) {
	tooLong := errors.New("the search for the symbol table (kallsyms) of the kernel image takes too long")
	if !work.spend(tokens / wordAlign) {
		return nil, tooLong
	}
	var found *rawTable
	d := nameDecoder{tokens: strings, work: work}
	for at := 0; at+2*longAlign < tokens; at += wordAlign {
		n := le.Uint32(r.data[at:])
		if n < minSymbols || n > maxSymbols {
			continue
		}
		for _, align := range []int{wordAlign, longAlign} {
			if (r.addr+uint64(at))&uint64(align-1) != 0 || !allZero(r.data[at+4:at+align]) {
				continue
			}
			if work.left < 0 {
				return nil, tooLong
			}
			names := d.table(r.data[at+align:tokens], int(n), align)
			if names == nil {
				continue
			}
			if found != nil {
				return nil, errors.New("two lists of names in the symbol table (kallsyms) of the kernel image")
			}
			found = &rawTable{in: r, names: names, num: at, align: align}
		}
	}
	return found, nil
}

// nameDecoder expands names.
type nameDecoder struct {
	tokens *[numTokens][]byte
	text   []byte
	work   *budget
}

// table decodes n names and checks the markers behind them; nil if this is no
// list of names. Lengths from 128 take two bytes since 6.1, before they took
// one.
func (d *nameDecoder) table(b []byte, n, align int) []Symbol {
	if n > len(b)/2 {
		return nil
	}
	if s := d.walk(b, n, align, true); s != nil {
		return s
	}
	return d.walk(b, n, align, false)
}

func (d *nameDecoder) walk(b []byte, n, align int, long bool) []Symbol {
	markers, steps, ok := skim(b, n, align, long)
	if !d.work.spend(steps) || !ok {
		return nil
	}
	ends, types := make([]int, n), make([]byte, n)
	d.text = slices.Grow(d.text[:0], usualName*n)
	at := 0
	for i := range n {
		var size int
		size, at = nameLength(b, at, long)
		typ, ok := d.expand(b[at : at+size])
		if !ok || len(d.text) > maxNames || !d.work.spend(size) {
			return nil
		}
		at += size
		ends[i], types[i] = len(d.text), typ
	}
	for i, m := range markers {
		if le.Uint32(b[alignUp(at, align)+4*i:]) != uint32(m) {
			return nil
		}
	}
	return cutNames(string(d.text), ends, types)
}

// skim steps over n names by their lengths and returns the offset of every
// 256th, if that of the first two agrees with the markers behind the names, and
// how many steps it took.
func skim(b []byte, n, align int, long bool) (markers []int, steps int, ok bool) {
	at := 0
	for i := range n {
		if i%namesPerMarker == 0 {
			markers = append(markers, at)
		}
		var size int
		if size, at = nameLength(b, at, long); size == 0 || size > len(b)-at {
			return nil, i + 1, false
		}
		at += size
	}
	at = alignUp(at, align)
	if at+4*len(markers) > len(b) || le.Uint32(b[at:]) != 0 {
		return nil, n, false
	}
	return markers, n, len(markers) < 2 || le.Uint32(b[at+4:]) == uint32(markers[1])
}

func alignUp(n, align int) int { return (n + align - 1) &^ (align - 1) }

func nameLength(b []byte, at int, long bool) (size, next int) {
	if at+2 > len(b) {
		return 0, at
	}
	size = int(b[at])
	if long && size >= 128 {
		return size&127 | int(b[at+1])<<7, at + 2
	}
	return size, at + 1
}

// expand appends the name that the tokens stand for and returns its type.
func (d *nameDecoder) expand(codes []byte) (typ byte, ok bool) {
	start := len(d.text)
	for i, c := range codes {
		tok := d.tokens[c]
		if i == 0 {
			if len(tok) == 0 {
				return 0, false
			}
			typ, tok = tok[0], tok[1:]
		}
		d.text = append(d.text, tok...)
		if len(d.text)-start > maxNameLen {
			return 0, false
		}
	}
	return typ, isSymbolType(typ) && isName(d.text[start:])
}

// isSymbolType reports the letters that nm prints.
func isSymbolType(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' || c == '?' }

func isName(b []byte) bool {
	for _, c := range b {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return len(b) > 0
}

func cutNames(text string, ends []int, types []byte) []Symbol {
	out := make([]Symbol, len(ends))
	start := 0
	for i, end := range ends {
		out[i] = Symbol{Name: text[start:end], Type: types[i]}
		start = end
	}
	return out
}
