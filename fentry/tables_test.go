package fentry

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"livepatch/elfpatch"
)

// rel32 appends fields that lead to addresses from where they stand.
func rel32(at uint64, fields ...any) []byte {
	var b []byte
	for _, f := range fields {
		switch f := f.(type) {
		case int: // an address
			b = binary.LittleEndian.AppendUint32(b, uint32(uint64(f)-at-uint64(len(b))))
		case string: // zeros
			b = append(b, make([]byte, len(f))...)
		}
	}
	return b
}

func TestTableStrides(t *testing.T) {
	const at = 0x600000
	repeat := func(n, size int, entry func(at uint64) []byte) []byte {
		var b []byte
		for i := range n {
			e := entry(at + uint64(i*size))
			b = append(append(b, e...), make([]byte, size-len(e))...)
		}
		return b
	}
	alt := func(at uint64) []byte { return rel32(at, base, base+8) }
	tests := []struct {
		name, start, stop string
		data              []byte
		sizes             map[string]uint64
		want              Table
	}{
		{"alternatives of 14", "__alt_instructions", "__alt_instructions_end", repeat(6, 14, alt), nil,
			Table{Section: ".altinstructions", Entries: 6, Stride: 14, By: byPattern}},
		{"alternatives of 12", "__alt_instructions", "__alt_instructions_end", repeat(7, 12, alt), nil,
			Table{Section: ".altinstructions", Entries: 7, Stride: 12, By: byPattern}},
		{"alternatives of 13", "__alt_instructions", "__alt_instructions_end", repeat(12, 13, alt), nil,
			Table{Section: ".altinstructions", Entries: 12, Stride: 13, By: byPattern}},
		{"types agree", "__alt_instructions", "__alt_instructions_end", repeat(6, 14, alt), map[string]uint64{"alt_instr": 14},
			Table{Section: ".altinstructions", Entries: 6, Stride: 14, By: byTypes}},
		{"types disagree", "__alt_instructions", "__alt_instructions_end", repeat(6, 14, alt), map[string]uint64{"alt_instr": 12},
			Table{Section: ".altinstructions", Problem: "84 bytes: entries of 12 bytes, as the types say, do not fit"}},
		{"no form fits", "__alt_instructions", "__alt_instructions_end", make([]byte, 11), nil,
			Table{Section: ".altinstructions", Problem: "11 bytes: no known form of entries fits"}},
		{"entries lead nowhere", "__start___bug_table", "__stop___bug_table", repeat(4, 12, func(at uint64) []byte { return rel32(at, 16) }), nil,
			Table{Section: "__bug_table", Problem: "48 bytes: no known form of entries fits"}},
		{"more than one form fits", "__start___bug_table", "__stop___bug_table", make([]byte, 48), nil,
			Table{Section: "__bug_table", Problem: "48 bytes: entries of 16 and of 12 bytes fit"}},
		{"the last one is short", "__parainstructions", "__parainstructions_end",
			append(words(base, 0, base+1), 0, 0), nil, Table{Section: ".parainstructions", Entries: 2, Stride: 16, By: byFormat}},
		{"zeros are no entries", "__smp_locks", "__smp_locks_end", append(rel32(at, base), make([]byte, 60)...), nil,
			Table{Section: ".smp_locks", Entries: 1, Stride: 4, By: byFormat, Empty: 15}},
		{"a constant", "__start_runtime_ptr_x", "__stop_runtime_ptr_x", rel32(at, base, base+1), nil,
			Table{Section: "runtime_ptr_x", Entries: 2, Stride: 4, By: byFormat}},
		{"nothing", "__start___ex_table", "__stop___ex_table", nil, nil, Table{Section: "__ex_table"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := kernelMaker(t, x86)
			k.fn("f", ret20)
			k.tableAt(at, tt.start, tt.stop, tt.data)
			opt := Options{StructSize: func(name string) (uint64, bool) { n, ok := tt.sizes[name]; return n, ok }}
			fd, err := NewFinder(k.reread(), opt)
			if err != nil {
				t.Fatal(err)
			}
			if got := fd.Tables(); !reflect.DeepEqual(got, []Table{tt.want}) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

// Tables of objects are read by their relocations.
func TestObjectTables(t *testing.T) {
	ref := func(name string, wide bool, at uint64, off int64) elfpatch.Rela {
		typ := elf.R_X86_64_PC32
		if strings.HasPrefix(name, "__jump_table") && (at%16 == 8 || wide) {
			typ = elf.R_X86_64_PC64
		}
		return elfpatch.Rela{Offset: at, Type: uint32(typ), Symbol: 1, Addend: off}
	}
	tests := []struct {
		name string
		size int
		at   []uint64 // offsets with a relocation
		want Table
	}{
		{"__bug_table", 24, []uint64{0, 4, 12, 16}, Table{Section: "__bug_table", Entries: 2, Stride: 12, By: byPattern}},
		{"__bug_table", 48, []uint64{0, 4, 8, 16, 20, 24, 32, 36, 40}, Table{Section: "__bug_table", Entries: 3, Stride: 16, By: byPattern}},
		{"__bug_table", 48, []uint64{0, 4, 12, 16, 24, 28, 36, 40}, Table{Section: "__bug_table", Entries: 4, Stride: 12, By: byPattern}},
		{"__bug_table", 24, []uint64{4, 12}, Table{Section: "__bug_table", Problem: "24 bytes: no known form of entries fits"}},
		{".altinstructions", 28, []uint64{0, 4, 14, 18}, Table{Section: ".altinstructions", Entries: 2, Stride: 14, By: byPattern}},
		{".altinstructions", 84, []uint64{0, 4}, Table{Section: ".altinstructions", Problem: "84 bytes: entries of 14 and of 12 bytes fit"}},
		{"__ex_table", 24, []uint64{0, 4, 8, 12, 16, 20}, Table{Section: "__ex_table", Entries: 2, Stride: 12, By: byFormat}}, // with handlers
		{"__jump_table", 48, []uint64{0, 8, 16, 24, 32, 40}, Table{Section: "__jump_table", Entries: 2, Stride: 24, By: byPattern}},
		{"__jump_table", 32, []uint64{0, 4, 8, 16, 20, 24}, Table{Section: "__jump_table", Entries: 2, Stride: 16, By: byPattern}},
		{".smp_locks", 12, []uint64{0, 8}, Table{Section: ".smp_locks", Entries: 2, Stride: 4, By: byFormat, Empty: 1}},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%s %d", tt.name, tt.size), func(t *testing.T) {
			k := newMaker(t, x86, elf.ET_REL)
			k.fn("f", ret20)
			s := k.section(tt.name, elf.SHF_ALLOC, make([]byte, tt.size))
			k.section(".discard.x", 0, nil)
			var list []elfpatch.Rela
			for _, at := range tt.at {
				list = append(list, ref(tt.name, tt.want.Stride == 24, at, 2))
			}
			k.relocate(s, list...)
			fd, err := NewFinder(k.file, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if got := fd.Tables(); !reflect.DeepEqual(got, []Table{tt.want}) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}
