package fentry

// Kernels, modules and objects of kernels.
//
// In a kernel a function is redirected through the function tracer or not at
// all: only the places that its table names count. A linked kernel holds that
// table between two symbols, objects in a section. Other tables name places in
// the same code: what the kernel rewrites there, and where it expects traps.

import (
	"debug/elf"
	"slices"
	"strings"

	"livepatch/elfpatch"
	"livepatch/elfpatch/kernel"
)

// kernelFile is what a file of a kernel says about its code.
type kernelFile struct {
	image, module bool
	final         bool              // linked, so that nobody will make tables any more
	symbols       map[string]uint64 // image: addresses of the symbols around tables and areas
	extra         []kernel.Table    // tables that are named after what they hold
	areas         [][]area          // per text
	relative      map[uint64]uint64 // image: relocated words of tables of absolute addresses
	sites         []sites           // per text
	traced        bool              // the table of ftrace was found, with entries, or will be made from the calls in an object
	rust          bool              // an object made by the Rust compiler
	tables        []tableData
}

// area is a part of a text with rules of its own.
type area struct {
	from, to int
	row      *kernel.Area
}

// kernelFileOf returns nil for files that belong to no kernel.
func kernelFileOf(f *elfpatch.File) *kernelFile {
	k := &kernelFile{}
	if f.Type == elf.ET_REL {
		k.final = f.Section(thisModule) != nil
		k.module = k.final || f.Section(".modinfo") != nil
		if !k.module && !isKernelObject(f) {
			return nil
		}
		k.rust = madeByRust(f)
		k.traced = !k.final && f.Machine == elf.EM_X86_64 && slices.ContainsFunc(f.Symbols, func(s elfpatch.Symbol) bool {
			return s.Name == fentryName && s.Section == elfpatch.Undefined
		})
		return k
	}
	k.final = true
	k.module = f.Section(thisModule) != nil // a module that was laid out
	k.readSymbols(f)
	if k.module {
		return k
	}
	_, text := k.symbols["_stext"]
	_, banner := k.symbols["linux_banner"]
	_, table := k.symbols["__start_mcount_loc"]
	k.image = text && (banner || table || f.Section("__ksymtab") != nil)
	if !k.image {
		return nil
	}
	return k
}

const thisModule = ".gnu.linkonce.this_module"

// isKernelObject recognises an object that kbuild compiled: it has a section
// that only the kernel's own macros make.
func isKernelObject(f *elfpatch.File) bool {
	for _, s := range f.Sections {
		switch s.Name {
		case "__bug_table", "__jump_table", ".static_call_sites", ".altinstructions", ".export_symbol", "___ksymtab", "__ex_table",
			".orc_unwind_ip", ".return_sites", ".retpoline_sites", ".smp_locks", "_kprobe_blacklist", ".noinstr.text", ".sched.text":
			return true
		}
		if strings.HasPrefix(s.Name, ".discard.") || strings.HasPrefix(s.Name, ".initcall") {
			return true
		}
	}
	return false
}

// madeByRust says whether only the Rust compiler signed the file.
func madeByRust(f *elfpatch.File) bool {
	s := f.Section(".comment")
	if s == nil {
		return false
	}
	text := string(s.Data[:min(len(s.Data), 1<<12)])
	return strings.Contains(text, "rustc version") && !strings.Contains(text, "GCC:")
}

// readSymbols notes the addresses of the symbols that say where things are.
func (k *kernelFile) readSymbols(f *elfpatch.File) {
	k.symbols = map[string]uint64{"_stext": 0, "linux_banner": 0}
	wanted := func(names ...string) {
		for _, n := range names {
			if n != "" {
				k.symbols[n] = 0
			}
		}
	}
	for i := range kernel.Tables {
		wanted(kernel.Tables[i].Start, kernel.Tables[i].Stop)
	}
	for i := range kernel.Areas {
		wanted(kernel.Areas[i].Start, kernel.Areas[i].Stop)
	}
	for _, b := range kernel.RelaBounds {
		wanted(b[0], b[1])
	}
	found := make(map[string]uint64, len(k.symbols))
	const start, stop = "__start_" + kernel.RuntimeConstPrefix, "__stop_" + kernel.RuntimeConstPrefix
	for i := range f.Symbols {
		s := &f.Symbols[i]
		if s.Section == elfpatch.Undefined || len(s.Name) < 5 || s.Name[0] != '_' && s.Name != "linux_banner" {
			continue
		}
		if _, ok := k.symbols[s.Name]; ok || strings.HasPrefix(s.Name, start) || strings.HasPrefix(s.Name, stop) {
			found[s.Name] = s.Value
		}
	}
	k.symbols = found
	for name := range found {
		if rest, ok := strings.CutPrefix(name, "__start_"); ok && strings.HasPrefix(rest, kernel.RuntimeConstPrefix) {
			k.extra = append(k.extra, kernel.Table{Section: rest, Start: name, Stop: "__stop_" + rest})
		}
	}
	slices.SortFunc(k.extra, func(a, b kernel.Table) int { return strings.Compare(a.Section, b.Section) })
}

// readAreas finds the areas in the texts.
func (fd *Finder) readAreas() {
	k := fd.kernel
	k.areas = make([][]area, len(fd.texts))
	for i := range kernel.Areas {
		row := &kernel.Areas[i]
		if row.Machine != elf.EM_NONE && row.Machine != fd.machine || k.module && !row.Modules {
			continue
		}
		for n := range fd.texts {
			if !k.image && row.Covers(fd.texts[n].name) {
				k.areas[n] = append(k.areas[n], area{0, len(fd.texts[n].bytes), row})
			}
		}
		start, ok := k.symbols[row.Start]
		stop, ended := k.symbols[row.Stop]
		if !k.image || !ok || !ended {
			continue
		}
		for n := range fd.texts {
			t := &fd.texts[n]
			from, to := max(start, t.addr), min(stop, t.addr+uint64(len(t.bytes)))
			if from < to {
				k.areas[n] = append(k.areas[n], area{int(from - t.addr), int(to - t.addr), row})
			}
		}
	}
}

// areaAt returns the most telling area of one of the kinds that an offset of a
// text lies in, nil without one.
func (k *kernelFile) areaAt(text, off int, kinds ...kernel.AreaKind) *kernel.Area {
	for i := range k.areas[text] {
		if a := &k.areas[text][i]; a.from <= off && off < a.to && slices.Contains(kinds, a.row.Kind) {
			return a.row
		}
	}
	return nil
}

// readKernel reads the tables of a kernel's file.
func (fd *Finder) readKernel() error {
	fd.fentry = map[uint64]bool{}
	if fd.file.Type != elf.ET_REL {
		fd.noteFentry(fd.file.Symbols)
	}
	fd.readAreas()
	if err := fd.readRelative(); err != nil {
		return err
	}
	if err := fd.readTables(); err != nil {
		return err
	}
	return fd.assignSites()
}

// readRelative reads the relocations that a relocatable kernel applies to
// itself, for the tables of absolute addresses. Packed ones (RELR) leave the
// address in its place.
func (fd *Finder) readRelative() error {
	k := fd.kernel
	if !k.image || fd.machine != elf.EM_AARCH64 {
		return nil
	}
	k.relative = map[uint64]uint64{}
	var wanted [][2]uint64
	for _, name := range []string{"mcount_loc", "kprobe_blacklist", "error_injection_whitelist"} {
		if start, ok := k.symbols["__start_"+name]; ok {
			wanted = append(wanted, [2]uint64{start, k.symbols["__stop_"+name]})
		}
	}
	add := func(r elfpatch.Rela) {
		if !isRelative(fd.machine, r.Type) {
			return
		}
		for _, w := range wanted {
			if r.Offset >= w[0] && r.Offset < w[1] {
				k.relative[r.Offset] = uint64(r.Addend)
			}
		}
	}
	list, err := fd.file.DynRelocations()
	if err != nil {
		return err
	}
	for _, r := range list {
		add(r)
	}
	for _, b := range kernel.RelaBounds {
		fd.eachRela(k.symbols[b[0]], k.symbols[b[1]], add)
	}
	return nil
}

// eachRela calls fn with the relocations between two addresses.
func (fd *Finder) eachRela(start, stop uint64, fn func(elfpatch.Rela)) {
	const size = 24
	b, ok := fd.between(start, stop)
	for ok && len(b) >= size {
		fn(elfpatch.Rela{Offset: le64(b), Type: uint32(le64(b[8:])), Addend: int64(le64(b[16:]))})
		b = b[size:]
	}
}

// between returns the contents of a linked file between two addresses.
func (fd *Finder) between(start, stop uint64) ([]byte, bool) {
	const largest = 1 << 30
	if start == 0 || stop <= start || stop-start > largest {
		return nil, false
	}
	return fd.file.ReadAddr(start, int(stop-start))
}
