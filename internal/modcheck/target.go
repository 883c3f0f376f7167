package modcheck

import (
	"debug/elf"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"

	"livepatch/elfpatch"
	"livepatch/elfpatch/kernel"
	"livepatch/internal/kimage"
	"livepatch/manifest"
)

// target is what the set says of the kernel, in the form that the checks ask
// for. Whatever is not known is zero.
type target struct {
	machine elf.Machine
	set     Set
	abi     *kimage.ABI

	layout       layout            // of the livepatch core's structures
	structModule moduleLayout      // size 0: not known
	entrySize    map[string]uint64 // of tables, from the kernel's structures
	symbolLimit  int               // KSYM_NAME_LEN
	traits       traits

	objects map[string]*image
	missing map[string]bool // objects that were asked for and not given
	exports map[string][]kimage.Export
	noKsym  string // why the exports of a kernel could not be read
}

type moduleLayout struct{ size, name, init, exit uint64 }

// traits are how the kernel is built, as far as modules have to be built alike.
type traits struct {
	known     bool
	pads      bool // landing pads are enforced (x86-64: IBT; arm64: BTI)
	rethunk   bool // returns go through __x86_return_thunk
	retpoline bool // indirect branches go through __x86_indirect_thunk_*
	callDepth bool // direct calls are counted, by way of .call_sites
	orc       bool
	orcHeader []byte // hash of the ORC format; nil before 6.4
	versioned bool   // exports have checksums
}

func (t traits) mitigations() string {
	var list []string
	for _, x := range []struct {
		on   bool
		name string
	}{{t.rethunk, "return thunks"}, {t.retpoline, "retpolines"}, {t.callDepth, "call depth tracking"}} {
		if x.on {
			list = append(list, x.name)
		}
	}
	if len(list) == 0 {
		return "none"
	}
	if n := len(list) - 1; n > 0 {
		return strings.Join(list[:n], ", ") + " and " + list[n]
	}
	return list[0]
}

// image is the kernel or a module: its symbols in the order of kallsyms.
type image struct {
	name    string
	symbols []kimage.Symbol
	named   func(name string) []int // indices of the symbols of a name
	file    *elfpatch.File          // linked; nil if only symbols are known
	kernel  *kimage.Kernel
	module  *kimage.Module
	sites   []uint64        // where ftrace can redirect, ascending; nil: not read
	noSites string          // why they could not be read
	sealed  map[uint64]bool // functions that lose their landing pad; nil: not read
}

func newTarget(set Set, m elf.Machine) *target {
	t := &target{set: set, layout: usual, symbolLimit: symbolLimit(""), entrySize: map[string]uint64{},
		objects: map[string]*image{}, missing: map[string]bool{}, exports: map[string][]kimage.Export{}}
	t.structModule.name = 24
	if k := set.Kernel; k != nil {
		t.machine = k.Machine
		t.symbolLimit = symbolLimit(k.Release)
		t.objects[vmlinux] = &image{name: vmlinux, symbols: k.Symbols, named: k.Named, file: k.File, kernel: k}
		t.readABI(k)
		t.readTraits(t.objects[vmlinux])
	} else if len(set.Modules) > 0 {
		t.machine = set.Modules[0].File.Machine
	}
	if len(set.Symbols) > 0 {
		if o := t.objects[vmlinux]; o == nil || len(o.symbols) == 0 {
			given := imageOf(set.Symbols)
			if o != nil {
				given.file, given.kernel = o.file, o.kernel
			}
			t.objects[vmlinux] = given
		}
	}
	for _, x := range set.Modules {
		t.objects[x.Name] = &image{name: x.Name, symbols: x.Symbols, named: x.Named, file: x.Linked, module: x}
	}
	t.readExports()
	return t
}

// imageOf is a kernel of which only the symbols are known.
func imageOf(symbols []kimage.Symbol) *image {
	named := map[string][]int{}
	for i := range symbols {
		named[symbols[i].Name] = append(named[symbols[i].Name], i)
	}
	return &image{name: vmlinux, symbols: symbols, named: func(name string) []int { return named[name] }}
}

// object returns the kernel or a module by the name that patches use.
func (t *target) object(name string) *image { return t.objects[name] }

// symbolLimit is KSYM_NAME_LEN: 512 since 6.1, 128 before (include/linux/kallsyms.h).
func symbolLimit(release string) int {
	major, rest, _ := strings.Cut(release, ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, err1 := strconv.Atoi(major)
	b, err2 := strconv.Atoi(minor)
	if err1 == nil && err2 == nil && (a < 6 || a == 6 && b < 1) {
		return 128
	}
	return 512
}

// readABI takes the sizes of structures from the kernel's type information.
func (t *target) readABI(k *kimage.Kernel) {
	if k.BTF == nil {
		return
	}
	abi, err := kimage.ABIFromBTF(k.BTF, k.Machine)
	if err != nil {
		return // checkKernel says that there is none
	}
	t.abi = abi
	size := func(name string) int64 {
		if s, ok := abi.Structs[name]; ok && s.Size < 1<<16 {
			return int64(s.Size)
		}
		return 0
	}
	l := layout{size("klp_patch"), size("klp_object"), size("klp_func"), size("klp_state"), true}
	if l.patch >= patchFilled && l.object >= objFilled && l.fn >= fnFilled && l.state >= 16 {
		t.layout = l
	}
	if s, err := abi.Require("module", "name", "init"); err == nil {
		t.structModule = moduleLayout{s.Size, s.Members["name"].Offset, s.Members["init"].Offset, s.Members["exit"].Offset}
	}
	for _, x := range kernel.Tables {
		if s, ok := abi.Structs[x.Struct]; ok && x.Struct != "" {
			t.entrySize[x.Section] = s.Size
		}
	}
}

// readTraits tells from the tables of the image how it is built. A kernel
// whose sections or symbols are not known tells nothing.
func (t *target) readTraits(o *image) {
	if o.file == nil {
		return
	}
	has := func(section, start, stop string) bool {
		if s := o.file.Section(section); s != nil && s.Size > 0 {
			return true
		}
		from, ok1 := o.addr(start)
		to, ok2 := o.addr(stop)
		return ok1 && ok2 && to > from
	}
	t.traits.known = true
	if t.machine == elf.EM_AARCH64 {
		t.traits.pads = o.usesBTI()
		return
	}
	t.traits.pads = has(".ibt_endbr_seal", "__ibt_endbr_seal", "__ibt_endbr_seal_end")
	t.traits.rethunk = has(".return_sites", "__return_sites", "__return_sites_end")
	t.traits.retpoline = has(".retpoline_sites", "__retpoline_sites", "__retpoline_sites_end")
	t.traits.callDepth = has(".call_sites", "__call_sites", "__call_sites_end")
	t.traits.orc = has(".orc_unwind", "__start_orc_unwind", "__stop_orc_unwind")
	if s := o.file.Section(".orc_header"); s != nil && len(s.Data) > 0 && len(s.Data) <= 64 {
		t.traits.orcHeader = s.Data
	}
}

// addr returns the address of a symbol that is there once.
func (o *image) addr(name string) (uint64, bool) {
	if list := o.named(name); len(list) == 1 {
		return o.symbols[list[0]].Addr, true
	}
	return 0, false
}

// usesBTI reports a kernel that is compiled with landing pads: its functions
// begin with bti c (or paciasp, which functions that sign their return address have
// without BTI as well). In others, some assembler code has them all the same
// (arch/arm64/include/asm/linkage.h).
func (o *image) usesBTI() bool {
	pads, n := 0, 0
	for i := range o.symbols {
		s := &o.symbols[i]
		if s.Type != 't' && s.Type != 'T' {
			continue
		}
		if b, ok := o.file.ReadAddr(s.Addr, 4); ok {
			n++
			if le.Uint32(b) == btiC {
				pads++
			}
		}
	}
	return pads*btiShare > n
}

// btiShare: more than one function in so many begins with bti c in a kernel
// with BTI. Debian's 6.12, without, has 134 of 50,915.
const btiShare = 8

// readExports joins the exports of the images with those of Module.symvers,
// which may know modules that were not given.
func (t *target) readExports() {
	add := func(all map[string]kimage.Export) {
		for name, e := range all {
			if !slices.ContainsFunc(t.exports[name], func(x kimage.Export) bool { return x.Module == e.Module }) {
				t.exports[name] = append(t.exports[name], e)
			}
			if e.HasCRC {
				t.traits.versioned = true
			}
		}
	}
	if k := t.set.Kernel; k != nil && k.File != nil {
		all, err := k.Exports()
		if err != nil {
			t.noKsym = err.Error()
		}
		add(all)
	}
	for _, m := range t.set.Modules {
		if all, err := m.Exports(); err == nil {
			add(all)
		}
	}
	add(t.set.Exports)
}

// readSites reads where ftrace can redirect calls of an image.
func (o *image) readSites() {
	if o.sites != nil || o.noSites != "" {
		return
	}
	switch {
	case o.kernel != nil && o.file != nil:
		o.kernelSites()
	case o.module != nil:
		o.moduleSites()
	default:
		o.noSites = "only its symbols are known"
	}
	sort.Slice(o.sites, func(i, j int) bool { return o.sites[i] < o.sites[j] })
}

// hasSite reports an entry of the table of ftrace sites.
func (o *image) hasSite(at uint64) bool {
	_, found := slices.BinarySearch(o.sites, at)
	return found
}

// kernelSites: the linker script puts the table between two symbols; the build
// zeroes entries of functions that were dropped (scripts/sorttable.c).
func (o *image) kernelSites() {
	i := slices.IndexFunc(kernel.Tables, func(t kernel.Table) bool { return t.Section == "__mcount_loc" })
	from, ok1 := o.addr(kernel.Tables[i].Start)
	to, ok2 := o.addr(kernel.Tables[i].Stop)
	if !ok1 || !ok2 || to < from || (to-from)%8 != 0 || to-from > 1<<26 {
		o.noSites = "it has no symbols around the table of ftrace sites"
		return
	}
	o.sites = []uint64{}
	for at := from; at < to; at += 8 {
		v, ok := o.kernel.Pointer(at)
		if !ok {
			o.sites, o.noSites = nil, "the table of ftrace sites is not in the file"
			return
		}
		if v != 0 {
			o.sites = append(o.sites, v)
		}
	}
}

// moduleSites: __mcount_loc, on arm64 __patchable_function_entries, of which a
// module may have several (include/linux/ftrace.h, FTRACE_CALLSITE_SECTION).
func (o *image) moduleSites() {
	o.sites = []uint64{}
	want := "__mcount_loc"
	if o.file.Machine == elf.EM_AARCH64 {
		want = "__patchable_function_entries"
	}
	for _, s := range o.file.Sections {
		if s.Name != want {
			continue
		}
		for off := 0; off+8 <= len(s.Data); off += 8 {
			if v := le.Uint64(s.Data[off:]); v != 0 {
				o.sites = append(o.sites, v)
			}
		}
	}
}

// siteOf says how ftrace finds the site of a function: by its address if one
// is exactly there, else as the only one up to the next symbol
// (kernel/trace/ftrace.c, ftrace_location). Behind a function, others without a
// symbol may have sites: weak ones that another definition took the place of.
// The text is empty if the site is the function's own.
func (o *image) siteOf(s *kimage.Symbol) string {
	from, to := s.Addr, s.Addr+max(s.Size, 1)
	entry := []uint64{s.Addr} // where the table may have the site
	if o.file.Machine == elf.EM_AARCH64 {
		// Of kernels with call ops, the table has the slot before the function
		// (arch/arm64/kernel/ftrace.c, ftrace_call_adjust).
		from, to = from-ftraceSlot, to-min(ftraceSlot, to-s.Addr-1)
		entry = []uint64{from, s.Addr, s.Addr + 4}
	} else if b, ok := o.file.ReadAddr(s.Addr, 4); ok && isPad(o.file.Machine, b) {
		entry = append(entry, s.Addr+4)
	}
	if _, exact := slices.BinarySearch(o.sites, s.Addr); exact && o.file.Machine == elf.EM_X86_64 {
		return ""
	}
	i, _ := slices.BinarySearch(o.sites, from)
	j, _ := slices.BinarySearch(o.sites, to)
	switch {
	case j <= i:
		return "the function has no place where ftrace redirects calls (notrace, assembly or Rust)"
	case j-i > 1:
		return fmt.Sprintf("%d ftrace sites lie in the function, and none exactly at its address; the kernel takes any of them", j-i)
	case !slices.Contains(entry, o.sites[i]):
		return fmt.Sprintf("the only ftrace site up to the next symbol is at +%#x, where the function does not begin", o.sites[i]-s.Addr)
	}
	return ""
}

const ftraceSlot = 8

// inInit says whether the kernel frees a function after boot.
func (o *image) inInit(addr uint64) bool {
	for _, a := range kernel.Areas {
		if a.Kind != kernel.AreaInit {
			continue
		}
		from, ok1 := o.addr(a.Start)
		to, ok2 := o.addr(a.Stop)
		if ok1 && ok2 && addr >= from && addr < to {
			return true
		}
	}
	return false
}

func isVmlinux(name string) bool { return name == manifest.Vmlinux }
