package diff

import (
	"errors"
	"path/filepath"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/refusal"
)

// fuzzSeeds are the pairs that FuzzCompare damages.
var fuzzSeeds = []string{
	"x86_64-gcc/calls.O2", "x86_64-gcc/switch.O2", "x86_64-clang/switch.O2", "x86_64-gcc/tls.pic", "x86_64-gcc/except.O2",
	"x86_64-gcc/ifunc.O2", "aarch64-gcc/counter.O2", "aarch64-gcc/switch.nopie", "aarch64-clang/calls.O2", "aarch64-gcc/except.O2",
}

// FuzzCompare compares damaged objects: edits is a list of offsets (three
// bytes) and values (one byte), the highest bit of an offset choosing the
// object.
func FuzzCompare(f *testing.F) {
	root := filepath.Join("..", "..", "testdata", "binaries")
	var pairs [][2][]byte
	for i, name := range fuzzSeeds {
		base := filepath.Join(root, name)
		pairs = append(pairs, [2][]byte{must(readObject(f, base+".before.o").Bytes()), must(readObject(f, base+".after.o").Bytes())})
		f.Add(uint8(i), []byte{})
		f.Add(uint8(i), []byte{0, 0, 0x60, 1, 0x80, 1, 0x10, 0xff})
	}
	f.Fuzz(func(t *testing.T, pair uint8, edits []byte) {
		p := pairs[int(pair)%len(pairs)]
		var files [2]*elfpatch.File
		for i := range files {
			b := append([]byte{}, p[i]...)
			for e := edits; len(e) >= 4; e = e[4:] {
				if off := int(e[0]&0x7f)<<16 | int(e[1])<<8 | int(e[2]); int(e[0]>>7) == i {
					b[off%len(b)] ^= e[3]
				}
			}
			var err error
			if files[i], err = elfpatch.Parse(b); err != nil {
				return
			}
		}
		checkPair(t, files[0], files[1])
		checkPair(t, files[1], files[0])
		for _, file := range files {
			if d := checkPair(t, file, file); d != nil && d.Changed() {
				t.Errorf("an object differs from itself:\n%s", summary(d))
			}
		}
	})
}

// checkPair compares two objects that may be nonsense: errors are fine as long
// as they are of the promised kinds.
func checkPair(t *testing.T, a, b *elfpatch.File) *Delta {
	d, err := Compare(a, b, Options{})
	if err != nil {
		var list refusal.List
		var format *elfpatch.FormatError
		if !errors.As(err, &list) && !errors.As(err, &format) {
			t.Fatalf("error of another kind: %v", err)
		}
		return nil
	}
	d.Report()
	if cut, err := d.Cut(); err == nil {
		if _, err := cut.Object.Bytes(); err != nil {
			t.Fatalf("the cut cannot be written: %v", err)
		}
	}
	return d
}
