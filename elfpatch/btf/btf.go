// Package btf reads BTF, the type information of kernels and modules: which types there
// are, as they stand. What they mean is for others to say.
package btf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// BTF is the kernel's own type information: Documentation/bpf/btf.rst (6.12). A
// header says where the types and the strings are; types follow each other,
// numbered from 1, each with a head of 12 bytes and a tail that depends on its
// kind. Since 7.1 a header of 32 bytes may name a third part, which says how
// long the tails of all kinds are (include/uapi/linux/btf.h, 7.2).

var le = binary.LittleEndian

const (
	Magic     = 0xeb9f
	HeaderMin = 24
	layoutAt  = 24
	head      = 12
	maxTypes  = 1 << 24
	maxName   = 4096 // the kernel takes 511 bytes
)

// Kinds of types: include/uapi/linux/btf.h (6.12).
const (
	Int       = 1
	Ptr       = 2
	Array     = 3
	Struct    = 4
	Union     = 5
	Enum      = 6
	Fwd       = 7
	Typedef   = 8
	Volatile  = 9
	Const     = 10
	Restrict  = 11
	Func      = 12
	FuncProto = 13
	Var       = 14
	Datasec   = 15
	Float     = 16
	DeclTag   = 17
	TypeTag   = 18
	Enum64    = 19
)

// tail is what follows the head of a type: fixed bytes, and some for each of
// its elements.
type tail struct{ fixed, each int }

var tails = map[int]tail{
	Int: {4, 0}, Ptr: {}, Array: {12, 0}, Struct: {0, 12}, Union: {0, 12}, Enum: {0, 8},
	Fwd: {}, Typedef: {}, Volatile: {}, Const: {}, Restrict: {}, Func: {}, FuncProto: {0, 8},
	Var: {4, 0}, Datasec: {0, 12}, Float: {}, DeclTag: {4, 0}, TypeTag: {}, Enum64: {0, 12},
}

// Table is BTF with its types found.
type Table struct {
	base    *Table // whose types and strings are numbered before these; nil: none
	types   []byte
	strings []byte
	at      []int // offset in types, by number less 1
}

var ErrDamaged = errors.New("BTF is damaged")

// part cuts a part that the header names out of what follows it.
func part(body []byte, off, size uint32) ([]byte, error) {
	if uint64(off)+uint64(size) > uint64(len(body)) {
		return nil, fmt.Errorf("%w: a part of %#x bytes at %#x exceeds it", ErrDamaged, size, off)
	}
	return body[off : off+size], nil
}

// Parse reads the type information of a kernel, or what stands for itself.
func Parse(b []byte) (*Table, error) { return parse(nil, b) }

// ParseSplit reads that of a module, whose types and strings go on from those of
// the kernel, or of the section .BTF.base of the module (Documentation/bpf/btf.rst,
// 6.12).
func ParseSplit(base *Table, b []byte) (*Table, error) { return parse(base, b) }

func parse(base *Table, b []byte) (*Table, error) {
	if len(b) < HeaderMin || le.Uint16(b) != Magic {
		return nil, errors.New("no BTF: the magic number is missing")
	}
	if b[2] != 1 {
		return nil, fmt.Errorf("BTF of version %d is not known", b[2])
	}
	size := le.Uint32(b[4:])
	if size < HeaderMin || uint64(size) > uint64(len(b)) {
		return nil, fmt.Errorf("%w: its header has %d bytes", ErrDamaged, size)
	}
	body := b[size:]
	t := &Table{base: base}
	var err error
	if t.types, err = part(body, le.Uint32(b[8:]), le.Uint32(b[12:])); err != nil {
		return nil, err
	}
	if t.strings, err = part(body, le.Uint32(b[16:]), le.Uint32(b[20:])); err != nil {
		return nil, err
	}
	var layout []byte
	if size >= layoutAt+8 {
		if layout, err = part(body, le.Uint32(b[layoutAt:]), le.Uint32(b[layoutAt+4:])); err != nil {
			return nil, err
		}
	}
	return t, t.find(layout)
}

// find notes where each type begins.
func (t *Table) find(layout []byte) error {
	for at := 0; at < len(t.types); {
		if len(t.types)-at < head || len(t.at) >= maxTypes {
			return fmt.Errorf("%w: type %d", ErrDamaged, len(t.at)+1)
		}
		info := le.Uint32(t.types[at+4:])
		kind, n := int(info>>24&0x1f), int(info&0xffff)
		tl, ok := tails[kind]
		if !ok {
			// struct btf_layout {u8 info_sz, elem_sz; u16 flags} for each kind
			if 4*kind+4 > len(layout) {
				return fmt.Errorf("BTF type %d is of the unknown kind %d", len(t.at)+1, kind)
			}
			tl = tail{int(layout[4*kind]), int(layout[4*kind+1])}
		}
		size := head + tl.fixed + n*tl.each
		if size > len(t.types)-at {
			return fmt.Errorf("%w: type %d exceeds it", ErrDamaged, len(t.at)+1)
		}
		t.at = append(t.at, at)
		at += size
	}
	return nil
}

// Type is the head of a type and its tail.
type Type struct {
	Name  string
	Kind  int
	N     int    // of its elements
	Flag  bool   // of a structure: it has bit-fields; of an enumeration: its values are signed
	Value uint32 // its size, or the type that it refers to
	Tail  []byte
}

// typ returns type id; false for 0, which is void, and for those of another BTF.
func (t *Table) Type(id uint32) (Type, bool) {
	if own := t.Base(); own > 0 {
		if uint64(id) <= uint64(own) {
			return t.base.Type(id)
		}
		id -= uint32(own)
	}
	if id == 0 || uint64(id) > uint64(len(t.at)) {
		return Type{}, false
	}
	at, end := t.at[id-1], len(t.types)
	if int(id) < len(t.at) {
		end = t.at[id]
	}
	b := t.types[at:end]
	info := le.Uint32(b[4:])
	return Type{
		Name: t.Name(le.Uint32(b)), Kind: int(info >> 24 & 0x1f), N: int(info & 0xffff), Flag: info>>31 != 0,
		Value: le.Uint32(b[8:]), Tail: b[head:],
	}, true
}

// Name is the string at an offset; empty outside of the strings.
func (t *Table) Name(off uint32) string {
	if t.base != nil {
		if uint64(off) < uint64(len(t.base.strings)) {
			return t.base.Name(off)
		}
		off -= uint32(len(t.base.strings))
	}
	if uint64(off) >= uint64(len(t.strings)) {
		return ""
	}
	s := t.strings[off:min(uint64(off)+maxName, uint64(len(t.strings)))]
	if i := bytes.IndexByte(s, 0); i >= 0 {
		s = s[:i]
	}
	return string(s)
}

// maxDepth bounds chains of types; those of compilers are short.
const maxDepth = 32

// SizeOf returns the bytes of a type; false if it has none.
func (t *Table) SizeOf(id uint32) (uint64, bool) { return t.sizeOf(id, 0) }

// sizeOf returns the bytes of a type.
func (t *Table) sizeOf(id uint32, depth int) (uint64, bool) {
	typ, ok := t.Type(id)
	if !ok || depth > maxDepth {
		return 0, false
	}
	switch typ.Kind {
	case Int, Struct, Union, Enum, Enum64, Float, Datasec:
		return uint64(typ.Value), true
	case Ptr:
		return 8, true
	case Array:
		n, ok := t.sizeOf(le.Uint32(typ.Tail), depth+1)
		return n * uint64(le.Uint32(typ.Tail[8:])), ok
	case Typedef, Volatile, Const, Restrict, TypeTag, Var:
		return t.sizeOf(typ.Value, depth+1)
	}
	return 0, false
}

// Len is the number of types, those of the base included; they are numbered from 1.
func (t *Table) Len() int { return t.Base() + len(t.at) }

// Base is the number of types of the base, which are numbered before the own.
func (t *Table) Base() int {
	if t.base == nil {
		return 0
	}
	return len(t.base.at)
}
