package live

import (
	"bytes"
	"testing"
)

// sites is memory that holds the places of record() and what stands there.
func sites(first, second []byte) memory {
	m := memory{0x555555555000, make([]byte, 0x1000)}
	copy(m.b[0x104:], first)
	copy(m.b[0x200:], second)
	return m
}

func TestFound(t *testing.T) {
	r := record()
	old1, new1, old2, new2 := r.Writes[0].Old, r.Writes[0].New, r.Writes[1].Old, r.Writes[1].New
	torn := append(bytes.Clone(new1[:2]), old1[2:]...)
	for _, tc := range []struct {
		name          string
		state         State
		first, second []byte
		want          string
		written       int
		active        bool
	}{
		{"prepared", Preparing, old1, old2, "preparing", 0, false},
		{"prepared, then the sites were changed", Preparing, []byte("other"), []byte("xx"), "preparing", 0, false},
		{"cut after the first", Preparing, new1, old2, "interrupted 1 of 2", 1, true},
		{"cut in the first", Preparing, torn, old2, "interrupted 1 of 2", 1, true},
		{"cut after the last", Preparing, new1, new2, "interrupted 2 of 2", 2, true},
		{"cut, then overwritten", Preparing, new1, []byte("xx"), "interrupted 1 of 2, 1 overwritten", 1, true},
		{"applied", Applied, new1, new2, "applied", 2, true},
		{"applied, then overwritten", Applied, new1, []byte("xx"), "applied, 1 overwritten", 1, true},
		{"revert cut after the first", Applied, new1, old2, "interrupted 1 of 2", 1, true},
		{"revert cut after the last", Applied, old1, old2, "interrupted 0 of 2", 0, true},
		{"reverted", Reverted, old1, old2, "reverted", 0, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := record()
			r.State = tc.state
			f := &Look(sites(tc.first, tc.second), []*Record{r})[0]
			if f.Report().Condition() != tc.want || f.Written() != tc.written || f.Active() != tc.active {
				t.Errorf("%s, %d written, active %v", f.Report().Condition(), f.Written(), f.Active())
			}
			if _, ok := f.Owns(r.Functions[1].Old, 1); ok != tc.active {
				t.Errorf("owns its function: %v", ok)
			}
			report := f.Report()
			if report.Writes != 2 || report.Written != tc.written || (report.State == "interrupted") != f.Interrupted() {
				t.Errorf("report %+v", report)
			}
		})
	}
}

// The short jump of a filler has the same bytes in every patch: what an applied
// patch wrote is not taken for a write of one that was given up.
func TestFoundBesideApplied(t *testing.T) {
	given := record()
	given.State = Preparing
	r := record()
	r.Base += 0x10000
	list := Look(sites(r.Writes[0].New, r.Writes[1].New), []*Record{given, r})
	if list[0].Interrupted() || !list[1].Active() || list[1].Interrupted() {
		t.Errorf("%s and %s", list[0].State, list[1].State)
	}
}

func TestFoundUnreadable(t *testing.T) {
	f := &Look(memory{}, []*Record{record()})[0]
	if f.Report().Condition() != "applied, 2 overwritten" || f.Places[0].Have != nil {
		t.Errorf("%+v", f.Report())
	}
}

func TestPristine(t *testing.T) {
	r := record()
	m := sites(r.Writes[0].New, r.Writes[1].New)
	want := sites(r.Writes[0].Old, r.Writes[1].Old)
	p := Pristine(m, Look(m, []*Record{r}))
	for _, span := range [][2]int{{0, 0x1000}, {0x100, 0x106}, {0x106, 0x201}, {0x108, 0x109}, {0x201, 0x210}, {0x300, 0x310}} {
		b := make([]byte, span[1]-span[0])
		if n, err := p.ReadAt(b, int64(m.base)+int64(span[0])); n != len(b) || err != nil {
			t.Fatal(n, err)
		}
		if !bytes.Equal(b, want.b[span[0]:span[1]]) {
			t.Errorf("%#x to %#x: %x", span[0], span[1], b)
		}
	}
}
