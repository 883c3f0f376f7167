package build

import (
	"os"
	"strings"
	"testing"

	"livepatch/elfpatch/match"
	"livepatch/manifest"
)

// The record of the caller gets a proof of each replaced function, and is not
// changed itself.
func TestRecordOfProofs(t *testing.T) {
	for name, want := range map[string]string{
		"pie":   "relocation",
		"noplt": "relocation got-relaxation",
		"arm64": "relocation",
	} {
		t.Run(name, func(t *testing.T) {
			in := recipes[name].inputs(t, before, after, mainSource)
			in.Record = &manifest.Build{Version: "2"}
			p, err := Create(in)
			if err != nil {
				t.Fatal(err)
			}
			if len(in.Record.Proofs) != 0 {
				t.Error("the caller's record was changed")
			}
			b := p.Manifest.Build
			if b == nil || b.Version != "2" || len(b.Proofs) != 1 {
				t.Fatalf("record %+v", b)
			}
			f, proof := p.Manifest.Targets[0].Functions[0], b.Proofs[0]
			if proof.Function != "work" || proof.Object != "unit.o" || proof.Target != "prog" || proof.Address != f.Address || proof.Size != f.Size {
				t.Errorf("proof %+v of %+v", proof, f)
			}
			var kinds []string
			for _, m := range proof.Masked {
				kinds = append(kinds, m.Kind)
			}
			if got := strings.Join(kinds, " "); got != want {
				t.Errorf("masked %s, want %s", got, want)
			}
		})
	}
}

func TestNoRecord(t *testing.T) {
	p, err := Create(recipes["pie"].inputs(t, before, after, mainSource))
	if err != nil || p.Manifest.Build != nil {
		t.Errorf("record %+v, error %v", p.Manifest.Build, err)
	}
}

func TestMaskedKindsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/manifest.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(doc), "| masked kind |")
	for _, k := range match.Kinds() {
		if !strings.Contains(table, "`"+k.String()+"`") {
			t.Errorf("docs/manifest.md does not name the masked kind %s", k)
		}
	}
}
