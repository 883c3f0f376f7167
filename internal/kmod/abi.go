package kmod

import (
	"debug/elf"
	"encoding/binary"
	"slices"
	"strings"

	"livepatch/internal/kimage"
	"livepatch/internal/refusal"
)

// layouts are the structures of a kernel that a module contains.
type layouts struct{ *kimage.ABI }

// The least that KSYM_NAME_LEN ever was, and MODULE_NAME_LEN: 64 less the size
// of a word (include/linux/kallsyms.h 5.10, include/linux/moduleparam.h 6.12).
const (
	minSymbolName = 128
	moduleName    = 64 - 8
)

// symbolName returns the size of the buffers that the kernel reads names of
// symbols into, the closing zero included: KSYM_NAME_LEN is the size of one of
// them, the name in struct kallsym_iter (kernel/kallsyms.c, 5.10 and 6.12).
func (a layouts) symbolName() int {
	if m, ok := a.Structs["kallsym_iter"].Members["name"]; ok && m.Size >= minSymbolName && m.Size <= maxStruct {
		return int(m.Size)
	}
	return minSymbolName
}

// The members that are written, with their sizes. A structure or
// member that a kernel may lack is optional.
type wantedMember struct {
	of       string
	member   string
	size     uint64
	optional bool
}

var wantedModule = []wantedMember{
	{"module", "name", moduleName, false},
	{"module", "init", 8, false},
	{"module", "exit", 8, true}, // only with CONFIG_MODULE_UNLOAD
}

var wantedKLP = append(slices.Clone(wantedModule), []wantedMember{
	{"klp_func", "old_name", 8, false},
	{"klp_func", "new_func", 8, false},
	{"klp_func", "old_sympos", 8, false},
	{"klp_object", "name", 8, false},
	{"klp_object", "funcs", 8, false},
	{"klp_object", "callbacks", 0, true}, // since 4.15
	{"klp_callbacks", "pre_patch", 8, true},
	{"klp_callbacks", "post_patch", 8, true},
	{"klp_callbacks", "pre_unpatch", 8, true},
	{"klp_callbacks", "post_unpatch", 8, true},
	{"klp_patch", "mod", 8, false},
	{"klp_patch", "objs", 8, false},
	{"klp_patch", "states", 8, true},  // since 5.4
	{"klp_patch", "replace", 1, true}, // since 5.1
	{"klp_state", "id", 8, true},
	{"klp_state", "version", 4, true},
}...)

var wantedDirect = append(slices.Clone(wantedModule), []wantedMember{
	{"ftrace_ops", "func", 8, false},
	{"ftrace_ops", "flags", 8, false},
	{"kernel_param", "name", 8, false},
	{"kernel_param", "mod", 8, false},
	{"kernel_param", "ops", 8, false},
	{"kernel_param", "perm", 2, false},
	{"kernel_param", "level", 1, false},
	{"kernel_param", "arg", 8, false},
	{"kernel_param_ops", "set", 8, false},
	{"kernel_param_ops", "get", 8, false},
}...)

// ftraceRegs are the structures in which ftrace hands the registers over, with
// the member where execution goes on: on x86-64 in the registers of a trap
// (arch/x86/include/asm/ftrace.h, arch/arm64/include/asm/ftrace.h; the longer
// name is that of 6.13, which Debian's 6.12 has too).
var ftraceRegs = map[elf.Machine]struct{ names, path []string }{
	elf.EM_X86_64:  {[]string{"ftrace_regs", "__arch_ftrace_regs"}, []string{"regs", "pt_regs.ip"}},
	elf.EM_AARCH64: {[]string{"ftrace_regs", "__arch_ftrace_regs"}, []string{"pc"}},
}

// ops is where the kernel has what the shared dispatch needs; ip is -1 where it
// is not known.
func (a layouts) ops(m elf.Machine) opsLayout {
	s := a.Structs["ftrace_ops"]
	l := opsLayout{fn: int(s.Members["func"].Offset), flags: int(s.Members["flags"].Offset), size: int(s.Size), ip: -1}
	want := ftraceRegs[m]
	for _, name := range want.names {
		m, ok := a.Structs[name].Members[want.path[0]]
		if !ok {
			continue
		}
		at := m.Offset
		for _, path := range want.path[1:] {
			more, has := a.offset(path)
			at, ok = at+more, ok && has
		}
		if ok && at%8 == 0 && at < maxRegs {
			l.ip = int(at)
		}
	}
	return l
}

// maxRegs bounds the registers that ftrace hands over, of 168 bytes on x86-64.
const maxRegs = 1 << 12

// wanted are the members that the module of a Spec has.
func (s *Spec) wanted() []wantedMember {
	if s.Direct != nil || s.base {
		return wantedDirect
	}
	return wantedKLP
}

// maxStruct bounds the structures: the largest, struct module, has 1280 bytes.
const maxStruct = 1 << 16

// check refuses layouts that cannot be those of a kernel.
func (a layouts) check(where string, wanted []wantedMember) refusal.List {
	if a.ABI == nil {
		return refusal.List{refusal.New(refusal.KLPStructures, where, "the layouts of the kernel's structures are not known")}
	}
	if _, ok := a.Structs["klp_patch"]; !ok && &wanted[0] == &wantedKLP[0] {
		return refusal.List{refusal.New(refusal.NoLivepatch, where, "the kernel is built without a livepatch core: its type information has no struct klp_patch")}
	}
	var out refusal.List
	for _, w := range wanted {
		s, ok := a.Structs[w.of]
		m, has := s.Members[w.member]
		switch {
		case !ok && w.optional, ok && !has && w.optional:
		case !ok:
			out = append(out, refusal.New(refusal.KLPStructures, where, "the layout of struct %s is not known", w.of))
		case !has:
			out = append(out, refusal.New(refusal.KLPStructures, where, "struct %s of the kernel has no member %s", w.of, w.member))
		case s.Size > maxStruct || m.Size > s.Size || m.Offset > s.Size-m.Size || w.size != 0 && m.Size != w.size:
			out = append(out, refusal.New(refusal.KLPStructures, where, "struct %s of %d bytes cannot have %s of %d bytes at %d", w.of, s.Size, w.member, m.Size, m.Offset))
		}
	}
	return out
}

// has tells whether the kernel knows a member, given as "klp_patch.replace" or
// through a nested structure as "klp_object.callbacks.pre_patch".
func (a layouts) has(path string) bool {
	_, ok := a.offset(path)
	return ok
}

func (a layouts) offset(path string) (uint64, bool) {
	of, rest, _ := strings.Cut(path, ".")
	first, nested, deep := strings.Cut(rest, ".")
	m, ok := a.Structs[of].Members[first]
	if !ok || !deep {
		return m.Offset, ok
	}
	n, ok := a.offset("klp_" + first + "." + nested)
	return m.Offset + n, ok && n < m.Size
}

// record is one structure on its way into a section. Where it points to is
// noted as relocations.
type record struct {
	abi  layouts
	of   string
	data []byte
	ptrs []pointer
}

// pointer is a place that holds the address of a symbol.
type pointer struct {
	at     uint64
	symbol uint32
	addend int64
}

func (a layouts) record(of string) *record {
	return &record{abi: a, of: of, data: make([]byte, a.Structs[of].Size)}
}

// at panics on a member that the kernel lacks: check and the callers have made
// sure of it.
func (r *record) at(member string) uint64 {
	off, ok := r.abi.offset(r.of + "." + member)
	if !ok {
		panic("BUG: struct " + r.of + " has no member " + member)
	}
	return off
}

func (r *record) bytes(member string, b []byte) { copy(r.data[r.at(member):], b) }
func (r *record) uint32(member string, v uint32) {
	binary.LittleEndian.PutUint32(r.data[r.at(member):], v)
}
func (r *record) uint64(member string, v uint64) {
	binary.LittleEndian.PutUint64(r.data[r.at(member):], v)
}
func (r *record) point(member string, sym uint32, addend int64) {
	r.ptrs = append(r.ptrs, pointer{r.at(member), sym, addend})
}
