package elfpatch

import (
	"debug/elf"
	"errors"
	"fmt"
)

// RelocKind says what the value of a relocation is computed from. In all of
// them the value is s + a, less the place for those with Reloc.PCRel; the kinds
// differ in what s stands for. Where s is a slot or a descriptor, the addend of
// arm64 relocations belongs to what is put into it: pass 0 as a.
type RelocKind int

const (
	KindNone    RelocKind = iota // marks an instruction or nothing: no field
	KindData                     // s: address of the symbol
	KindBranch                   // s: address of the symbol or of a stub that jumps to it
	KindGOT                      // s: address of the slot that holds the symbol's address
	KindGOTBase                  // s: address of the global offset table
	KindGOTRel                   // s: address of the symbol, or of its slot, less that of the global offset table
	KindTLS                      // s: offset of the symbol from the thread pointer (local exec)
	KindTLSIE                    // s: address of the slot that holds that offset (initial exec)
	KindTLSGD                    // s: address of the slot pair for __tls_get_addr (general, local dynamic)
	KindTLSDesc                  // s: address of the descriptor
	KindDTPRel                   // s: offset of the symbol in its module's thread-local block
	KindSize                     // s: size of the symbol
	KindDynamic                  // s: what the dynamic loader computes; only in linked files
)

// Reloc is a row of the relocation tables: what a type of relocation computes
// and which field it writes.
type Reloc struct {
	Name  string // R_X86_64_PC32
	Kind  RelocKind
	Size  int    // bytes of the field; arm64 instructions: 4
	PCRel bool   // the place (or its page, see Page) is subtracted
	Page  bool   // both are rounded down to 4096 first
	Insn  bool   // the field shares its bytes with an instruction
	Holds uint64 // which bits of s + a LinkedTarget can tell from a linked field

	lim limits
	enc encoding
}

// limits is the range that the ABI demands of a value.
type limits struct {
	sign limitKind
	bits uint8 // signed n: -2^(n-1) <= x < 2^(n-1); unsigned n: 0 <= x < 2^n; either: -2^(n-1) <= x < 2^n
	step uint8 // the value must be a multiple of this, 0 if of nothing
}

type limitKind uint8

const (
	unchecked limitKind = iota
	signed
	unsigned
	either
)

// encoding is how a value gets into the field: bits [low, low+width) of it go
// to each part in turn, lowest part first.
type encoding struct {
	low   uint8
	parts [2]part
	form  form
}

type part struct{ at, width uint8 }

type form uint8

const (
	plain   form = iota
	movSign      // arm64 move wide: MOVZ, or MOVN with the complement if negative
)

// opcMovz is the bit that tells MOVZ (opc 10) from MOVN (00).
const opcMovz = 1 << 30

// ErrUnsupported is returned for a relocation type that is unknown or that no
// linker resolves to a field (copy relocations, indirect functions).
var ErrUnsupported = errors.New("relocation type not supported")

// A RangeError says that the value of a relocation does not fit its field.
type RangeError struct {
	Name     string // of the relocation type
	Value    int64
	Min, Max int64 // inclusive limits
	Step     int64 // if not 0, the value is no multiple of it
}

func (e *RangeError) Error() string {
	if e.Step != 0 {
		return fmt.Sprintf("%s: value %#x is no multiple of %d", e.Name, e.Value, e.Step)
	}
	return fmt.Sprintf("%s: value %#x is not in [%#x, %#x]", e.Name, e.Value, e.Min, e.Max)
}

// RelocInfo returns what is known of a relocation type.
func RelocInfo(m elf.Machine, typ uint32) (Reloc, bool) {
	if r := relocRow(m, typ); r != nil {
		return *r, true
	}
	return Reloc{}, false
}

func relocRow(m elf.Machine, typ uint32) *Reloc {
	var table []*Reloc
	switch m {
	case elf.EM_X86_64:
		table = x86Relocs
	case elf.EM_AARCH64:
		table = arm64Relocs
	}
	if uint64(typ) >= uint64(len(table)) {
		return nil
	}
	return table[typ]
}

// RelocName returns the name of a relocation type, or its number.
func RelocName(m elf.Machine, typ uint32) string {
	if r := relocRow(m, typ); r != nil {
		return r.Name
	}
	return fmt.Sprintf("relocation type %d", typ)
}

// ApplyReloc writes the linked value into field, which starts at address p and
// must have at least Reloc.Size bytes; bits that the relocation does not own
// are kept. What s is depends on the kind, see RelocKind. The error is a
// *RangeError if the value does not fit, or wraps ErrUnsupported.
func ApplyReloc(m elf.Machine, typ uint32, field []byte, p, s uint64, a int64) error {
	r := relocRow(m, typ)
	if r == nil || r.Kind == KindDynamic && r.Size == 0 {
		return fmt.Errorf("apply %s: %w", RelocName(m, typ), ErrUnsupported)
	}
	if len(field) < r.Size {
		return fmt.Errorf("apply %s: field of %d bytes, it takes %d", r.Name, len(field), r.Size)
	}
	x := s + uint64(a)
	switch {
	case r.Page:
		x = x&^0xfff - p&^0xfff
	case r.PCRel:
		x -= p
	}
	if err := r.check(int64(x)); err != nil {
		return err
	}
	w := loadField(field, r.Size)
	storeField(field, r.Size, r.enc.insert(w, x))
	return nil
}

// Reach returns how far from its place, in bytes, the field of a relative
// relocation leads in either direction; 0 if it is not limited.
func (r *Reloc) Reach() uint64 {
	if !r.PCRel || r.lim.sign != signed && r.lim.sign != either || r.lim.bits >= 64 {
		return 0
	}
	return 1 << (r.lim.bits - 1)
}

func (r *Reloc) check(x int64) error {
	lo, hi := r.limits()
	if x < lo || x > hi {
		return &RangeError{Name: r.Name, Value: x, Min: lo, Max: hi}
	}
	if step := int64(r.lim.step); step > 1 && x%step != 0 {
		return &RangeError{Name: r.Name, Value: x, Min: lo, Max: hi, Step: step}
	}
	return nil
}

func (r *Reloc) limits() (lo, hi int64) {
	const minInt, maxInt = -1 << 63, 1<<63 - 1
	n := r.lim.bits
	switch r.lim.sign {
	case signed:
		return -1 << (n - 1), 1<<(n-1) - 1
	case unsigned:
		return 0, 1<<n - 1
	case either:
		return -1 << (n - 1), 1<<n - 1
	}
	return minInt, maxInt
}

// holds computes which bits of s + a a linked field tells: those of its parts;
// the ones below if they must be zero; the ones above if the range leaves no
// choice. If the place was subtracted and low bits are missing, so is the
// carry, and nothing is certain.
func (r *Reloc) holds() uint64 {
	if r.Size == 0 {
		return 0
	}
	from, to := r.enc.low, r.enc.low
	for _, p := range r.enc.parts {
		to += p.width
	}
	if uint64(r.lim.step) == uint64(1)<<from {
		from = 0
	}
	if r.lim.sign == signed || r.lim.sign == unsigned {
		to = 64
	}
	if r.PCRel && !r.Page && from != 0 {
		return 0
	}
	return (uint64(1)<<to - 1) &^ (uint64(1)<<from - 1)
}

func (e *encoding) insert(w, x uint64) uint64 {
	if e.form == movSign {
		w |= opcMovz
		if int64(x) < 0 {
			w &^= opcMovz
			x = ^x
		}
	}
	x >>= e.low
	for _, p := range e.parts {
		mask := uint64(1)<<p.width - 1
		w = w&^(mask<<p.at) | x&mask<<p.at
		x >>= p.width
	}
	return w
}

// extract is the inverse of insert: the value, its top bit extended, and how
// many bits it has.
func (e *encoding) extract(w uint64) (x uint64, width uint8) {
	for _, p := range e.parts {
		mask := uint64(1)<<p.width - 1
		x |= w >> p.at & mask << width
		width += p.width
	}
	width += e.low
	return x << e.low, width
}

// LinkedTarget tells s + a from a linked field at address p. Where the field
// holds only a part of it (the page, the low bits), the other bits are 0 or
// follow from the sign: Reloc.Holds says which are right. It answers false for
// unknown types, fields that tell nothing, and fields that are too short.
func LinkedTarget(m elf.Machine, typ uint32, field []byte, p uint64) (uint64, bool) {
	r := relocRow(m, typ)
	if r == nil || r.Holds == 0 || len(field) < r.Size {
		return 0, false
	}
	w := loadField(field, r.Size)
	x, width := r.enc.extract(w)
	if extends := r.lim.sign == signed || r.PCRel; extends && width < 64 {
		x = uint64(int64(x<<(64-width)) >> (64 - width))
	}
	if r.enc.form == movSign {
		x &= 0xffff << r.enc.low
		if w&opcMovz == 0 {
			x = ^x
		}
	}
	switch {
	case r.Page:
		x += p &^ 0xfff
	case r.PCRel:
		x += p
	}
	return x, true
}

// FieldMask returns, for each byte of the field, the bits that the relocation
// owns; nil for unknown types and those without a field.
func FieldMask(m elf.Machine, typ uint32) []byte {
	r := relocRow(m, typ)
	if r == nil || r.Size == 0 {
		return nil
	}
	var mask uint64
	for _, p := range r.enc.parts {
		mask |= (1<<p.width - 1) << p.at
	}
	if r.enc.form == movSign {
		mask |= opcMovz
	}
	out := make([]byte, r.Size)
	storeField(out, r.Size, mask)
	return out
}

func loadField(b []byte, size int) uint64 {
	var w uint64
	for i := size - 1; i >= 0; i-- {
		w = w<<8 | uint64(b[i])
	}
	return w
}

func storeField(b []byte, size int, w uint64) {
	for i := range size {
		b[i] = byte(w >> (8 * i))
	}
}
