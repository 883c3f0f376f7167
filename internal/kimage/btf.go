package kimage

import (
	"debug/elf"
	"fmt"

	"livepatch/elfpatch/btf"
)

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
	"list_head", "kobject", "mutex", "completion", "kernel_param", "kernel_param_ops", "ftrace_ops", "ftrace_regs", "__arch_ftrace_regs", "pt_regs", "kallsym_iter",
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
func ABIFromBTF(b []byte, m elf.Machine) (*ABI, error) {
	t, err := btf.Parse(b)
	if err != nil {
		return nil, err
	}
	wanted := map[string]bool{}
	for _, n := range abiStructs {
		wanted[n] = true
	}
	a := &ABI{Machine: m, Structs: map[string]Struct{}}
	r := abiReader{t, maxMembers}
	twice := map[string]bool{}
	for id := range t.Len() {
		typ, _ := t.Type(uint32(id + 1))
		if typ.Kind != btf.Struct || !wanted[typ.Name] {
			continue
		}
		s := Struct{Size: uint64(typ.Value), Members: map[string]Member{}}
		if err := r.members(&s, typ, 0); err != nil {
			return nil, fmt.Errorf("structure %s: %w", typ.Name, err)
		}
		if old, ok := a.Structs[typ.Name]; ok && !sameStruct(old, s) {
			twice[typ.Name] = true
		}
		a.Structs[typ.Name] = s
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

// abiReader reads structures.
type abiReader struct {
	t    *btf.Table
	left int // members that may still be read
}

// members adds the members of a structure or union that begins at base.
func (r *abiReader) members(s *Struct, typ btf.Type, base uint64) error {
	t := r.t
	if r.left -= typ.N + 1; r.left < 0 {
		return fmt.Errorf("%w: it has too many members, or contains itself", btf.ErrDamaged)
	}
	for i := range typ.N {
		b := typ.Tail[12*i:]
		name, id, bits := t.Name(le.Uint32(b)), le.Uint32(b[4:]), le.Uint32(b[8:])
		if typ.Flag { // bits 31 to 24 are the width of a bit field
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
			if in, ok := t.Type(id); ok && (in.Kind == btf.Struct || in.Kind == btf.Union) {
				if err := r.members(s, in, off); err != nil {
					return err
				}
			}
			continue
		}
		size, _ := t.SizeOf(id)
		if _, twice := s.Members[name]; twice {
			return fmt.Errorf("%w: two members %s", btf.ErrDamaged, name)
		}
		s.Members[name] = Member{off, size}
	}
	return nil
}
