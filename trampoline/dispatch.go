package trampoline

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"slices"
)

// Dispatch is the way from a redirected entry to the code that runs.
type Dispatch string

const (
	Direct Dispatch = "direct" // the entry jumps to the replacement
	Gated  Dispatch = "gated"  // to code that goes on in the old body until the version is set
	Shared Dispatch = "shared" // to one handler, which looks the entry up in a table
	Slot   Dispatch = "slot"   // to one handler, which finds the function's record in the word before it
)

// Dispatches are all of them.
var Dispatches = []Dispatch{Direct, Gated, Shared, Slot}

// Switched reports whether the functions stay with their old bodies until the
// version byte of the patch is written.
func (d Dispatch) Switched() bool { return d == Gated || d == Slot }

// Versions is how many a record of Slot has room for: version 0 is the old
// body, 1 the replacement; the others hold, for all functions of the patch, what
// patches that come later make of them.
const Versions = 4

// Redirected is a function that a patch redirects.
type Redirected struct {
	Body  []byte // from the site on: what Gated moves
	Site  Site
	Slot  uint64 // of Slot: address of the aligned word before the function
	Nops  int    // bytes of NOPs at the site that were left there to be patched
	Index int    // Function in the places
}

// Area is the kind of memory that a Piece needs.
type Area uint8

const (
	Text Area = iota
	Const
	Data
)

// A Piece is code or data of a patch that stands between its redirects and its
// replacements.
type Piece struct {
	Name Place
	Area Area
	Code
}

// A SlotError says why a function cannot be redirected by Slot.
type SlotError struct {
	Addr uint64
	Text string
}

func (e *SlotError) Error() string { return fmt.Sprintf("entry at %#x: %s", e.Addr, e.Text) }

// Redirect plans the writes at one function. Those of Direct, Gated and Shared
// follow the strategy; Slot has one of its own, and its error is a *SlotError
// where the compiler left no such site. The others are those of Make.
func Redirect(m elf.Machine, d Dispatch, f Redirected, st Strategy) (Plan, error) {
	if d == Slot {
		return slotPlan(m, f)
	}
	p, err := Make(m, f.Site, st)
	if err != nil {
		return Plan{}, err
	}
	to := Place{Kind: Entry, Function: f.Index}
	switch {
	case d == Direct:
		to.Kind = Replacement
	case d == Shared && m == elf.EM_X86_64:
		to = Place{Kind: Handler}
		if st != Near && st != Filler {
			return Plan{}, &UnsupportedError{Machine: m, Strategy: st}
		}
		p.Writes[0].Bytes[0] = x86Call
	}
	for i := range p.Writes {
		p.Writes[i].To = to
	}
	return p, nil
}

// Of is the plan for a function that has another index.
func (p Plan) Of(function int) Plan {
	p.Writes = slices.Clone(p.Writes)
	for i := range p.Writes {
		if to := &p.Writes[i].To; to.Kind != Handler {
			to.Function = function
		}
	}
	return p
}

func slotPlan(m elf.Machine, f Redirected) (Plan, error) {
	call, hole := x86NearJumpTo(x86Call)
	if m == elf.EM_AARCH64 {
		call, hole = arm64SlotCall()
	}
	at := f.Site.Addr
	behind := int64(at) - int64(f.Site.Gap) - int64(f.Slot) - wordLen // bytes of the filler that follow the word
	front := int64(len(f.Site.FrontBytes)) - behind
	switch {
	case f.Slot == 0:
		return Plan{}, &SlotError{at, "no aligned word of NOPs stands before it (-fpatchable-function-entry=N,M with M of 8 bytes or more)"}
	case f.Nops < len(call) || len(f.Site.Expected) < len(call):
		return Plan{}, &SlotError{at, fmt.Sprintf("%d bytes of NOPs at it, not %d (-fpatchable-function-entry=N,M)", f.Nops, len(call))}
	case f.Slot != slotOf(at):
		return Plan{}, &SlotError{at, fmt.Sprintf("the handler would look for its word at %#x, and the NOPs have room for it at %#x", slotOf(at), f.Slot)}
	case behind < 0 || front < wordLen:
		return Plan{}, &BytesError{f.Slot, wordLen, int(max(0, front))}
	}
	word := place(f.Slot, f.Site.FrontBytes[front-wordLen:front], make([]byte, wordLen), Hole{0, Abs64})
	word.To = Place{Kind: Record, Function: f.Index}
	entry := place(at, f.Site.Expected, call, hole)
	entry.To = Place{Kind: Handler}
	return Plan{Machine: m, Strategy: ByWord, Writes: []Template{word, entry}}, nil
}

// slotOf is the address of the word by which the handler knows a function,
// from that of the instruction that the redirect begins with.
func slotOf(site uint64) uint64 { return site&^(wordLen-1) - wordLen }

// Pieces makes what stands between the redirects of functions, as Redirect
// planned them, and their replacements: nothing for Direct.
func Pieces(m elf.Machine, d Dispatch, list []Redirected, plans []Plan) ([]Piece, error) {
	var out []Piece
	switch d {
	case Gated:
		for i, f := range list {
			gate, err := gateOf(m, f, plans[i])
			if err != nil {
				return nil, err
			}
			out = append(out, Piece{Place{Kind: Entry, Function: f.Index}, Text, gate})
		}
	case Shared:
		return sharedPieces(m, list, plans)
	case Slot:
		handler := x86SlotHandler()
		if m == elf.EM_AARCH64 {
			handler = arm64SlotHandler()
		}
		out = append(out, Piece{Place{Kind: Handler}, Text, handler})
		for i, f := range list {
			entry := plans[i].Writes[1]
			out = append(out, Piece{Place{Kind: Record, Function: f.Index}, Data, recordOf(m, f.Index, entry.Addr+uint64(len(entry.Bytes)))})
		}
	}
	if d.Switched() {
		out = append(out, Piece{Place{Kind: Version}, Data, Code{Bytes: []byte{0}}})
	}
	return out, nil
}

// gateOf is the code that a gated entry leads to.
func gateOf(m elf.Machine, f Redirected, p Plan) (Code, error) {
	moved, err := Displace(m, f.Body, f.Site.Addr, overwritten(f, p))
	if err != nil {
		return Code{}, err
	}
	gate := x86Gate(f.Index)
	if m == elf.EM_AARCH64 {
		gate = arm64Gate(f.Index)
	}
	return gate.join(moved.Code), nil
}

// overwritten is the number of bytes that a plan writes at the site itself.
func overwritten(f Redirected, p Plan) int {
	n := 0
	for _, w := range p.Writes {
		if w.Addr == f.Site.Addr {
			n = len(w.Bytes)
		}
	}
	return n
}

// join appends other code.
func (c Code) join(d Code) Code {
	at := c.emit(d.Bytes...)
	for _, r := range d.Refs {
		c.ref(at+r.Off, r.Type, r.To, r.Addend)
	}
	for _, r := range d.Rows {
		r.Off += at
		c.Rows = append(c.Rows, r)
	}
	return c
}

// recordOf is the record of a function: the address to go to by version, first
// that of the old body behind the redirect.
func recordOf(m elf.Machine, function int, rest uint64) Code {
	var c Code
	c.emit(make([]byte, Versions*wordLen)...)
	typ := uint32(elf.R_X86_64_64)
	if m == elf.EM_AARCH64 {
		typ = uint32(elf.R_AARCH64_ABS64)
	}
	c.ref(0, typ, target(rest), 0)
	c.ref(wordLen, typ, Place{Kind: Replacement, Function: function}, 0)
	return c
}

// The table of Shared, little-endian, open addressing with linear probing:
//
//	0  4  key: address by which the handler knows the function, less the anchor
//	4  4  address of the replacement, less that of the table
//
// An empty entry is zero, and no key is. The first entry to look at is the key
// times hashFactor, its top bits.
const (
	entryLen   = 8
	hashFactor = 0x9e3779b1 // 2^32 divided by the golden ratio, made odd
)

// tableBits is the binary logarithm of the entries for n functions: at most
// three quarters of them are used.
func tableBits(n int) int { return max(1, bits.Len(uint((n*4+2)/3)-1)) }

// keyOf is the address by which the handler of Shared knows a function: the one
// behind the call on x86-64, that of the site on arm64.
func keyOf(m elf.Machine, f Redirected, p Plan) uint64 {
	if m == elf.EM_X86_64 {
		return p.Writes[0].Addr + X86NearLen
	}
	return f.Site.Addr
}

func sharedPieces(m elf.Machine, list []Redirected, plans []Plan) ([]Piece, error) {
	low, high := uint64(math.MaxUint64), uint64(0)
	for i, f := range list {
		k := keyOf(m, f, plans[i])
		low, high = min(low, k), max(high, k)
	}
	anchor := low - 1 // so that no key is zero
	if high-anchor > math.MaxUint32 {
		return nil, fmt.Errorf("functions from %#x to %#x are too far apart for one table", low, high)
	}
	table := Code{Bytes: make([]byte, entryLen<<tableBits(len(list)))}
	prel := x86PC32
	if m == elf.EM_AARCH64 {
		prel = uint32(elf.R_AARCH64_PREL32)
	}
	var out []Piece
	for i, f := range list {
		key := uint32(keyOf(m, f, plans[i]) - anchor)
		off := table.free(key)
		binary.LittleEndian.PutUint32(table.Bytes[off:], key)
		table.ref(off+4, prel, Place{Kind: Replacement, Function: f.Index}, int64(off+4))
		if m == elf.EM_AARCH64 {
			out = append(out, Piece{Place{Kind: Entry, Function: f.Index}, Text, arm64Stub(key)})
		}
	}
	handler := x86SharedHandler(anchor, tableBits(len(list)))
	if m == elf.EM_AARCH64 {
		handler = arm64SharedHandler(tableBits(len(list)))
	}
	return append(out, Piece{Place{Kind: Handler}, Text, handler}, Piece{Place{Kind: Table}, Const, table}), nil
}

// free is the offset of the entry that a key gets.
func (c *Code) free(key uint32) int {
	mask := len(c.Bytes)/entryLen - 1
	i := int(key * hashFactor >> (32 - bits.Len(uint(mask))))
	for binary.LittleEndian.Uint32(c.Bytes[i*entryLen:]) != 0 {
		i = (i + 1) & mask
	}
	return i * entryLen
}

// FollowDispatch is Follow for an entry redirected by a dispatch: it returns
// where calls come first, the replacement of Direct, else an Entry or the
// Handler. record is the address in the word of Slot.
func FollowDispatch(m elf.Machine, d Dispatch, pc uint64, read func(addr uint64, n int) []byte) (to, record uint64, ok bool) {
	switch {
	case d == Slot:
		word := read(slotOf(pc), wordLen)
		if len(word) < wordLen {
			return 0, 0, false
		}
		record = binary.LittleEndian.Uint64(word)
		if m == elf.EM_AARCH64 {
			to, ok = arm64CallTarget(read(pc, 2*Arm64BranchLen), pc)
			return to, record, ok
		}
	case d != Shared || m != elf.EM_X86_64:
		to, ok = Follow(m, pc, read)
		return to, 0, ok
	}
	code := read(pc, X86NearLen)
	if len(code) >= X86ShortLen && code[0] == x86Short { // into the filler
		pc, _ = x86Target(code, pc)
		code = read(pc, X86NearLen)
	}
	if len(code) < X86NearLen || code[0] != x86Call {
		return 0, record, false
	}
	d32 := int32(binary.LittleEndian.Uint32(code[x86NearHole:]))
	return pc + X86NearLen + uint64(d32), record, true
}
