package manifest

import (
	"strings"
	"testing"
)

// gated is a manifest with two gated functions and a direct one.
func gated() *Manifest {
	m := sample()
	t := &m.Targets[0]
	for i, symbol := range []string{"bar@gate", "tiny@gate"} {
		t.Functions[i].Dispatch = DispatchGated
		t.Pieces = append(t.Pieces, Piece{PieceEntry, symbol, i})
		t.Writes[i].Holes[0].Symbol = symbol
	}
	t.Pieces = append(t.Pieces, Piece{Kind: PieceVersion, Symbol: "version"})
	return m
}

// slot is the third function of the sample, by its word.
func slot() *Manifest {
	m := sample()
	t := &m.Targets[0]
	f := &t.Functions[2]
	f.Dispatch, f.Strategy, f.Site.Expected = DispatchSlot, "slot", fill(5, 0x90)
	t.Writes[3] = Write{Function: 2, Address: 0x1ff8, Length: 8, Expected: fill(8, 0x90), Template: fill(8, 0), Holes: []Hole{{0, "abs64", "distant@record"}}}
	t.Writes = append(t.Writes, Write{Function: 2, Address: 0x2000, Length: 5, Expected: fill(5, 0x90), Template: Hex{0xe8, 0, 0, 0, 0}, Holes: []Hole{{1, "rel32", "handler"}}})
	t.Pieces = []Piece{{PieceHandler, "handler", 0}, {PieceRecord, "distant@record", 2}, {PieceVersion, "version", 0}}
	return m
}

func TestDispatchIsAccepted(t *testing.T) {
	s := compileSchema(t)
	for name, m := range map[string]*Manifest{"gated": gated(), "slot": slot()} {
		b, err := Encode(m)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := conforms(t, s, b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if d, v := m.Targets[0].Dispatch(), m.Targets[0].Version(); d != name || v != "version" {
			t.Errorf("%s: dispatch %q, version %q", name, d, v)
		}
	}
	if m := sample(); m.Targets[0].Dispatch() != "" || m.Targets[0].Version() != "" {
		t.Error("the sample is not direct")
	}
}

func TestDispatchIsRefused(t *testing.T) {
	for _, tt := range []struct {
		name string
		of   func() *Manifest
		edit func(t *Target)
		want string
	}{
		{"unknown", gated, func(t *Target) { t.Functions[0].Dispatch = "x" }, "targets[0].functions[0].dispatch"},
		{"two", gated, func(t *Target) { t.Functions[1].Dispatch = DispatchShared }, `functions[1] has dispatch "shared", another has "gated"`},
		{"strategy", slot, func(t *Target) { t.Functions[2].Strategy = "near" }, `"near" does not go with dispatch "slot"`},
		{"strategy alone", sample, func(t *Target) { t.Functions[0].Strategy = "slot" }, `"slot" does not go with dispatch ""`},
		{"no version", gated, func(t *Target) { t.Pieces = t.Pieces[:2] }, "lacks the version of functions[0]"},
		{"no entry", gated, func(t *Target) { t.Pieces = t.Pieces[1:] }, "lacks the entry of functions[0]"},
		{"no record", slot, func(t *Target) { t.Pieces[1] = t.Pieces[2]; t.Pieces = t.Pieces[:2] }, "lacks the record of functions[2]"},
		{"twice", gated, func(t *Target) { t.Pieces[1].Function = 0 }, "pieces[1]: is there twice"},
		{"of another dispatch", gated, func(t *Target) { t.Pieces[2].Kind = PieceTable }, `"table" is no piece of dispatch "gated"`},
		{"of a direct function", gated, func(t *Target) { t.Pieces[1].Function = 2 }, "functions[2] is direct"},
		{"function", gated, func(t *Target) { t.Pieces[1].Function = 3 }, "3 is not within 0 to 2"},
		{"function of none", gated, func(t *Target) { t.Pieces[2].Function = 1 }, "pieces[2].function"},
		{"direct with pieces", sample, func(t *Target) { t.Pieces = []Piece{{Kind: PieceVersion, Symbol: "v"}} }, `"version" is no piece of dispatch ""`},
		{"symbol", gated, func(t *Target) { t.Pieces[2].Symbol = "tiny@gate" }, `"tiny@gate" is a replacement, an import or another piece`},
		{"past its entry", gated, func(t *Target) { t.Writes[0].Holes[0].Symbol = "foo::bar" }, `"foo::bar" is no piece that a redirect of functions[0] leads to`},
		{"to another's", gated, func(t *Target) { t.Writes[0].Holes[0].Symbol = "tiny@gate" }, `"tiny@gate" is no piece that a redirect of functions[0] leads to`},
		{"to the version", gated, func(t *Target) { t.Writes[0].Holes[0].Symbol = "version" }, `"version" is no piece that a redirect`},
	} {
		m := tt.of()
		tt.edit(&m.Targets[0])
		if err := m.Validate(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
}
