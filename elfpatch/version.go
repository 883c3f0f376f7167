package elfpatch

import (
	"debug/elf"
	"fmt"
)

// versionName is one version that a file needs or defines.
type versionName struct{ name, library string }

// addVersions fills in the versions of dynamic symbols, by the GNU tables
// (Linux Standard Base, "Symbol Versioning").
func (f *File) addVersions(d *Dynamic, syms []DynSymbol) error {
	addr, ok := d.Value(elf.DT_VERSYM)
	if !ok || len(syms) == 0 {
		return nil
	}
	numbers, err := f.region(elf.DT_VERSYM, addr, 2*uint64(len(syms)))
	if err != nil {
		return err
	}
	names := map[uint16]versionName{}
	if err := f.neededVersions(d, names); err != nil {
		return err
	}
	if err := f.definedVersions(d, names); err != nil {
		return err
	}
	const hidden, firstNamed = 0x8000, 2
	for i := range syms {
		n := le.Uint16(numbers[2*i:])
		s := &syms[i]
		s.Hidden = n&hidden != 0
		if n &^= hidden; n < firstNamed {
			continue
		}
		v, ok := names[n]
		if !ok {
			return malformed(fmt.Sprintf("section .dynsym: symbol %d", i), "version %d is neither needed nor defined", n)
		}
		s.Version = v.name
		if s.Section == Undefined {
			s.Library = v.library
		}
	}
	return nil
}

// versionTable walks linked lists of entries in a version table. Entries of
// linkers do not overlap, so budget, one for each place that the table has
// room for, bounds the work that a table can cause.
type versionTable struct {
	where  string
	budget int
}

// walk visits count entries of size bytes, the first at off; next is the place
// in an entry of the distance to the one behind it.
func (t *versionTable) walk(b []byte, off, count uint64, size, next int, visit func(entry []byte) error) error {
	for ; count > 0; count-- {
		if off > uint64(len(b)) || uint64(len(b))-off < uint64(size) {
			return malformed(t.where, "an entry at %#x exceeds the table", off)
		}
		if t.budget--; t.budget < 0 {
			return malformed(t.where, "entries overlap")
		}
		entry := b[off:]
		if err := visit(entry); err != nil {
			return err
		}
		step := le.Uint32(entry[next:])
		if step == 0 {
			return nil
		}
		off += uint64(step)
	}
	return nil
}

func (f *File) versionTable(d *Dynamic, at, count elf.DynTag) (b []byte, n uint64, t *versionTable, err error) {
	addr, ok := d.Value(at)
	n, counted := d.Value(count)
	if !ok || !counted || n == 0 {
		return nil, 0, nil, nil
	}
	if b = f.fromAddr(addr); b == nil {
		return nil, 0, nil, malformed("dynamic section", "%v: nothing in the file at %#x", at, addr)
	}
	return b, n, &versionTable{where: at.String(), budget: len(b)/8 + 1}, nil
}

// neededVersions reads DT_VERNEED: for each library, its versions.
func (f *File) neededVersions(d *Dynamic, names map[uint16]versionName) error {
	b, n, t, err := f.versionTable(d, elf.DT_VERNEED, elf.DT_VERNEEDNUM)
	if b == nil {
		return err
	}
	return t.walk(b, 0, n, 16, 12, func(need []byte) error {
		library, err := d.text(uint64(le.Uint32(need[4:])))
		if err != nil {
			return malformed(t.where, "library: %v", err)
		}
		aux, count := uint64(le.Uint32(need[8:])), uint64(le.Uint16(need[2:]))
		return t.walk(need, aux, count, 16, 12, func(a []byte) error {
			name, err := d.text(uint64(le.Uint32(a[8:])))
			if err != nil {
				return malformed(t.where, "version: %v", err)
			}
			names[le.Uint16(a[6:])&0x7fff] = versionName{name, library}
			return nil
		})
	})
}

// definedVersions reads DT_VERDEF. The first name of an entry is its own, the
// others are its parents'; the base entry names the library, not a version.
func (f *File) definedVersions(d *Dynamic, names map[uint16]versionName) error {
	b, n, t, err := f.versionTable(d, elf.DT_VERDEF, elf.DT_VERDEFNUM)
	if b == nil {
		return err
	}
	return t.walk(b, 0, n, 20, 16, func(def []byte) error {
		return t.walk(def, uint64(le.Uint32(def[12:])), 1, 8, 4, func(a []byte) error {
			name, err := d.text(uint64(le.Uint32(a)))
			if err != nil {
				return malformed(t.where, "version: %v", err)
			}
			names[le.Uint16(def[4:])&0x7fff] = versionName{name: name}
			return nil
		})
	})
}
