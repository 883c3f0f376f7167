package kimage

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"livepatch/elfpatch"
)

// Export is one exported symbol.
type Export struct {
	Name      string
	Addr      uint64 // of the symbol; 0 from Module.symvers, which has none
	CRC       uint32
	HasCRC    bool
	GPL       bool // only for modules with a GPL-compatible license
	Namespace string
	Module    string // "vmlinux", or the name of the module that exports it
}

// Table of exports: struct kernel_symbol with relative references,
// include/linux/export-internal.h and kernel/module/internal.h (6.12); the single
// table with flags: include/linux/module_symbol.h (7.2).
const (
	ksymSize    = 12
	ksymFlagGPL = 1
)

// exportTable names one table: the section, which modules and x86-64 kernels have, and
// otherwise the bounds __start_* and __stop_*.
type exportTable struct {
	syms, crcs, flags string
	gpl               bool
}

var exportTables = []exportTable{
	{syms: "__ksymtab", crcs: "__kcrctab", flags: "__kflagstab"},
	{syms: "__ksymtab_gpl", crcs: "__kcrctab_gpl", gpl: true},
}

// Exports returns what the kernel exports.
func (k *Kernel) Exports() (map[string]Export, error) {
	return exportsOf(k.File, "vmlinux", func(name string) (uint64, bool) {
		if at := k.Named(name); len(at) == 1 {
			return k.Symbols[at[0]].Addr, true
		}
		return 0, false
	})
}

// Exports returns what the module exports. Addresses are those in Linked.
func (m *Module) Exports() (map[string]Export, error) {
	return exportsOf(m.Linked, m.Name, func(string) (uint64, bool) { return 0, false })
}

func exportsOf(f *elfpatch.File, module string, addrOf func(string) (uint64, bool)) (map[string]Export, error) {
	out := map[string]Export{}
	for _, t := range exportTables {
		addr, tab, err := tableBytes(f, t.syms, addrOf)
		if err != nil {
			return nil, err
		}
		if len(tab)%ksymSize != 0 {
			return nil, fmt.Errorf("exports: %s has %#x bytes, no multiple of %d", t.syms, len(tab), ksymSize)
		}
		n := len(tab) / ksymSize
		crcs, err := readCRCs(f, t, n, addrOf)
		if err != nil {
			return nil, err
		}
		_, flags, err := tableBytes(f, t.flags, addrOf)
		if err != nil {
			return nil, err
		}
		if len(flags) != 0 && len(flags) != n {
			return nil, fmt.Errorf("exports: %s has %d entries, %s %d", t.flags, len(flags), t.syms, n)
		}
		for i := range n {
			e, err := readExport(f, tab[ksymSize*i:], addr+uint64(ksymSize*i))
			if err != nil {
				return nil, fmt.Errorf("exports: %s: entry %d: %w", t.syms, i, err)
			}
			e.Module, e.GPL = module, t.gpl || len(flags) > 0 && flags[i]&ksymFlagGPL != 0
			if crcs != nil {
				e.CRC, e.HasCRC = crcs[i], true
			}
			if _, twice := out[e.Name]; twice {
				return nil, fmt.Errorf("exports: %s is exported twice", e.Name)
			}
			out[e.Name] = e
		}
	}
	return out, nil
}

// tableBytes returns a table and its address: a section, or what lies between
// the symbols __start_NAME and __stop_NAME. An absent table has no bytes.
func tableBytes(f *elfpatch.File, name string, addrOf func(string) (uint64, bool)) (uint64, []byte, error) {
	if name == "" {
		return 0, nil, nil
	}
	if s := f.Section(name); s != nil {
		return s.Addr, s.Data, nil
	}
	start, ok := addrOf("__start_" + strings.TrimPrefix(name, "."))
	stop, ok2 := addrOf("__stop_" + strings.TrimPrefix(name, "."))
	if !ok || !ok2 || start == stop {
		return 0, nil, nil
	}
	if stop < start || stop-start > maxUnpacked {
		return 0, nil, fmt.Errorf("exports: %s ends at %#x, before its start %#x", name, stop, start)
	}
	b, ok := f.ReadAddr(start, int(stop-start))
	if !ok {
		return 0, nil, fmt.Errorf("exports: %s at %#x is not in the image", name, start)
	}
	return start, b, nil
}

func readExport(f *elfpatch.File, b []byte, at uint64) (Export, error) {
	field := func(i int) uint64 { return at + uint64(4*i) + uint64(int64(int32(le.Uint32(b[4*i:])))) }
	var e Export
	var ok bool
	e.Addr = field(0)
	if e.Name, ok = stringAt(f, field(1)); !ok || e.Name == "" {
		return e, fmt.Errorf("no name at %#x", field(1))
	}
	if le.Uint32(b[8:]) != 0 {
		if e.Namespace, ok = stringAt(f, field(2)); !ok {
			return e, fmt.Errorf("no namespace at %#x", field(2))
		}
	}
	return e, nil
}

// readCRCs returns the checksums of a table; nil without CONFIG_MODVERSIONS.
// Kernels to 5.18 with CONFIG_MODULE_REL_CRCS hold distances to the checksums
// instead (include/linux/export.h, 5.10). Checksums are as good as random, so when
// all entries are distances that stay inside the image, they are that.
func readCRCs(f *elfpatch.File, t exportTable, n int, addrOf func(string) (uint64, bool)) ([]uint32, error) {
	addr, b, err := tableBytes(f, t.crcs, addrOf)
	if err != nil || len(b) == 0 {
		return nil, err
	}
	if len(b) != 4*n {
		return nil, fmt.Errorf("exports: %s has %#x bytes for %d symbols", t.crcs, len(b), n)
	}
	plain, there := make([]uint32, n), make([]uint32, 0, n)
	for i := range plain {
		plain[i] = le.Uint32(b[4*i:])
		at := addr + uint64(4*i) + uint64(int64(int32(plain[i])))
		if v, ok := f.ReadAddr(at, 4); ok && plain[i] != 0 {
			there = append(there, le.Uint32(v))
		}
	}
	const enough = 16
	if n >= enough && len(there) == n {
		return there, nil
	}
	return plain, nil
}

// ParseSymvers reads Module.symvers: checksum, symbol, module, kind of export and, since
// 5.4, namespace in columns. A checksum of 0 means that there is none.
func ParseSymvers(b []byte) (map[string]Export, error) {
	out := map[string]Export{}
	for n, line := range bytes.Split(b, []byte("\n")) {
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		cols := strings.Split(strings.TrimSuffix(string(line), "\r"), "\t")
		if len(cols) < 4 || len(cols) > 5 || cols[1] == "" || cols[2] == "" {
			return nil, fmt.Errorf("symvers: line %d: %d columns, not 4 or 5", n+1, len(cols))
		}
		crc, err := strconv.ParseUint(strings.TrimPrefix(cols[0], "0x"), 16, 32)
		if err != nil {
			return nil, fmt.Errorf("symvers: line %d: the checksum is %q", n+1, cols[0])
		}
		e := Export{Name: cols[1], CRC: uint32(crc), HasCRC: crc != 0, Module: moduleName(cols[2])}
		switch cols[3] {
		case "EXPORT_SYMBOL":
		case "EXPORT_SYMBOL_GPL":
			e.GPL = true
		default:
			return nil, fmt.Errorf("symvers: line %d: the export is %q", n+1, cols[3])
		}
		if len(cols) == 5 {
			e.Namespace = cols[4]
		}
		if old, twice := out[e.Name]; twice && old != e {
			return nil, fmt.Errorf("symvers: line %d: %s is exported twice", n+1, e.Name)
		}
		out[e.Name] = e
	}
	return out, nil
}

// moduleName is the name of the module that a path of kbuild stands for.
func moduleName(path string) string {
	return strings.ReplaceAll(path[strings.LastIndexByte(path, '/')+1:], "-", "_")
}
