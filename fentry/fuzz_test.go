package fentry

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"livepatch/elfpatch"
	"livepatch/elfpatch/kernel"
)

func readAll(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// fuzzSeeds are small files of each kind. The fuzzer writes values into them:
// whole files as seeds would mostly teach it to break magic numbers.
var fuzzSeeds = []string{
	"x86_64-gcc/counter.cetpfe2.before.o", "x86_64-gcc/counter.fentry.before.o", "x86_64-gcc/tiny.static-pie",
	"aarch64-gcc/counter.btipfe4.before.o", "aarch64-clang/calls.standard.before.o", "aarch64-gcc/libcounter.so",
	"x86_64-clang/libcounter.so", "x86_64-gcc/except.O2.before.o",
}

// kernelSeed is a linked kernel with a table of each kind.
func kernelSeed(f *testing.F, m elf.Machine) []byte {
	k := kernelMaker(f, m)
	if m == x86 {
		k.fn("__cfi_f", "b8 78563412").fn("f", "f30f1efa 0f1f440000 31c0 c3").fn("g.cold", "31c0 c3")
	} else {
		k.fn("", "1f2003d5 1f2003d5").fn("f", "5f2403d5 1f2003d5 1f2003d5 c0035fd6").fn("g", "c0035fd6")
	}
	at := uint64(0x600000)
	for _, row := range kernel.Tables {
		if row.Start == "" {
			continue
		}
		l := row.Layouts(m)
		if len(l) == 0 {
			continue
		}
		data := make([]byte, 3*l[0].Size)
		if l[0].Fields[0].Size == 8 {
			binary.LittleEndian.PutUint64(data, base+uint64(len(k.text.Data))/2)
		} else {
			binary.LittleEndian.PutUint32(data, uint32(base-at))
		}
		k.tableAt(at, row.Start, row.Stop, data)
		at += 0x1000
	}
	b, err := k.file.Bytes()
	if err != nil {
		f.Fatal(err)
	}
	return b
}

// FuzzFind reads files in which words were changed.
func FuzzFind(f *testing.F) {
	var seeds [][]byte
	for _, name := range fuzzSeeds {
		seeds = append(seeds, readAll(f, filepath.Join("..", "testdata", "binaries", name)))
	}
	for _, name := range []string{"kcfi.x86-64.o", "kcfi.arm64.o"} {
		seeds = append(seeds, readAll(f, filepath.Join("testdata", "kernel", name)))
	}
	for _, m := range []elf.Machine{x86, arm64} {
		seeds = append(seeds, kernelSeed(f, m))
	}
	for i := range seeds {
		f.Add(uint8(i), []byte{}, uint64(0x18))
	}
	f.Add(uint8(2), []byte{0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, uint64(0))
	f.Fuzz(func(t *testing.T, which uint8, changes []byte, at uint64) {
		b := bytes.Clone(seeds[int(which)%len(seeds)])
		// A change is an offset, a size and a value.
		for ; len(changes) >= 12; changes = changes[12:] {
			off := int(binary.LittleEndian.Uint32(changes)&0xffffff) % len(b)
			n := 1 << (changes[3] & 3)
			copy(b[off:], changes[4:4+min(n, 8)])
		}
		file, err := elfpatch.Parse(b)
		if err != nil {
			return
		}
		finder, err := NewFinder(file, Options{Section: int(at >> 56), Tables: true})
		if err != nil {
			if _, ok := err.(*elfpatch.FormatError); !ok {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		all := finder.All()
		for i := range all {
			checkFunc(t, file, &all[i])
		}
		if fn, err := finder.At(at&^(0xff<<56), 0); err == nil {
			checkFunc(t, file, &fn)
		}
	})
}
