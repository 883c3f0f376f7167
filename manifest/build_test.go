package manifest

import (
	"strings"
	"testing"
)

// sampleBuild is a record with everything in it.
func sampleBuild() *Build {
	return &Build{
		Description: "check the length of a name", Version: "2", CVE: []string{"CVE-2024-1234", "CVE-2026-1234567"},
		Compiler: "gcc (Debian 12.2.0-14+deb12u1) 12.2.0",
		Inputs: []Input{
			{Role: "patch", Name: "fix.patch", SHA256: fill(32, 1)}, {Role: "before", Name: "net/foo.o", SHA256: fill(32, 2)},
			{Role: "after", Name: "net/foo.o", SHA256: fill(32, 3)}, {Role: "target", Name: "server", SHA256: fill(32, 4)},
		},
		Units:  []Unit{{Source: "net/foo.c", Object: "foo.o", Flags: []string{"-O2", "-g"}}, {Source: "net/bar.c", Object: "bar.o"}},
		Proofs: []Proof{{Object: "foo.o", Function: "foo", Target: "prog", Address: 0x1400, Size: 0x80, Masked: []Masked{{"relocation", 4}}}},
		Findings: []Finding{
			{Code: "lock-calls", Where: "foo.o: foo", Text: "it calls mutex_lock one time more", Allowed: true},
			{Code: "address-taken", Where: "foo.o: bar", Text: "its address is taken"},
		},
	}
}

func TestBuildRoundTrip(t *testing.T) {
	for _, m := range []*Manifest{sample(), sampleKernel()} {
		m.Build = sampleBuild()
		b, err := Encode(m)
		if err != nil {
			t.Fatal(err)
		}
		if err := conforms(t, compileSchema(t), b); err != nil {
			t.Error(err)
		}
		got, err := Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Encode(got)
		if err != nil || string(again) != string(b) {
			t.Errorf("read and written again it differs (%v)", err)
		}
		if len(got.Build.Findings) != 2 || !got.Build.Findings[0].Allowed || got.Build.Findings[1].Allowed {
			t.Errorf("findings: %+v", got.Build.Findings)
		}
	}
}

func TestBuildInvalid(t *testing.T) {
	tests := map[string]func(*Build){
		"build.cve[0]":                     func(b *Build) { b.CVE[0] = "2024-1234" },
		"build.cve[1]":                     func(b *Build) { b.CVE[1] = "CVE-2024-12x4" },
		"build.inputs[0].role":             func(b *Build) { b.Inputs[0].Role = "image" },
		"build.inputs[1].name":             func(b *Build) { b.Inputs[1].Name = "" },
		"build.inputs[2].sha256":           func(b *Build) { b.Inputs[2].SHA256 = b.Inputs[2].SHA256[:31] },
		"build.inputs: are not":            func(b *Build) { b.Inputs[0], b.Inputs[3] = b.Inputs[3], b.Inputs[0] },
		"build.units[0].object":            func(b *Build) { b.Units[0].Object = "net/foo.o" },
		"build.units[0].flags[1]":          func(b *Build) { b.Units[0].Flags[1] = "\x1b[31m" },
		"build.units[1].source":            func(b *Build) { b.Units[1].Source = "" },
		"build.proofs[0].target":           func(b *Build) { b.Proofs[0].Target = "" },
		"build.proofs[0]: ":                func(b *Build) { b.Proofs[0].Size = 1<<64 - 1 },
		"build.proofs[0].masked[0].count":  func(b *Build) { b.Proofs[0].Masked[0].Count = 0 },
		"build.findings[0].code":           func(b *Build) { b.Findings[0].Code = "" },
		"build.findings[1].text":           func(b *Build) { b.Findings[1].Text = "\u202e" },
		"build.description: has 4097 byte": func(b *Build) { b.Description = strings.Repeat("a", 4097) },
	}
	for want, change := range tests {
		m := sample()
		m.Build = sampleBuild()
		change(m.Build)
		if err := m.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
}

func TestSortInputs(t *testing.T) {
	list := []Input{{Role: "target"}, {Role: "before", Name: "b"}, {Role: "patch"}, {Role: "before", Name: "a"}}
	SortInputs(list)
	for i, want := range []string{"patch", "before b", "before a", "target"} {
		if got := strings.TrimSpace(list[i].Role + " " + list[i].Name); got != want {
			t.Errorf("input %d is %s, want %s", i, got, want)
		}
	}
}
