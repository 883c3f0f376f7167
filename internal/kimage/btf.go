package kimage

import (
	"debug/elf"
	"errors"
	"fmt"
)

// BTF is the kernel's own type information: Documentation/bpf/btf.rst (6.12). A
// header says where the types and the strings are; types follow each other,
// numbered from 1, each with a head of 12 bytes and a tail that depends on its
// kind. Since 7.1 a header of 32 bytes may name a third part, which says how
// long the tails of all kinds are (include/uapi/linux/btf.h, 7.2).

const (
	btfMagic     = 0xeb9f
	btfHeaderMin = 24
	btfLayoutAt  = 24
	btfHead      = 12
	maxBTFTypes  = 1 << 24
	maxBTFName   = 4096 // the kernel takes 511 bytes
)

// Kinds of types: include/uapi/linux/btf.h (6.12).
const (
	btfInt       = 1
	btfPtr       = 2
	btfArray     = 3
	btfStruct    = 4
	btfUnion     = 5
	btfEnum      = 6
	btfFwd       = 7
	btfTypedef   = 8
	btfVolatile  = 9
	btfConst     = 10
	btfRestrict  = 11
	btfFunc      = 12
	btfFuncProto = 13
	btfVar       = 14
	btfDatasec   = 15
	btfFloat     = 16
	btfDeclTag   = 17
	btfTypeTag   = 18
	btfEnum64    = 19
)

// tail is what follows the head of a type: fixed bytes, and some for each of
// its elements.
type tail struct{ fixed, each int }

var btfTails = map[int]tail{
	btfInt: {4, 0}, btfPtr: {}, btfArray: {12, 0}, btfStruct: {0, 12}, btfUnion: {0, 12}, btfEnum: {0, 8},
	btfFwd: {}, btfTypedef: {}, btfVolatile: {}, btfConst: {}, btfRestrict: {}, btfFunc: {}, btfFuncProto: {0, 8},
	btfVar: {4, 0}, btfDatasec: {0, 12}, btfFloat: {}, btfDeclTag: {4, 0}, btfTypeTag: {}, btfEnum64: {0, 12},
}

// btfTable is BTF with its types found.
type btfTable struct {
	types   []byte
	strings []byte
	at      []int // offset in types, by number less 1
}

var errBTF = errors.New("BTF is damaged")

// part cuts a part that the header names out of what follows it.
func btfPart(body []byte, off, size uint32) ([]byte, error) {
	if uint64(off)+uint64(size) > uint64(len(body)) {
		return nil, fmt.Errorf("%w: a part of %#x bytes at %#x exceeds it", errBTF, size, off)
	}
	return body[off : off+size], nil
}

func parseBTF(b []byte) (*btfTable, error) {
	if len(b) < btfHeaderMin || le.Uint16(b) != btfMagic {
		return nil, errors.New("no BTF: the magic number is missing")
	}
	if b[2] != 1 {
		return nil, fmt.Errorf("BTF of version %d is not known", b[2])
	}
	size := le.Uint32(b[4:])
	if size < btfHeaderMin || uint64(size) > uint64(len(b)) {
		return nil, fmt.Errorf("%w: its header has %d bytes", errBTF, size)
	}
	body := b[size:]
	t := &btfTable{}
	var err error
	if t.types, err = btfPart(body, le.Uint32(b[8:]), le.Uint32(b[12:])); err != nil {
		return nil, err
	}
	if t.strings, err = btfPart(body, le.Uint32(b[16:]), le.Uint32(b[20:])); err != nil {
		return nil, err
	}
	var layout []byte
	if size >= btfLayoutAt+8 {
		if layout, err = btfPart(body, le.Uint32(b[btfLayoutAt:]), le.Uint32(b[btfLayoutAt+4:])); err != nil {
			return nil, err
		}
	}
	return t, t.find(layout)
}

// find notes where each type begins.
func (t *btfTable) find(layout []byte) error {
	for at := 0; at < len(t.types); {
		if len(t.types)-at < btfHead || len(t.at) >= maxBTFTypes {
			return fmt.Errorf("%w: type %d", errBTF, len(t.at)+1)
		}
		info := le.Uint32(t.types[at+4:])
		kind, n := int(info>>24&0x1f), int(info&0xffff)
		tl, ok := btfTails[kind]
		if !ok {
			// struct btf_layout {u8 info_sz, elem_sz; u16 flags} for each kind
			if 4*kind+4 > len(layout) {
				return fmt.Errorf("BTF type %d is of the unknown kind %d", len(t.at)+1, kind)
			}
			tl = tail{int(layout[4*kind]), int(layout[4*kind+1])}
		}
		size := btfHead + tl.fixed + n*tl.each
		if size > len(t.types)-at {
			return fmt.Errorf("%w: type %d exceeds it", errBTF, len(t.at)+1)
		}
		t.at = append(t.at, at)
		at += size
	}
	return nil
}

// btfType is the head of a type and its tail.
type btfType struct {
	name  string
	kind  int
	n     int
	flag  bool
	value uint32 // its size, or the type that it refers to
	tail  []byte
}

// typ returns type id; false for 0, which is void, and for those of another BTF.
func (t *btfTable) typ(id uint32) (btfType, bool) {
	if id == 0 || uint64(id) > uint64(len(t.at)) {
		return btfType{}, false
	}
	at, end := t.at[id-1], len(t.types)
	if int(id) < len(t.at) {
		end = t.at[id]
	}
	b := t.types[at:end]
	info := le.Uint32(b[4:])
	return btfType{
		name: t.name(le.Uint32(b)), kind: int(info >> 24 & 0x1f), n: int(info & 0xffff), flag: info>>31 != 0,
		value: le.Uint32(b[8:]), tail: b[btfHead:],
	}, true
}

func (t *btfTable) name(off uint32) string {
	if uint64(off) >= uint64(len(t.strings)) {
		return ""
	}
	s, _ := cString(t.strings[off:min(uint64(off)+maxBTFName, uint64(len(t.strings)))])
	return s
}

// maxBTFDepth bounds chains of types; those of compilers are short.
const maxBTFDepth = 32

// sizeOf returns the bytes of a type.
func (t *btfTable) sizeOf(id uint32, depth int) (uint64, bool) {
	typ, ok := t.typ(id)
	if !ok || depth > maxBTFDepth {
		return 0, false
	}
	switch typ.kind {
	case btfInt, btfStruct, btfUnion, btfEnum, btfEnum64, btfFloat, btfDatasec:
		return uint64(typ.value), true
	case btfPtr:
		return 8, true
	case btfArray:
		n, ok := t.sizeOf(le.Uint32(typ.tail), depth+1)
		return n * uint64(le.Uint32(typ.tail[8:])), ok
	case btfTypedef, btfVolatile, btfConst, btfRestrict, btfTypeTag, btfVar:
		return t.sizeOf(typ.value, depth+1)
	}
	return 0, false
}

// Struct is the layout of a structure, members of anonymous structures and
// unions inside it included.
type Struct struct {
	Size    uint64
	Members map[string]Member
}

// Member is one member of a structure: offset and size in bytes. Bit fields are
// not members.
type Member struct{ Offset, Size uint64 }

// ABI is what a kernel's type information says about the structures that a
// module for it contains, by name. A structure that the kernel does not have, or
// whose name stands for several, is missing.
type ABI struct {
	Machine elf.Machine
	Structs map[string]Struct
}

// abiStructs are the structures of an ABI.
var abiStructs = []string{
	"module", "klp_patch", "klp_object", "klp_func", "klp_callbacks", "klp_state",
	"bug_entry", "alt_instr", "exception_table_entry", "jump_entry", "static_key", "static_call_site", "static_call_key",
	"static_call_tramp_key", "orc_entry", "paravirt_patch_site", "kernel_symbol", "modversion_info", "tracepoint", "_ddebug",
	"list_head", "kobject", "mutex", "completion", "kernel_param", "kallsym_iter",
}

// Require returns the layout of a structure that must have certain members.
func (a *ABI) Require(name string, members ...string) (Struct, error) {
	s, ok := a.Structs[name]
	if !ok {
		return s, fmt.Errorf("the kernel's type information has no structure %s", name)
	}
	for _, m := range members {
		if _, ok := s.Members[m]; !ok {
			return s, fmt.Errorf("the kernel's type information has no member %s of structure %s", m, name)
		}
	}
	return s, nil
}

// ABIFromBTF reads the layouts that modules need from the contents of .BTF.
func ABIFromBTF(btf []byte, m elf.Machine) (*ABI, error) {
	t, err := parseBTF(btf)
	if err != nil {
		return nil, err
	}
	wanted := map[string]bool{}
	for _, n := range abiStructs {
		wanted[n] = true
	}
	a := &ABI{Machine: m, Structs: map[string]Struct{}}
	left := maxMembers
	twice := map[string]bool{}
	for id := range t.at {
		typ, _ := t.typ(uint32(id + 1))
		if typ.kind != btfStruct || !wanted[typ.name] {
			continue
		}
		s := Struct{Size: uint64(typ.value), Members: map[string]Member{}}
		if err := t.members(&s, typ, 0, &left); err != nil {
			return nil, fmt.Errorf("structure %s: %w", typ.name, err)
		}
		if old, ok := a.Structs[typ.name]; ok && !sameStruct(old, s) {
			twice[typ.name] = true
		}
		a.Structs[typ.name] = s
	}
	for n := range twice {
		delete(a.Structs, n)
	}
	return a, nil
}

func sameStruct(a, b Struct) bool {
	if a.Size != b.Size || len(a.Members) != len(b.Members) {
		return false
	}
	for n, m := range a.Members {
		if b.Members[n] != m {
			return false
		}
	}
	return true
}

// maxMembers bounds the members of all structures of an ABI, those of nested ones
// included; kernels have about 500.
const maxMembers = 1 << 16

// members adds the members of a structure or union that begins at base, and
// takes their number off left.
func (t *btfTable) members(s *Struct, typ btfType, base uint64, left *int) error {
	if *left -= typ.n + 1; *left < 0 {
		return fmt.Errorf("%w: it has too many members, or contains itself", errBTF)
	}
	for i := range typ.n {
		b := typ.tail[12*i:]
		name, id, bits := t.name(le.Uint32(b)), le.Uint32(b[4:]), le.Uint32(b[8:])
		if typ.flag { // bits 31 to 24 are the width of a bit field
			if bits>>24 != 0 {
				continue
			}
			bits &= 0xffffff
		}
		if bits%8 != 0 {
			continue
		}
		off := base + uint64(bits/8)
		if name == "" {
			if in, ok := t.typ(id); ok && (in.kind == btfStruct || in.kind == btfUnion) {
				if err := t.members(s, in, off, left); err != nil {
					return err
				}
			}
			continue
		}
		size, _ := t.sizeOf(id, 0)
		if _, twice := s.Members[name]; twice {
			return fmt.Errorf("%w: two members %s", errBTF, name)
		}
		s.Members[name] = Member{off, size}
	}
	return nil
}
