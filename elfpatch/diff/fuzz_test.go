package diff

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/refusal"
	"livepatch/internal/testkit"
)

// fuzzSeeds are the pairs that FuzzCompare damages.
var fuzzSeeds = []string{
	"x86_64-gcc/calls.O2", "x86_64-gcc/switch.O2", "x86_64-clang/switch.O2", "x86_64-gcc/tls.pic", "x86_64-gcc/except.O2",
	"x86_64-gcc/ifunc.O2", "aarch64-gcc/counter.O2", "aarch64-gcc/switch.nopie", "aarch64-clang/calls.O2", "aarch64-gcc/except.O2",
}

// kernelSeeds are sources whose objects FuzzCompare damages too, by the rules of
// kernels.
var kernelSeeds = []string{"lines moved, with debug information", "alternatives that moved", "special statics", "another key", "ignored section", "checked arithmetic", "another type of exception"}

// damagedSeeds compiles them for both machines; none where there is no compiler.
func damagedSeeds(tb testing.TB) (pairs [][2][]byte) {
	tb.Helper()
	for _, cc := range compilers {
		if _, err := exec.LookPath(cc.cc); err != nil {
			continue
		}
		for _, name := range kernelSeeds {
			k := slices.IndexFunc(kernelSources, func(c kernelSource) bool { return c.name == name })
			a, b := kernelSources[k].compile(tb, cc.cc, cc.machine)
			pairs = append(pairs, [2][]byte{must(a.Bytes()), must(b.Bytes())})
		}
	}
	return pairs
}

// FuzzCompare compares damaged objects: edits is a list of offsets (three
// bytes) and values (one byte), the highest bit of an offset choosing the
// object. The highest bit of pair chooses the rules of kernels.
func FuzzCompare(f *testing.F) {
	root := filepath.Join("..", "..", "testdata", "binaries")
	var pairs [][2][]byte
	for i, name := range fuzzSeeds {
		base := filepath.Join(root, name)
		pairs = append(pairs, [2][]byte{must(testkit.ELF(f, base+".before.o").Bytes()), must(testkit.ELF(f, base+".after.o").Bytes())})
		f.Add(uint8(i), []byte{})
		f.Add(uint8(i), []byte{0, 0, 0x60, 1, 0x80, 1, 0x10, 0xff})
	}
	pairs = append(pairs, damagedSeeds(f)...)
	for i := range pairs {
		f.Add(uint8(i)|0x80, []byte{})
		f.Add(uint8(i)|0x80, []byte{0, 0, 0x60, 1, 0x80, 1, 0x10, 0xff, 0, 2, 0x34, 0x55})
	}
	f.Fuzz(func(t *testing.T, pair uint8, edits []byte) {
		p := pairs[int(pair&0x7f)%len(pairs)]
		opt := Options{Kernel: pair&0x80 != 0}
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
		checkPair(t, files[0], files[1], opt)
		checkPair(t, files[1], files[0], opt)
		for _, file := range files {
			if d := checkPair(t, file, file, opt); d != nil && d.Changed() {
				t.Errorf("an object differs from itself:\n%s", summary(d))
			}
		}
	})
}

// checkPair compares two objects that may be nonsense: errors are fine as long
// as they are of the promised kinds.
func checkPair(t *testing.T, a, b *elfpatch.File, opt Options) *Delta {
	d, err := Compare(a, b, opt)
	if err != nil {
		var list refusal.List
		var format *elfpatch.FormatError
		if !errors.As(err, &list) && !errors.As(err, &format) {
			t.Fatalf("error of another kind: %v", err)
		}
		return nil
	}
	d.Report()
	if len(d.Funcs) > 0 {
		if _, err := d.Explain(d.Funcs[0].Name, CutOptions{}); err != nil {
			t.Fatalf("a function cannot be explained: %v", err)
		}
	}
	if cut, err := d.Cut(); err == nil {
		if _, err := cut.Object.Bytes(); err != nil {
			t.Fatalf("the cut cannot be written: %v", err)
		}
	}
	for _, f := range d.Funcs {
		d.Listing(f)
	}
	return d
}

// Damaged objects, of programs and of kernels, have an answer too. The slow tier
// tries twenty times as many.
func TestDamagedObjects(t *testing.T) {
	rounds := 5000
	if os.Getenv("LIVEPATCH_SLOW") != "" {
		rounds = 100000
	}
	if testing.Short() {
		rounds = 500
	}
	pairs := damagedSeeds(t)
	for _, name := range fuzzSeeds {
		base := filepath.Join("..", "..", "testdata", "binaries", name)
		pairs = append(pairs, [2][]byte{must(os.ReadFile(base + ".before.o")), must(os.ReadFile(base + ".after.o"))})
	}
	r := rand.New(rand.NewPCG(1, 2))
	answers := 0
	for i := range rounds {
		p := pairs[r.IntN(len(pairs))]
		var files [2]*elfpatch.File
		for k := range files {
			f, err := elfpatch.Parse(damage(r, p[k]))
			if err != nil {
				break
			}
			files[k] = f
		}
		if files[0] == nil || files[1] == nil {
			continue
		}
		opt := Options{Kernel: i%4 != 0}
		func() {
			defer func() {
				if err := recover(); err != nil {
					t.Fatalf("round %d: %v", i, err)
				}
			}()
			if checkPair(t, files[0], files[1], opt) != nil {
				answers++
			}
			if d := checkPair(t, files[1], files[1], opt); d != nil && d.Changed() {
				t.Errorf("round %d: an object differs from itself:\n%s", i, summary(d))
			}
		}()
	}
	if answers < rounds/10 {
		t.Errorf("only %d of %d damaged pairs were compared", answers, rounds)
	}
}

// damage changes a few bytes of an object, most often where they matter: in the
// tables of sections, symbols and relocations.
func damage(r *rand.Rand, b []byte) []byte {
	b = slices.Clone(b)
	headers := int(binary.LittleEndian.Uint64(b[0x28:]))
	for range 1 + r.IntN(6) {
		at := r.IntN(len(b))
		switch r.IntN(4) {
		case 0:
			if n := (len(b) - headers) / 64; n > 1 {
				at = headers + 64*r.IntN(n) + r.IntN(64)
			}
		case 1, 2:
			n := int(binary.LittleEndian.Uint16(b[0x3c:]))
			if h := headers + 64*r.IntN(max(n, 1)); h+64 <= len(b) {
				off, size := binary.LittleEndian.Uint64(b[h+0x18:]), binary.LittleEndian.Uint64(b[h+0x20:])
				if kind := b[h+4]; (kind == 2 || kind == 4 || kind == 1) && size > 0 && off < uint64(len(b)) && size <= uint64(len(b))-off {
					at = int(off) + r.IntN(int(size))
				}
			}
		}
		switch r.IntN(3) {
		case 0:
			b[at] = byte(r.IntN(256))
		case 1:
			b[at] ^= 1 << r.IntN(8)
		default:
			b[at] = []byte{0, 1, 0xff, 0x7f, 0x80}[r.IntN(5)]
		}
	}
	return b
}
