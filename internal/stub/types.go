package stub

import (
	"encoding/binary"
	"fmt"
	"strings"

	"livepatch/elfpatch/btf"
)

// maxErrno is the largest error number that a pointer can stand for
// (MAX_ERRNO of include/linux/err.h, 6.12).
const maxErrno = 4095

// unfit says why callers would not take a value for what it is meant to be, as far
// as the type that the function returns says it; empty if nothing speaks against it.
func (m *Maker) unfit(name string, v Value) string {
	if v.Given && isSyscall(name) {
		return "" // a long, which the type information leaves out
	}
	if m.types == nil {
		return "the kernel has no type information, so nobody knows what the function returns"
	}
	found, text := false, ""
	for id := m.types.Base() + 1; id <= m.types.Len(); id++ { // a module's own: the kernel may have a namesake
		t, ok := m.types.Type(uint32(id))
		if !ok || t.Kind != btf.Func || t.Name != stem(name) {
			continue
		}
		found = true
		proto, _ := m.types.Type(t.Value)
		if proto.Kind != btf.FuncProto {
			return "the type information does not go with that of the kernel, so nobody knows what the function returns"
		}
		if x := m.unfitFor(proto.Value, v); x != "" {
			text = x
		}
	}
	if !found {
		return "the kernel's type information does not describe it, so nobody knows what it returns"
	}
	return text
}

// isSyscall reports an entry of a system call: __SYSCALL_DEFINEx of
// arch/x86/include/asm/syscall_wrapper.h and arch/arm64/include/asm/syscall_wrapper.h, 6.12.
func isSyscall(name string) bool {
	for _, prefix := range []string{"__x64_sys_", "__ia32_sys_", "__arm64_sys_"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// unfitFor is unfit for a type.
func (m *Maker) unfitFor(id uint32, v Value) string {
	t, ok := m.resolved(id)
	switch {
	case !ok && v.Given:
		return "it returns nothing, so no caller would see the value"
	case !ok:
		return ""
	case !v.Given:
		return "it returns " + describe(t) + ", and callers would take what happens to be in the register"
	}
	switch t.Kind {
	case btf.Int:
		return unfitInt(t, v.Int)
	case btf.Enum:
		if !hasMember(t, v.Int) {
			return fmt.Sprintf("it returns %s, which has no member of value %d", describe(t), v.Int)
		}
		return ""
	case btf.Ptr:
		if v.Int == 0 || v.Int < 0 && v.Int >= -maxErrno {
			return "it returns a pointer: callers that do not look for NULL or an error go on with it"
		}
		return fmt.Sprintf("it returns a pointer, and %d is neither NULL nor an error", v.Int)
	}
	return "it returns " + describe(t) + ", which is not one number"
}

// resolved is the type behind names and qualifiers; false for void.
func (m *Maker) resolved(id uint32) (btf.Type, bool) {
	for range 64 {
		t, ok := m.types.Type(id)
		if !ok {
			return t, false
		}
		switch t.Kind {
		case btf.Typedef, btf.Volatile, btf.Const, btf.Restrict, btf.TypeTag:
			id = t.Value
		default:
			return t, true
		}
	}
	return btf.Type{Kind: btf.Struct}, true // a circle, which only damage makes
}

func describe(t btf.Type) string {
	switch {
	case t.Kind == btf.Ptr:
		return "a pointer"
	case t.Kind == btf.Enum && t.Name != "":
		return "enum " + t.Name
	case t.Kind == btf.Enum:
		return "an enumeration"
	case t.Kind == btf.Int && t.Name != "":
		return t.Name
	case t.Kind == btf.Struct || t.Kind == btf.Union:
		return "a structure"
	}
	return "a value of another kind"
}

// Encodings of integers: Documentation/bpf/btf.rst, BTF_KIND_INT (6.12).
const (
	intSigned = 1
	intBool   = 4
)

func unfitInt(t btf.Type, v int64) string {
	if len(t.Tail) < 4 || t.Value == 0 || t.Value > 8 {
		return "its type is damaged, or of more than 8 bytes"
	}
	encoding := binary.LittleEndian.Uint32(t.Tail) >> 24 & 0xf
	bits := 8 * t.Value
	low, high := int64(0), int64(1)
	switch {
	case encoding&intBool != 0:
	case encoding&intSigned != 0:
		low, high = -1<<(bits-1), 1<<(bits-1)-1
	case bits == 64:
		high = 1<<63 - 1
	default:
		high = 1<<bits - 1
	}
	if v < low || v > high {
		return fmt.Sprintf("it returns %s, which cannot be %d: no caller takes it for an error", t.Name, v)
	}
	return ""
}

func hasMember(t btf.Type, v int64) bool {
	for i := range t.N {
		if 8*i+8 > len(t.Tail) {
			break
		}
		member := binary.LittleEndian.Uint32(t.Tail[8*i+4:])
		if v == int64(int32(member)) && t.Flag || v == int64(member) && !t.Flag || v >= 0 && v == int64(member) {
			return true
		}
	}
	return false
}
