package manifest

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func fill(n int, b byte) Hex { return bytes.Repeat([]byte{b}, n) }

// sample is a manifest that uses every part of the format on x86-64.
func sample() *Manifest {
	m := bare()
	m.Requires = []Requirement{{Name: "earlier", SHA256: fill(32, 9)}, {Name: "first", SHA256: fill(32, 8)}}
	return m
}

func bare() *Manifest {
	return &Manifest{
		Format: Format, Name: "fix-1.0", Tool: Tool{"livepatch", "0.1.0"},
		Targets: []Target{{
			Kind: KindPIE, Machine: MachineX86, BuildID: fill(20, 0xb1), Name: "server", Soname: "",
			Payload: Payload{Member: "payload/0.o", Size: 4096, SHA256: fill(32, 0x5a)},
			Functions: []Function{
				{
					Name: "_ZN3foo3barEv", Object: "foo.o", Address: 0x1400, Size: 0x80,
					Site:     Site{Kind: "prologue", Address: 0x1404, Expected: Hex{0x55, 0x48, 0x89, 0xe5, 0x53}, Room: 12},
					Strategy: "near", Replacement: "foo::bar", NewSize: 0x90, SHA256: fill(32, 1), Proof: "symbol",
					Extra: []Range{{Address: 0x1200, Size: 0x21}},
				},
				{
					Name: "tiny", Object: "foo.o", Address: 0x1500, Size: 3,
					Site:     Site{Kind: "prologue", Address: 0x1500, Expected: Hex{0x31, 0xc0}, Room: 3},
					Strategy: "filler", Replacement: "tiny", NewSize: 5, SHA256: fill(32, 2), Proof: "search",
				},
				{
					Name: "distant", Object: "bar.o", Address: 0x2000, Size: 0x40,
					Site:     Site{Kind: "patchable", Address: 0x2000, Expected: fill(14, 0x90), Room: 16},
					Strategy: "far", Replacement: "distant", NewSize: 5, SHA256: fill(32, 3), Proof: "debug",
				},
			},
			Variables: []Variable{{Name: "count.0", Symbol: "count.0@foo.o", Address: 0x5010, Size: 4, Found: "bar+0x12", Uses: 3}},
			Imports: []Import{
				{Symbol: "count.0@foo.o", Kind: ImportTarget, Address: 0x5010},
				{Symbol: "errno", Kind: ImportTLSOffset, Offset: -16},
				{Symbol: "memcpy", Kind: ImportDynamic, Name: "memcpy", Version: "GLIBC_2.14", Library: "libc.so.6"},
			},
			Writes: []Write{
				{Function: 0, Address: 0x1404, Length: 5, Expected: Hex{0x55, 0x48, 0x89, 0xe5, 0x53},
					Template: Hex{0xe9, 0, 0, 0, 0}, Holes: []Hole{{1, "rel32", "foo::bar"}}},
				{Function: 1, Address: 0x14fb, Length: 5, Expected: fill(5, 0xcc),
					Template: Hex{0xe9, 0, 0, 0, 0}, Holes: []Hole{{1, "rel32", "tiny"}}},
				{Function: 1, Address: 0x1500, Length: 2, Expected: Hex{0x31, 0xc0}, Template: Hex{0xeb, 0xf9}},
				{Function: 2, Address: 0x2000, Length: 14, Expected: fill(14, 0x90),
					Template: append(Hex{0xff, 0x25}, make([]byte, 12)...), Holes: []Hole{{6, "abs64", "distant"}}},
			},
		}},
	}
}

// sampleARM is a second target, of arm64, without build-id.
func sampleARM() Target {
	return Target{
		Kind: KindLibrary, Machine: MachineARM64, SHA256: fill(32, 9), Name: "libx.so.1", Soname: "libx.so.1",
		Payload: Payload{Member: "payload/1.o", Size: 64, SHA256: fill(32, 0x5b)},
		Functions: []Function{{
			Name: "f", Object: "x.o", Address: 0x1000, Size: 0x20,
			Site:     Site{Kind: "patchable", Address: 0x1004, Expected: Hex{0x1f, 0x20, 0x03, 0xd5}, Room: 8},
			Strategy: "veneer", Replacement: "f", NewSize: 8, SHA256: fill(32, 4), Proof: "dynsym",
		}},
		Writes: []Write{{Function: 0, Address: 0x1004, Length: 4, Expected: Hex{0x1f, 0x20, 0x03, 0xd5},
			Template: Hex{0, 0, 0, 0x14}, Holes: []Hole{{0, "branch26", "veneer.f"}}}},
	}
}

func both() *Manifest {
	m := sample()
	m.Targets = append(m.Targets, sampleARM())
	return m
}

// TestEncodeGolden holds the encoding: a change of it makes every package that
// was written before unreadable, so it needs a new Format.
func TestEncodeGolden(t *testing.T) {
	got, err := Encode(both())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", "both.json")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("encoding differs (-golden +got):\n%s", d)
	}
	m, err := Decode(got)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Encode(m)
	if err != nil || !bytes.Equal(again, got) {
		t.Errorf("decoding and encoding again gives other bytes (error %v)", err)
	}
}

func TestEncodeLeavesInputAlone(t *testing.T) {
	m := both()
	if _, err := Encode(m); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(both(), m); d != "" {
		t.Errorf("Encode changed its input:\n%s", d)
	}
}

func TestDecodeStrict(t *testing.T) {
	good, err := Encode(sample())
	if err != nil {
		t.Fatal(err)
	}
	replace := func(old, with string) func(string) string {
		return func(s string) string {
			if !strings.Contains(s, old) {
				t.Fatalf("sample has no %q", old)
			}
			return strings.Replace(s, old, with, 1)
		}
	}
	for _, tc := range []struct {
		name string
		edit func(string) string
		want string
	}{
		{"unknown key", replace(`"name": "fix-1.0"`, `"name": "fix-1.0", "x": 1`), `unknown field "x"`},
		{"duplicate key", replace(`"name": "fix-1.0",`, `"name": "fix-1.0", "name": "fix-1.0",`), "not in the canonical encoding"},
		{"key in another case", replace(`"name": "fix-1.0"`, `"Name": "fix-1.0"`), "not in the canonical encoding"},
		{"trailing data", func(s string) string { return s + "{}" }, "after top-level value"},
		{"trailing newline", func(s string) string { return s + "\n" }, "1 bytes follow the end"},
		{"no final newline", func(s string) string { return strings.TrimSuffix(s, "\n") }, "not in the canonical encoding"},
		{"other indentation", replace("\n  \"name\"", "\n\t\"name\""), "byte 29 (line 3): not in the canonical encoding"},
		{"escape", replace("fix-1.0", `\u0066ix-1.0`), "not in the canonical encoding"},
		{"number as float", replace(`"size": 4096`, `"size": 4.096e3`), "cannot unmarshal number"},
		{"null list", replace(`"holes": []`, `"holes": null`), "not in the canonical encoding"},
		{"missing list", replace(",\n          \"holes\": []", ""), "not in the canonical encoding"},
		{"empty optional", replace(`"name": "server",`, `"name": "server", "soname": "",`), "not in the canonical encoding"},
		{"upper-case hex", replace(`"55`, `"5A`), "lower-case hexadecimal"},
		{"odd hex", replace(`"5548`, `"548`), "odd length hex"},
		{"null hex", replace(`"31c0"`, `null`), "string of hexadecimal"},
		{"another format", replace("livepatch/1", "livepatch/2"), `"livepatch/2" is not "livepatch/1"`},
		{"negative address", replace(`"address": 5120`, `"address": -1`), "cannot unmarshal number"},
		{"empty", func(string) string { return "" }, "unexpected end"},
		{"list", func(string) string { return "[]" }, "cannot unmarshal array"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Decode([]byte(tc.edit(string(good))))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q in it", err, tc.want)
			}
		})
	}
}

func TestFormatVersionError(t *testing.T) {
	_, err := Decode([]byte(`{"format": "livepatch/9", "later": true}`))
	var v *FormatVersionError
	if !errors.As(err, &v) || v.Format != "livepatch/9" {
		t.Errorf("error %v", err)
	}
}

func TestCorruptedDecodeNeverPanics(t *testing.T) {
	good, err := Encode(both())
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		for _, x := range []byte{0x01, 0x20, 0x80} {
			bad := bytes.Clone(good)
			bad[i] ^= x
			m, err := Decode(bad)
			if err != nil {
				continue
			}
			again, err := Encode(m)
			if err != nil || !bytes.Equal(again, bad) {
				t.Fatalf("byte %d ^ %#x: decoded, but encodes differently (error %v)", i, x, err)
			}
		}
		if _, err := Decode(good[:i]); err == nil {
			t.Fatalf("cut at %d: accepted", i)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, m := range []*Manifest{sample(), both()} {
		b, err := Encode(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(b)
		if err != nil {
			return
		}
		again, err := Encode(m)
		if err != nil {
			t.Fatalf("a decoded manifest does not encode: %v", err)
		}
		if !bytes.Equal(again, b) {
			t.Fatalf("decoding and encoding gives other bytes")
		}
	})
}
