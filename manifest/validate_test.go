package manifest

import (
	"errors"
	"math"
	"strings"
	"testing"
)

func TestValidateAccepts(t *testing.T) {
	for name, m := range map[string]*Manifest{"one target": sample(), "two targets": both()} {
		if err := m.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Each row breaks one thing of the sample; the error must name it.
func TestValidateRefuses(t *testing.T) {
	for _, tc := range []struct {
		want string
		edit func(*Manifest, *Target)
	}{
		{`format: is "livepatch/0"`, func(m *Manifest, _ *Target) { m.Format = "livepatch/0" }},
		{`name: "" is not a patch name`, func(m *Manifest, _ *Target) { m.Name = "" }},
		{`name: "../x" is not a patch name`, func(m *Manifest, _ *Target) { m.Name = "../x" }},
		{`name: ".x" is not a patch name`, func(m *Manifest, _ *Target) { m.Name = ".x" }},
		{`name: "a\nb" is not a patch name`, func(m *Manifest, _ *Target) { m.Name = "a\nb" }},
		{"not a patch name", func(m *Manifest, _ *Target) { m.Name = strings.Repeat("a", MaxName+1) }},
		{"tool.name: is empty", func(m *Manifest, _ *Target) { m.Tool.Name = "" }},
		{"tool.version: is empty", func(m *Manifest, _ *Target) { m.Tool.Version = "" }},
		{"targets: has 0 entries", func(m *Manifest, _ *Target) { m.Targets = nil }},
		{"targets: has 65 entries", func(m *Manifest, _ *Target) { m.Targets = make([]Target, 65) }},
		{"targets[1].functions[0]: overlaps targets[0].functions[0], which is of the same file", func(m *Manifest, x *Target) { m.Targets = append(m.Targets, *x) }},
		{"targets[1].writes[0]: overlaps targets[0].writes[0], which is of the same file", func(m *Manifest, x *Target) { m.Targets = append(m.Targets, *x) }},
		{"targets[1]: is the same file as targets[0], and of another kind or machine", func(m *Manifest, x *Target) {
			m.Targets = append(m.Targets, *x)
			m.Targets[1].Kind = KindLibrary
		}},

		{`kind: "" is none of executable, pie, library`, func(_ *Manifest, x *Target) { x.Kind = "" }},
		{`machine: "riscv" is none of x86-64, arm64`, func(_ *Manifest, x *Target) { x.Machine = "riscv" }},
		{"nothing identifies the file", func(_ *Manifest, x *Target) { x.BuildID = nil }},
		{"build_id: has 65 bytes", func(_ *Manifest, x *Target) { x.BuildID = fill(65, 1) }},
		{"targets[0].sha256: has 31 bytes, not 32", func(_ *Manifest, x *Target) { x.SHA256 = fill(31, 1) }},
		{"targets[0].name: is empty", func(_ *Manifest, x *Target) { x.Name = "" }},
		{"without directories", func(_ *Manifest, x *Target) { x.Name = "/bin/server" }},
		{"without directories", func(_ *Manifest, x *Target) { x.Name = ".." }},
		{"control character", func(_ *Manifest, x *Target) { x.Name = "a\x1b[31m" }},
		{"control character", func(_ *Manifest, x *Target) { x.Soname = "a\u202eb" }},
		{"not UTF-8", func(_ *Manifest, x *Target) { x.Soname = "\xff" }},
		{"more than 4096", func(_ *Manifest, x *Target) { x.Soname = strings.Repeat("x", MaxText+1) }},
		{`member: is "payload/1.o", not "payload/0.o"`, func(_ *Manifest, x *Target) { x.Payload.Member = "payload/1.o" }},
		{"payload.size: 63 is not within", func(_ *Manifest, x *Target) { x.Payload.Size = MinPayload - 1 }},
		{"payload.size: 67108865 is not within", func(_ *Manifest, x *Target) { x.Payload.Size = MaxPayload + 1 }},
		{"payload.sha256: has 0 bytes", func(_ *Manifest, x *Target) { x.Payload.SHA256 = nil }},

		{"functions: has 0 entries", func(_ *Manifest, x *Target) { x.Functions = nil }},
		{"functions[0].name: is empty", func(_ *Manifest, x *Target) { x.Functions[0].Name = "" }},
		{"functions[0].object: \"a/b.o\" is not", func(_ *Manifest, x *Target) { x.Functions[0].Object = "a/b.o" }},
		{"functions[0].size: is 0", func(_ *Manifest, x *Target) { x.Functions[0].Size = 0 }},
		{"run past the end", func(_ *Manifest, x *Target) { x.Functions[2].Address = math.MaxUint64 - 5 }},
		{"functions[1]: overlaps function 0", func(_ *Manifest, x *Target) { x.Functions[0].Size = 0x101 }},
		{"functions[0].new_size: 0 is not", func(_ *Manifest, x *Target) { x.Functions[0].NewSize = 0 }},
		{`strategy: "fast" is not a strategy`, func(_ *Manifest, x *Target) { x.Functions[0].Strategy = "fast" }},
		{"functions[0].sha256: has 20 bytes", func(_ *Manifest, x *Target) { x.Functions[0].SHA256 = fill(20, 1) }},
		{`proof: "guess" is none of`, func(_ *Manifest, x *Target) { x.Functions[0].Proof = "guess" }},
		{"functions[1].replacement: \"foo::bar\" replaces functions[0] too", func(_ *Manifest, x *Target) { x.Functions[1].Replacement = "foo::bar" }},
		{"functions[0].extra[0].size: is 0", func(_ *Manifest, x *Target) { x.Functions[0].Extra[0].Size = 0 }},
		{"functions[0].extra[0].size: 0x21 bytes at", func(_ *Manifest, x *Target) { x.Functions[0].Extra[0].Address = math.MaxUint64 }},
		{"functions[0].extra: has 65537 entries", func(_ *Manifest, x *Target) { x.Functions[0].Extra = make([]Range, MaxList+1) }},
		{"functions[0].replacement: is empty", func(_ *Manifest, x *Target) { x.Functions[0].Replacement = "" }},

		{`site.kind: "none" is none of`, func(_ *Manifest, x *Target) { x.Functions[0].Site.Kind = "none" }},
		{"site.address: 0x13ff is outside", func(_ *Manifest, x *Target) { x.Functions[0].Site.Address = 0x13ff }},
		{"site.address: 0x1480 is outside", func(_ *Manifest, x *Target) { x.Functions[0].Site.Address = 0x1480 }},
		{"site.room: 0 is not", func(_ *Manifest, x *Target) { x.Functions[0].Site.Room = 0 }},
		{"site.room: -1 is not", func(_ *Manifest, x *Target) { x.Functions[0].Site.Room = -1 }},
		{"site.expected: has 5 bytes, not 1 to the room of 4", func(_ *Manifest, x *Target) { x.Functions[0].Site.Room = 4 }},
		{"site.expected: has 0 bytes", func(_ *Manifest, x *Target) { x.Functions[0].Site.Expected = nil }},

		{"variables[0].name: is empty", func(_ *Manifest, x *Target) { x.Variables[0].Name = "" }},
		{"variables[0].found: is empty", func(_ *Manifest, x *Target) { x.Variables[0].Found = "" }},
		{"variables[0].uses: -1 is negative", func(_ *Manifest, x *Target) { x.Variables[0].Uses = -1 }},
		{"variables[0].symbol: \"x\" is not imported", func(_ *Manifest, x *Target) { x.Variables[0].Symbol = "x" }},
		{"variables[0].address: 0x5018 is not the 0x5010 of its import", func(_ *Manifest, x *Target) { x.Variables[0].Address = 0x5018 }},
		{"variables[1].symbol: \"count.0@foo.o\" is listed twice", func(_ *Manifest, x *Target) { x.Variables = append(x.Variables, x.Variables[0]) }},
		{"variables[0].size: 0xffffffffffffffff bytes", func(_ *Manifest, x *Target) { x.Variables[0].Size = math.MaxUint64 }},

		{"imports[0].symbol: is empty", func(_ *Manifest, x *Target) { x.Imports[0].Symbol = "" }},
		{"imports[2].symbol: \"errno\" is imported twice", func(_ *Manifest, x *Target) { x.Imports[2].Symbol = "errno" }},
		{`imports[1].kind: "weird" is none of`, func(_ *Manifest, x *Target) { x.Imports[1].Kind = "weird" }},
		{"imports[1]: has fields that", func(_ *Manifest, x *Target) { x.Imports[1].Address = 1 }},
		{"imports[0]: has fields that", func(_ *Manifest, x *Target) { x.Imports[0].Name = "n" }},
		{"imports[2]: has fields that", func(_ *Manifest, x *Target) { x.Imports[2].Offset = 8 }},
		{"imports[2].name: is empty", func(_ *Manifest, x *Target) { x.Imports[2].Name = "" }},
		{"\"tiny\" is a replacement and cannot be imported", func(_ *Manifest, x *Target) { x.Imports[1].Symbol = "tiny" }},

		{"writes: has 0 entries", func(_ *Manifest, x *Target) { x.Writes = nil }},
		{"writes[0].function: 3 is not within 0 to 2", func(_ *Manifest, x *Target) { x.Writes[0].Function = 3 }},
		{"writes[0].function: -1 is not", func(_ *Manifest, x *Target) { x.Writes[0].Function = -1 }},
		{"writes[0].length: 0 is not", func(_ *Manifest, x *Target) { x.Writes[0].Length = 0 }},
		{"writes[0].length: 65 is not", func(_ *Manifest, x *Target) { x.Writes[0].Length = 65 }},
		{"writes[0].expected: has 5 bytes, not 6", func(_ *Manifest, x *Target) { x.Writes[0].Length = 6 }},
		{"writes[0].template: has 4 bytes, not 5", func(_ *Manifest, x *Target) { x.Writes[0].Template = fill(4, 0) }},
		{"writes[0].expected: 5648 contradicts the site's 55", func(_ *Manifest, x *Target) {
			x.Writes[0] = Write{Address: 0x1404, Length: 2, Expected: Hex{0x56, 0x48}, Template: Hex{0, 0}}
			x.Functions[0].Site.Expected = Hex{0x55, 0x48}
		}},
		{"writes[0].address: 5 bytes at 0x147c are outside", func(_ *Manifest, x *Target) { x.Writes[0].Address = 0x147c }},
		{"writes[0].address: 5 bytes at 0x12ff are outside", func(_ *Manifest, x *Target) { x.Writes[0].Address = 0x1400 - MaxFront - 1 }},
		{"writes[2]: overlaps write 1", func(_ *Manifest, x *Target) { x.Writes[1].Address++ }},
		{"1 belong to functions[1]; strategy \"filler\" takes 2", func(_ *Manifest, x *Target) { x.Writes = append(x.Writes[:1], x.Writes[2:]...) }},
		{"0 belong to functions[0]; strategy \"near\" takes 1", func(_ *Manifest, x *Target) { x.Writes = x.Writes[1:] }},
		{"writes[0].holes: is empty", func(_ *Manifest, x *Target) { x.Writes[0].Holes = nil }},
		{"holes[0].kind: \"rel64\" is not a hole of x86-64", func(_ *Manifest, x *Target) { x.Writes[0].Holes[0].Kind = "rel64" }},
		{"holes[0].kind: \"branch26\" is not a hole of x86-64", func(_ *Manifest, x *Target) { x.Writes[0].Holes[0].Kind = "branch26" }},
		{"holes[0].offset: 2 does not leave 4 bytes", func(_ *Manifest, x *Target) { x.Writes[0].Holes[0].Offset = 2 }},
		{"holes[0].offset: -1 does not", func(_ *Manifest, x *Target) { x.Writes[0].Holes[0].Offset = -1 }},
		{"holes[1].offset: 1 does not leave", func(_ *Manifest, x *Target) { x.Writes[0].Holes = append(x.Writes[0].Holes, x.Writes[0].Holes[0]) }},
		{"holes[0]: the template is not zero there", func(_ *Manifest, x *Target) { x.Writes[0].Template[4] = 1 }},
		{"holes[0].symbol: \"other\" is not the replacement", func(_ *Manifest, x *Target) { x.Writes[0].Holes[0].Symbol = "other" }},
		{"holes[0].symbol: is empty", func(_ *Manifest, x *Target) { x.Writes[0].Holes[0].Symbol = "" }},
	} {
		t.Run(tc.want, func(t *testing.T) {
			m := sample()
			tc.edit(m, &m.Targets[0])
			expectProblem(t, m, tc.want)
		})
	}
}

func TestValidateRefusesARM(t *testing.T) {
	for _, tc := range []struct {
		want string
		edit func(*Target)
	}{
		{`"filler" is not a strategy of arm64`, func(x *Target) { x.Functions[0].Strategy = "filler" }},
		{`"rel32" is not a hole of arm64`, func(x *Target) { x.Writes[0].Holes[0].Kind = "rel32" }},
		{"whole number of arm64 instructions", func(x *Target) { x.Writes[0].Address += 2 }},
		{"the template is not zero there", func(x *Target) { x.Writes[0].Template[3] = 0x15 }},
		{"the template is not zero there", func(x *Target) { x.Writes[0].Template[0] = 1 }},
		{"symbol: is empty", func(x *Target) { x.Writes[0].Holes[0].Symbol = "" }},
		{"strategy \"near\" takes 1", func(x *Target) { x.Functions[0].Strategy = "near"; x.Writes = append(x.Writes, x.Writes[0]) }},
	} {
		t.Run(tc.want, func(t *testing.T) {
			m := both()
			tc.edit(&m.Targets[1])
			expectProblem(t, m, tc.want)
		})
	}
}

func expectProblem(t *testing.T, m *Manifest, want string) {
	t.Helper()
	err := m.Validate()
	var invalid *InvalidError
	if !errors.As(err, &invalid) {
		t.Fatalf("error %v, want an InvalidError", err)
	}
	for _, p := range invalid.Problems {
		if strings.Contains(p.Where+": "+p.Text, want) {
			return
		}
	}
	t.Errorf("problems %v, want one with %q", invalid.Problems, want)
}

func TestInvalidErrorIsShort(t *testing.T) {
	m := sample()
	for range 100 {
		m.Targets[0].Imports = append(m.Targets[0].Imports, Import{})
	}
	text := m.Validate().Error()
	if !strings.Contains(text, "more") || strings.Count(text, ";") != maxProblems {
		t.Errorf("error lists %d problems: %.200s", strings.Count(text, ";"), text)
	}
}
