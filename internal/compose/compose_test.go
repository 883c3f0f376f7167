package compose

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/build"
	"livepatch/internal/check"
	"livepatch/internal/pack"
	"livepatch/internal/refusal"
	"livepatch/manifest"
)

const binaries = "../../testdata/binaries"

// An edit changes the after object of a pair before a package is made of it.
type edit func(testing.TB, *elfpatch.File)

// made makes the package of a program of dir from pairs of objects.
func made(t testing.TB, dir, program string, edit edit, pairs ...string) Part {
	t.Helper()
	target := build.Target{Name: program, File: read(t, dir, program)}
	for _, p := range pairs {
		after := read(t, dir, p+".after.o")
		if edit != nil {
			edit(t, after)
			b, err := after.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			if after, err = elfpatch.Parse(b); err != nil {
				t.Fatal(err)
			}
		}
		target.Pairs = append(target.Pairs, build.Pair{
			OrigName: p + ".before.o", PatchedName: p + ".after.o", Orig: read(t, dir, p+".before.o"), Patched: after,
		})
	}
	pkg, err := build.Create(build.Inputs{Name: "fix", Version: "test", Targets: []build.Target{target}})
	if err != nil {
		t.Fatal(err)
	}
	return part(t, strings.Join(pairs, "+"), pkg)
}

func part(t testing.TB, name string, pkg *pack.Package) Part {
	t.Helper()
	b, err := pack.Write(pkg)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	return Part{File: name + ".lpatch", SHA256: sum[:], Package: pkg}
}

func read(t testing.TB, dir, name string) *elfpatch.File {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(binaries, dir, name))
	if err != nil {
		t.Fatal(err)
	}
	f, err := elfpatch.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// replaceIn replaces bytes in the code of an object, or in its data.
func replaceIn(flags elf.SectionFlag, from, to string) edit {
	return func(t testing.TB, f *elfpatch.File) {
		t.Helper()
		for _, s := range f.Sections {
			if s.Flags&elf.SHF_ALLOC != 0 && s.Flags&elf.SHF_EXECINSTR == flags && bytes.Contains(s.Data, []byte(from)) {
				s.Data = bytes.ReplaceAll(s.Data, []byte(from), []byte(to))
			}
		}
	}
}

func functions(p *pack.Package) (out []string) {
	for _, t := range p.Manifest.Targets {
		for _, f := range t.Functions {
			out = append(out, f.Name)
		}
	}
	slices.Sort(out)
	return out
}

// Both machines: what is patched apart is patched together, and what is the
// same is patched once, whichever comes first.
func TestMerge(t *testing.T) {
	for _, dir := range []string{"x86_64-gcc", "x86_64-clang", "aarch64-gcc", "aarch64-clang"} {
		t.Run(dir, func(t *testing.T) {
			counter, other := "counter.O2", "switch.O2"
			a, b := made(t, dir, "prog", nil, counter), made(t, dir, "prog", nil, other)
			both := made(t, dir, "prog", nil, counter, other)
			want := functions(both.Package)
			if len(want) < 4 {
				t.Fatalf("only %v", want)
			}
			for name, parts := range map[string][]Part{"apart": {a, b}, "first": {a, both}, "last": {both, a, b}, "twice": {both, both}} {
				got, err := Merge(Options{Name: "all", Version: "test"}, parts)
				if err != nil {
					t.Errorf("%s: %v", name, err)
					continue
				}
				if f := functions(got.Package); !slices.Equal(f, want) {
					t.Errorf("%s: functions %v, want %v", name, f, want)
				}
				if _, err := pack.Write(got.Package); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				r := check.Package(got.Package, []check.File{{Path: "prog", ELF: read(t, dir, "prog")}})
				if list := r.Refusals(); len(list) > 0 {
					t.Errorf("%s: %v", name, list)
				}
			}
		})
	}
}

// A function whose code, or anything that it refers to, is another one in two
// packages is refused, with both packages named.
func TestMergeRefusesDifferent(t *testing.T) {
	const dir = "x86_64-gcc"
	counter, cumulative := made(t, dir, "prog", nil, "counter.O2"), made(t, dir, "prog", nil, "counter.O2", "switch.O2")
	for _, tc := range []struct {
		name  string
		part  Part
		where []string
	}{
		{"code", made(t, dir, "prog", replaceIn(elf.SHF_EXECINSTR, "\x48\x8d\x14\xb6", "\x48\x8d\x14\x76"), "counter.O2"), []string{"counter_tick"}},
		{"string", made(t, dir, "prog", replaceIn(0, "hectic", "hectiC"), "counter.O2"), []string{"counter_mood"}},
		{"name", made(t, dir, "prog", replaceIn(0, "xor", "XOR"), "counter.O2", "switch.O2"), []string{"switch_name"}},
	} {
		tc.part.File = "other.lpatch"
		for _, with := range []Part{counter, cumulative} {
			_, err := Merge(Options{Name: "all", Version: "test"}, []Part{with, tc.part})
			var list refusal.List
			if tc.name == "name" && with.File == counter.File {
				if err != nil {
					t.Errorf("%s: %v: what differs is of another function", tc.name, err)
				}
				continue
			}
			if !errors.As(err, &list) {
				t.Errorf("%s with %s: error %v", tc.name, with.File, err)
				continue
			}
			var where []string
			for _, r := range list {
				_, name, _ := strings.Cut(r.Where, ": ")
				where = append(where, name)
				if r.Code != refusal.MergeConflict || !strings.Contains(r.Text, with.File+" and other.lpatch replace it differently") {
					t.Errorf("%s: %v", tc.name, r)
				}
			}
			if !slices.Equal(where, tc.where) {
				t.Errorf("%s: conflicts of %v, want %v", tc.name, where, tc.where)
			}
		}
	}
}

func TestMergeRefusesKernelAndProgram(t *testing.T) {
	p := Part{File: "k.lpatch", Package: &pack.Package{Manifest: &manifest.Manifest{Kernel: &manifest.Kernel{}}}}
	q := made(t, "x86_64-gcc", "prog", nil, "counter.O2")
	_, err := Merge(Options{Name: "all", Version: "test"}, []Part{q, p})
	var list refusal.List
	if !errors.As(err, &list) || list[0].Code != refusal.MergeKernel || list[0].Where != "k.lpatch" || !strings.Contains(list[0].Text, "others patch programs") {
		t.Errorf("error %v", err)
	}
}

// The record of a merged package names the packages and repeats nothing.
func TestMergeRecord(t *testing.T) {
	a, b := made(t, "x86_64-gcc", "prog", nil, "counter.O2"), made(t, "x86_64-gcc", "prog", nil, "switch.O2")
	sum := sha256.Sum256(nil)
	in := manifest.Input{Role: "target", Name: "prog", SHA256: sum[:]}
	a.Package.Manifest.Build = &manifest.Build{Description: "one", CVE: []string{"CVE-2024-0001"}, Inputs: []manifest.Input{in}, Compiler: "gcc"}
	b.Package.Manifest.Build = &manifest.Build{Description: "two", CVE: []string{"CVE-2024-0001", "CVE-2024-0002"}, Inputs: []manifest.Input{in}, Compiler: "gcc"}
	got, err := Merge(Options{Name: "all", Version: "test"}, []Part{a, b})
	if err != nil {
		t.Fatal(err)
	}
	r := got.Package.Manifest.Build
	if r.Description != "one; two" || r.Compiler != "gcc" || len(r.CVE) != 2 || len(r.Inputs) != 3 || r.Inputs[0].Role != "target" || r.Inputs[2].Name != b.File {
		t.Errorf("%+v", r)
	}
}

// A package differs from itself in nothing, and two packages in what was
// changed, whichever comes first.
func TestDiff(t *testing.T) {
	a := made(t, "aarch64-gcc", "prog", nil, "counter.O2").Package
	b := made(t, "aarch64-gcc", "prog", replaceIn(0, "hectic", "hectiC"), "counter.O2").Package
	if list, err := Diff(a, a); err != nil || len(list) != 0 {
		t.Errorf("%v, error %v", list, err)
	}
	for _, pair := range [][2]*pack.Package{{a, b}, {b, a}} {
		list, err := Diff(pair[0], pair[1])
		if err != nil || len(list) != 1 || list[0].Change != "changed" || list[0].What != "function" || list[0].Where != "counter_mood" {
			t.Errorf("%+v, error %v", list, err)
		}
	}
	merged, err := Merge(Options{Name: "fix", Version: "test"}, []Part{part(t, "a", a), part(t, "c", made(t, "aarch64-gcc", "prog", nil, "switch.O2").Package)})
	if err != nil {
		t.Fatal(err)
	}
	list, err := Diff(a, merged.Package)
	if err != nil {
		t.Fatal(err)
	}
	for _, ch := range list {
		if ch.Change != "added" {
			t.Errorf("%+v: the merged package only has more", ch)
		}
	}
}

// Payloads of strangers are taken apart or refused, and the answer is one that
// stays.
func FuzzReplacement(f *testing.F) {
	for _, dir := range []string{"x86_64-gcc", "aarch64-gcc"} {
		p := made(f, dir, "prog", nil, "counter.O2").Package
		f.Add(p.Members["payload/0.o"])
	}
	t := made(f, "x86_64-gcc", "prog", nil, "counter.O2").Package.Manifest.Targets[0]
	f.Fuzz(func(tt *testing.T, b []byte) {
		p, err := open(&t, b)
		if err != nil {
			return
		}
		p.variables()
		for i := range t.Functions {
			x, err := p.replacementOf(&t.Functions[i])
			y, again := p.replacementOf(&t.Functions[i])
			if (err == nil) != (again == nil) || err == nil && x.digest != y.digest {
				tt.Fatalf("two answers: %v and %v", err, again)
			}
		}
	})
}
