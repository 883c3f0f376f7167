package elfpatch_test

import (
	"debug/elf"
	"testing"

	"livepatch/elfpatch"
)

func addSeeds(f *testing.F) {
	for _, b := range smallFiles(f) {
		f.Add(b)
	}
	f.Add(withoutSections(sharedLibrary(f)))
}

// FuzzParse reads anything: no panic, no absurd allocation, every error a
// FormatError.
func FuzzParse(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		if got := exercise(t, b); got > 2*allocationLimit(len(b)) { // twice: other goroutines allocate too
			t.Errorf("%d bytes allocated for a file of %d", got, len(b))
		}
	})
}

// FuzzRewrite writes whatever can be read: the result says the same, and
// written again it is the same bytes.
func FuzzRewrite(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := elfpatch.Parse(b)
		if err != nil {
			return
		}
		out, err := file.Bytes()
		if err != nil {
			return
		}
		next, err := elfpatch.Parse(out)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
		// Symbols out of order are sorted, and relocations renumbered.
		if err := sameModel(file, next); err != nil && localsFirst(file.Symbols) {
			t.Fatal(err)
		}
		third, err := next.Bytes()
		if err != nil || string(third) != string(out) {
			t.Fatalf("written again, the file differs (%v)", err)
		}
	})
}

func localsFirst(symbols []elfpatch.Symbol) bool {
	others := false
	for i, s := range symbols {
		if local := s.Bind == elf.STB_LOCAL; local && others {
			return false
		} else if !local && i > 0 {
			others = true
		}
	}
	return true
}
