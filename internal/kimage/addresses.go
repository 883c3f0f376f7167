package kimage

import (
	"errors"
	"fmt"
	"slices"
)

// anchors is what is known about the image beside its symbol table, to tell
// the one right reading of the table from others.
type anchors struct {
	base func(at int) (uint64, bool) // the relative base that is stored at an offset of the region
	code func(addr uint64) bool      // is there code
	fits func([]Symbol) bool         // anything else; nil for nothing
}

// A reading is one way in which kernels have written the addresses.
type reading struct {
	name string
	at   func(t *rawTable) (arr, base int) // offsets in the region; base -1 without
	size int                               // of an entry
	addr func(place uint64, v uint32, base uint64) uint64
}

// relative: up to 7.x without KALLSYMS_ABSOLUTE_PERCPU. percpu: with it (x86-64
// to 6.14), where values from 0 are absolute and others count down from the base:
// kallsyms_sym_address in kernel/kallsyms.c (6.12). pcRelative: 7.x. plain:
// without KALLSYMS_BASE_RELATIVE.
var readings = []reading{
	{"offsets before the names", beforeNames, 4, relative},
	{"offsets before the names, per-CPU symbols absolute", beforeNames, 4, percpu},
	{"offsets behind the tokens", behindTokens, 4, relative},
	{"offsets behind the tokens, per-CPU symbols absolute", behindTokens, 4, percpu},
	{"offsets behind the tokens, from their own place", placeRelative, 4, pcRelative},
	{"addresses before the names", func(t *rawTable) (int, int) { return t.num - 8*len(t.names), -1 }, 8, nil},
	{"addresses behind the tokens", placeRelative, 8, nil},
}

func beforeNames(t *rawTable) (int, int) {
	base := t.num - 8
	return base - alignUp(4*len(t.names), longAlign), base
}

func behindTokens(t *rawTable) (int, int) {
	return t.behind, t.behind + alignUp(4*len(t.names), longAlign)
}

func placeRelative(t *rawTable) (int, int) { return t.behind, -1 }

func relative(_ uint64, v uint32, base uint64) uint64 { return base + uint64(v) }

func percpu(_ uint64, v uint32, base uint64) uint64 {
	if int32(v) >= 0 {
		return uint64(v)
	}
	return base - 1 - uint64(int64(int32(v)))
}

func pcRelative(place uint64, v uint32, _ uint64) uint64 { return place + uint64(int64(int32(v))) }

// symbols returns the symbols with their addresses, by the only reading that
// agrees with the image: addresses never fall, and nearly all functions are in
// code.
func (t *rawTable) symbols(known anchors) ([]Symbol, error) {
	var best []Symbol
	var name string
	for _, r := range readings {
		s := t.read(r, known)
		if s == nil {
			continue
		}
		if best != nil && !slices.Equal(best, s) {
			return nil, fmt.Errorf("the symbol table (kallsyms) can be read in two ways: %s, %s", name, r.name)
		}
		best, name = s, r.name
	}
	if best == nil {
		return nil, errors.New("the addresses of the symbol table (kallsyms) are in an unknown form, or damaged")
	}
	setSizes(best)
	return best, nil
}

// read returns the symbols in one reading, nil if it cannot be right.
func (t *rawTable) read(r reading, known anchors) []Symbol {
	n := len(t.names)
	arr, at := r.at(t)
	if arr < 0 || arr > len(t.in.data) || r.size*n > len(t.in.data)-arr {
		return nil
	}
	var base uint64
	if at >= 0 {
		if at > len(t.in.data)-8 {
			return nil
		}
		var ok bool
		if base, ok = known.base(at); !ok {
			return nil
		}
	}
	addrs := make([]uint64, n)
	last, rises := uint64(0), 0
	for i := range addrs {
		p := arr + r.size*i
		if r.size == 8 {
			addrs[i] = le.Uint64(t.in.data[p:])
		} else {
			addrs[i] = r.addr(t.in.addr+uint64(p), le.Uint32(t.in.data[p:]), base)
		}
		if addrs[i] < last {
			return nil
		}
		if addrs[i] > last {
			rises++
		}
		last = addrs[i]
	}
	// Few symbols share an address with others; a stretch of zeros would pass for
	// addresses otherwise.
	if rises < n/4 {
		return nil
	}
	out := slices.Clone(t.names) // most readings do not come so far
	for i := range out {
		out[i].Addr = addrs[i]
	}
	if !agrees(out, known) || known.fits != nil && !known.fits(out) {
		return nil
	}
	return out
}

// agrees reports whether the functions of a reading are where the image has
// code. Constants that the linker script defines may have the letter of a
// function; those are few.
func agrees(syms []Symbol, known anchors) bool {
	funcs, inCode := 0, 0
	for _, s := range syms {
		if s.Type == 'T' || s.Type == 't' {
			funcs++
			if known.code(s.Addr) {
				inCode++
			}
		}
	}
	const percent = 98
	return funcs > 0 && inCode*100 >= funcs*percent
}

// setSizes gives each symbol the distance to the next higher address.
func setSizes(syms []Symbol) {
	for i := len(syms) - 2; i >= 0; i-- {
		if next := syms[i+1]; next.Addr != syms[i].Addr {
			syms[i].Size = next.Addr - syms[i].Addr
		} else {
			syms[i].Size = next.Size
		}
	}
}
