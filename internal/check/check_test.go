package check

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/pack"
	"livepatch/internal/refusal"
	"livepatch/manifest"
)

const (
	imageBase = 0x400000
	codeAddr  = imageBase + 0x200
)

var buildID = []byte{0xb1, 0xb2, 0xb3, 0xb4}

// image is an executable made by hand: one segment with a build-id note and
// two functions, double (lea 0(rdi,rdi),eax) and a loop.
func image() []byte {
	b := make([]byte, 0x300)
	copy(b, "\x7fELF\x02\x01\x01")
	le := binary.LittleEndian
	le.PutUint16(b[16:], uint16(elf.ET_EXEC))
	le.PutUint16(b[18:], uint16(elf.EM_X86_64))
	le.PutUint32(b[20:], 1)
	le.PutUint64(b[32:], 64) // program headers
	le.PutUint16(b[52:], 64)
	le.PutUint16(b[54:], 56)
	le.PutUint16(b[56:], 3)
	le.PutUint16(b[58:], 64)
	segment := func(at int, typ elf.ProgType, flags elf.ProgFlag, off, addr, file, mem uint64) {
		le.PutUint32(b[at:], uint32(typ))
		le.PutUint32(b[at+4:], uint32(flags))
		for i, v := range []uint64{off, addr, addr, file, mem, 16} {
			le.PutUint64(b[at+8+8*i:], v)
		}
	}
	segment(64, elf.PT_LOAD, elf.PF_R|elf.PF_X, 0, imageBase, 0x300, 0x300)
	segment(64+56, elf.PT_LOAD, elf.PF_R|elf.PF_W, 0x300, imageBase+0x1300, 0, 0x40)
	segment(64+112, elf.PT_NOTE, elf.PF_R, 0x100, imageBase+0x100, 20, 20)
	le.PutUint32(b[0x100:], 4)
	le.PutUint32(b[0x104:], uint32(len(buildID)))
	le.PutUint32(b[0x108:], 3) // NT_GNU_BUILD_ID
	copy(b[0x10c:], "GNU\x00")
	copy(b[0x110:], buildID)
	copy(b[0x200:], []byte{
		0xf3, 0x0f, 0x1e, 0xfa, // endbr64
		0x8d, 0x04, 0x3f, //       lea (%rdi,%rdi,1),%eax
		0x05, 0x07, 0, 0, 0, //    add $7,%eax
		0xc3, //                   ret
	})
	return b
}

// payload is the replacement: mov counter(%rip),%eax; ret
func payload(t testing.TB) []byte {
	t.Helper()
	f := elfpatch.New(elf.ET_REL, elf.EM_X86_64)
	text := f.AddSection(elfpatch.Section{Name: ".text", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | elf.SHF_EXECINSTR, Align: 16,
		Data: []byte{0xf3, 0x0f, 0x1e, 0xfa, 0x8b, 0x05, 0, 0, 0, 0, 0xc3}, Size: 11})
	f.AddSymbol(elfpatch.Symbol{Name: "double", Type: elf.STT_FUNC, Bind: elf.STB_GLOBAL, Section: text.Index, Size: 11})
	counter := f.AddSymbol(elfpatch.Symbol{Name: "counter", Bind: elf.STB_GLOBAL})
	err := f.SetRelocations(text, []elfpatch.Rela{{Offset: 6, Type: uint32(elf.R_X86_64_PC32), Symbol: uint32(counter), Addend: -4}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := f.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func sample(t testing.TB) *pack.Package {
	t.Helper()
	code, obj := image()[0x200:0x20d], payload(t)
	body, sum := sha256.Sum256(code), sha256.Sum256(obj)
	return &pack.Package{
		Manifest: &manifest.Manifest{
			Format: manifest.Format, Name: "fix-double", Tool: manifest.Tool{Name: "livepatch", Version: "test"},
			Targets: []manifest.Target{{
				Kind: "executable", Machine: "x86-64", BuildID: buildID, Name: "prog",
				Payload: manifest.Payload{Member: "payload/0.o", Size: int64(len(obj)), SHA256: sum[:]},
				Functions: []manifest.Function{{
					Name: "double", Object: "prog.o", Address: codeAddr, Size: 13,
					Site:     manifest.Site{Kind: "prologue", Address: codeAddr + 4, Expected: manifest.Hex(code[4:9]), Room: 9},
					Strategy: "near", Replacement: "double", NewSize: 11, SHA256: body[:], Proof: "search",
				}},
				Variables: []manifest.Variable{{Name: "counter", Symbol: "counter", Address: imageBase + 0x1310, Size: 4, Found: "double+0x4", Uses: 1}},
				Imports:   []manifest.Import{{Symbol: "counter", Kind: "target", Address: imageBase + 0x1310}},
				Writes: []manifest.Write{{Address: codeAddr + 4, Length: 5, Expected: manifest.Hex(code[4:9]),
					Template: manifest.Hex{0xe9, 0, 0, 0, 0}, Holes: []manifest.Hole{{Offset: 1, Kind: "rel32", Symbol: "double"}}}},
			}},
		},
		Members: map[string][]byte{"payload/0.o": obj},
	}
}

func parse(t testing.TB, b []byte) File {
	t.Helper()
	f, err := elfpatch.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return File{Path: "prog", ELF: f}
}

func TestPackageFits(t *testing.T) {
	r := Package(sample(t), []File{parse(t, image())})
	if list := r.Refusals(); len(list) > 0 {
		t.Fatalf("refused:\n%v", list)
	}
	var got []string
	for _, x := range r.Results {
		got = append(got, strings.TrimSpace(x.What+" "+x.Where)+": "+x.Text)
	}
	want := []string{
		"identity: prog has build-id b1b2b3b4",
		"function double: 13 bytes at 0x400200 are the old body",
		"site double: 8d043f0507 at 0x400204",
		"import counter: at 0x401310 of the target",
		"payload payload/0.o: 1 relocation, 1 section",
		"redirect double: near, leads to double",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestPackageRefused(t *testing.T) {
	for _, tc := range []struct {
		name string
		code refusal.Code
		want string
		edit func(p *pack.Package, image []byte)
	}{
		{"other build-id", refusal.WrongTarget, "no file given has build-id b1b2b3b4; prog has 00b2b3b4",
			func(_ *pack.Package, b []byte) { b[0x110] = 0 }},
		{"other kind", refusal.WrongTarget, "of kind executable, not library",
			func(p *pack.Package, _ []byte) { p.Manifest.Targets[0].Kind = "library" }},
		{"other machine", refusal.WrongTarget, "not arm64",
			func(p *pack.Package, _ []byte) { p.Manifest.Targets[0].Machine = "arm64" }},
		{"other body", refusal.NotTheRunningCode, "the body at 0x400200 is not the one",
			func(_ *pack.Package, b []byte) { b[0x20b] = 9 }},
		{"breakpoint at the site", refusal.SiteChanged, "cc043f0507 at 0x400204, expected 8d043f0507",
			func(_ *pack.Package, b []byte) { b[0x204] = 0xcc }},
		{"function outside", refusal.WrongTarget, "no code at 0x900000",
			func(p *pack.Package, _ []byte) { p.Manifest.Targets[0].Functions[0].Address = 0x900000 }},
		{"outlined part outside", refusal.WrongTarget, "no code at 0x401300, 0x4 bytes, of the part moved out",
			func(p *pack.Package, _ []byte) {
				p.Manifest.Targets[0].Functions[0].Extra = []manifest.Range{{Address: 0x401300, Size: 4}}
			}},
		{"site in data", refusal.WrongTarget, "no code at 0x401300, 5 bytes",
			func(p *pack.Package, _ []byte) { p.Manifest.Targets[0].Writes[0].Address = 0x401300 }},
		{"import outside", refusal.AddressUnknown, "0x500000 is not in the file's memory",
			func(p *pack.Package, _ []byte) { p.Manifest.Targets[0].Imports[0].Address = 0x500000 }},
		{"no TLS", refusal.AddressUnknown, "no usable thread-local block",
			func(p *pack.Package, _ []byte) {
				p.Manifest.Targets[0].Imports[0] = manifest.Import{Symbol: "counter", Kind: "tls-offset", Offset: -4}
			}},
		{"dynamic import of a static program", refusal.SymbolNotFound, "loads no library",
			func(p *pack.Package, _ []byte) {
				p.Manifest.Targets[0].Imports[0] = manifest.Import{Symbol: "counter", Kind: "dynamic", Name: "counter"}
			}},
		{"dynamic import out of reach", refusal.Unsupported, "a dynamic import that may be anywhere",
			func(p *pack.Package, _ []byte) {
				p.Manifest.Targets[0].Imports[0] = manifest.Import{Symbol: "counter", Kind: "dynamic", Name: "counter"}
			}},
		{"import out of reach", refusal.OutOfReach, "counter: R_X86_64_PC32",
			func(p *pack.Package, _ []byte) { p.Manifest.Targets[0].Imports[0].Address = 0x7000_0000_0000 }},
		{"import missing", refusal.SymbolNotFound, "undefined in the payload, and not imported",
			func(p *pack.Package, _ []byte) { p.Manifest.Targets[0].Imports = nil }},
		{"import too many", refusal.Unsupported, "imported, but not an undefined symbol",
			func(p *pack.Package, _ []byte) {
				p.Manifest.Targets[0].Imports = append(p.Manifest.Targets[0].Imports, manifest.Import{Symbol: "x", Kind: "target", Address: imageBase})
			}},
		{"replacement missing", refusal.SymbolNotFound, "the replacement is not in the payload",
			func(p *pack.Package, _ []byte) { p.Manifest.Targets[0].Functions[0].Replacement = "other" }},
		{"replacement of another size", refusal.Unsupported, "11 bytes, the manifest says 12",
			func(p *pack.Package, _ []byte) { p.Manifest.Targets[0].Functions[0].NewSize = 12 }},
		{"payload no object", refusal.Unsupported, "payload/0.o",
			func(p *pack.Package, _ []byte) { p.Members["payload/0.o"] = []byte("hello") }},
		{"payload not relocatable", refusal.Unsupported, "ET_EXEC for EM_X86_64, not ET_REL",
			func(p *pack.Package, b []byte) { p.Members["payload/0.o"] = b }},
		{"redirect elsewhere", refusal.Unsupported, "the writes lead to",
			func(p *pack.Package, _ []byte) {
				p.Manifest.Targets[0].Writes[0].Template[1] = 1
				p.Manifest.Targets[0].Writes[0].Holes = nil
			}},
		{"no redirect", refusal.Unsupported, "the writes lead to",
			func(p *pack.Package, _ []byte) { p.Manifest.Targets[0].Writes[0].Template[0] = 0x90 }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, b := sample(t), image()
			tc.edit(p, b)
			list := Package(p, []File{parse(t, b)}).Refusals()
			for _, r := range list {
				if r.Code == tc.code && strings.Contains(r.Error(), tc.want) {
					return
				}
			}
			t.Errorf("refusals\n%v\nwant one %s with %q", list, tc.code, tc.want)
		})
	}
}

// A payload that claims absurd sizes is refused, not laid out.
func TestPackageHostilePayload(t *testing.T) {
	f := elfpatch.New(elf.ET_REL, elf.EM_X86_64)
	for _, s := range []elfpatch.Section{
		{Name: ".bss", Type: elf.SHT_NOBITS, Flags: elf.SHF_ALLOC | elf.SHF_WRITE, Size: 1 << 62, Align: 8},
		{Name: ".wx", Type: elf.SHT_NOBITS, Flags: elf.SHF_ALLOC | elf.SHF_WRITE | elf.SHF_EXECINSTR, Size: 8, Align: 8},
		{Name: ".far", Type: elf.SHT_NOBITS, Flags: elf.SHF_ALLOC, Size: 8, Align: 1 << 40},
	} {
		f.AddSection(s)
	}
	b, err := f.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	p := sample(t)
	p.Members["payload/0.o"] = b
	text := Package(p, []File{parse(t, image())}).Refusals().Error()
	for _, want := range []string{".bss: the section has", ".wx: the section is writable and executable", ".far: the section has"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func TestPackageDynamic(t *testing.T) {
	p := sample(t)
	p.Manifest.Targets[0].BuildID = nil
	p.Manifest.Targets[0].SHA256 = ReadOnlyDigest(parse(t, image()).ELF)
	r := Package(p, []File{parse(t, image())})
	if r.Count(Refused) != 0 || !strings.HasPrefix(r.Results[0].Text, "prog has SHA-256 ") {
		t.Errorf("without build-id: %+v", r.Results)
	}
}

func TestReplaced(t *testing.T) {
	show := func(lines []Line) string {
		var b strings.Builder
		for _, l := range lines {
			b.WriteString(l.Bytes + "|" + l.Text + "\n")
		}
		return b.String()
	}
	for _, tc := range []struct {
		machine string
		w       manifest.Write
		want    string
	}{
		{"x86-64", manifest.Write{Address: 0x1000, Template: manifest.Hex{0xe9, 0, 0, 0, 0}, Holes: []manifest.Hole{{Offset: 1, Kind: "rel32", Symbol: "new"}}},
			"e9 ·· ·· ·· ··|jmp new\n"},
		{"x86-64", manifest.Write{Address: 0x1000, Template: append(manifest.Hex{0xff, 0x25}, make([]byte, 12)...),
			Holes: []manifest.Hole{{Offset: 6, Kind: "abs64", Symbol: "new"}}},
			"ff 25 00 00 00 00|jmp *(%rip)\n·· ·· ·· ·· ·· ·· ·· ··|address of new\n"},
		{"arm64", manifest.Write{Address: 0x1000,
			Template: manifest.Hex{0x50, 0, 0, 0x58, 0, 2, 0x1f, 0xd6, 0, 0, 0, 0, 0, 0, 0, 0},
			Holes:    []manifest.Hole{{Offset: 8, Kind: "abs64", Symbol: "new"}}},
			"50 00 00 58|ldr x16, =new\n00 02 1f d6|br x16\n·· ·· ·· ·· ·· ·· ·· ··|address of new\n"},
		{"arm64", manifest.Write{Address: 0x1000, Template: manifest.Hex{0, 0, 0, 0x14}, Holes: []manifest.Hole{{Offset: 0, Kind: "branch26", Symbol: "new"}}},
			"·· ·· ·· ··|b new\n"},
	} {
		got := show(Replaced(tc.machine, &tc.w))
		if got != tc.want {
			t.Errorf("got\n%swant\n%s", got, tc.want)
		}
	}
	if got := show(Code("x86-64", []byte{0x55, 0x48, 0x89}, 0)); got != "55|push %rbp\n48 89|(part of an instruction)\n" {
		t.Errorf("got\n%s", got)
	}
}

// The sample is a fixture of the command line's tests as well.
func TestFixture(t *testing.T) {
	b, err := pack.Write(sample(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]byte{"double.lpatch": b, "prog": image()} {
		path := filepath.Join("testdata", name)
		if os.Getenv("UPDATE_GOLDEN") != "" {
			if err := os.WriteFile(path, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		have, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(have, want) {
			t.Errorf("%s is not what the test makes; UPDATE_GOLDEN=1 writes it", path)
		}
	}
}
