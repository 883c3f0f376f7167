package types

import (
	"debug/elf"
	"testing"
	"time"

	"livepatch/elfpatch"
)

const fuzzSource = `
enum e { A, B };
struct s { struct s *next; unsigned bit : 3; union { int i; enum e e; }; int v[2]; int (*call)(struct s *, ...); };
static inline int in(struct s *p) { return p->i; }
int f(struct s *p) { int n = in(p); return n + p->bit; }`

// described makes a linked file of three sections.
func described(abbrev, info, str []byte) *elfpatch.File {
	f := elfpatch.New(elf.ET_EXEC, elf.EM_X86_64)
	for name, b := range map[string][]byte{".debug_abbrev": abbrev, ".debug_info": info, ".debug_str": str} {
		f.AddSection(elfpatch.Section{Name: name, Type: elf.SHT_PROGBITS, Align: 1, Data: b})
	}
	return f
}

// Whatever the debug information is, comparing it ends, soon, with an answer or an
// error.
func FuzzCompare(f *testing.F) {
	for _, flavour := range []string{"gcc-5", "gcc-4", "clang-4"} {
		o := compile(f, flavour, "unit.c", fuzzSource)
		var parts [3][]byte
		for i, name := range []string{".debug_abbrev", ".debug_info", ".debug_str"} {
			b, err := contents(o, name)
			if err != nil {
				f.Fatal(err)
			}
			parts[i] = b
		}
		f.Add(parts[0], parts[1], parts[2])
	}
	uses := []string{"f", "in", "g"}
	f.Fuzz(func(t *testing.T, abbrev, info, str []byte) {
		start := time.Now()
		o := described(abbrev, info, str)
		r, err := Compare(o, o, []Func{{Name: "f", Orig: "f", Patched: "f", OrigUses: uses, PatchedUses: uses}})
		if err == nil && len(r.Changes) > 0 {
			t.Errorf("it differs from itself: %v", r.Changes)
		}
		if _, err := Inlined(o, map[string]bool{"in": true}); err != nil && err.Error() == "" {
			t.Error("an error without text")
		}
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("it took %v", d)
		}
	})
}

// The same for BTF.
func FuzzBTF(f *testing.F) {
	b, err := contents(compile(f, "gcc-btf", "unit.c", fuzzSource), ".BTF")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	uses := []string{"f", "in", "g"}
	f.Fuzz(func(t *testing.T, b []byte) {
		start := time.Now()
		o := elfpatch.New(elf.ET_EXEC, elf.EM_X86_64)
		o.AddSection(elfpatch.Section{Name: ".BTF", Type: elf.SHT_PROGBITS, Align: 1, Data: b})
		r, err := Compare(o, o, []Func{{Name: "f", Orig: "f", Patched: "f", OrigUses: uses, PatchedUses: uses}})
		if err == nil && len(r.Changes) > 0 {
			t.Errorf("it differs from itself: %v", r.Changes)
		}
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("it took %v", d)
		}
	})
}

// The bytes of a compressed section are anything.
func FuzzUnpack(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00x\x9cKLJ\x06\x00\x02M\x01'"))
	f.Add([]byte("\x02\x00\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00(\xb5/\xfd\x04\x00\x19\x00\x00abc"))
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := unpack(b)
		if err == nil && uint64(len(out)) != le.Uint64(b[8:]) {
			t.Errorf("%d bytes", len(out))
		}
	})
}
