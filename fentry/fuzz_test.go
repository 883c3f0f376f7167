package fentry

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"livepatch/elfpatch"
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

// FuzzFind reads files in which words were changed.
func FuzzFind(f *testing.F) {
	var seeds [][]byte
	for _, name := range fuzzSeeds {
		seeds = append(seeds, readAll(f, filepath.Join("..", "testdata", "binaries", name)))
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
		finder, err := NewFinder(file, Options{Section: int(at >> 56)})
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
