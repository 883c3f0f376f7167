package live

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

// sites is memory that holds the places of record() and what stands there.
func sites(first, second []byte) memory {
	m := memory{0x555555555000, make([]byte, 0x1000)}
	copy(m.b[0x104:], first)
	copy(m.b[0x200:], second)
	return m
}

// active are the patches that may have a part in what runs.
func (p *Patches) active() []*Record {
	list := slices.Concat(p.Before().Applied, p.After().Applied)
	return slices.Compact(byAge(list))
}

func dead(Owner) bool { return false }

func TestLook(t *testing.T) {
	r := record()
	old1, new1, old2, new2 := r.Writes[0].Old, r.Writes[0].New, r.Writes[1].Old, r.Writes[1].New
	torn := append(bytes.Clone(new1[:2]), old1[2:]...)
	apply := Control{State: Preparing, Next: Applied, Prior: Preparing, Phase: Begun, Change: 77, Sequence: 1, Processes: 1}
	revert := Control{State: Applied, Next: Reverted, Prior: Applied, Phase: Begun, Change: 78, Sequence: 1, Processes: 1}
	over := Control{State: Preparing, Next: Applied, Prior: Preparing, Change: 77} // of a change that has ended
	for _, tc := range []struct {
		name          string
		control       Control
		first, second []byte
		want          string
		written       int
		active        bool
	}{
		{"prepared", Control{State: Preparing}, old1, old2, "preparing", 0, false},
		{"prepared, then the sites were changed", over, []byte("other"), []byte("xx"), "preparing", 0, false},
		{"begun", apply, old1, old2, "interrupted 0 of 2", 0, true},
		{"cut after the first", apply, new1, old2, "interrupted 1 of 2", 1, true},
		{"cut in the first", apply, torn, old2, "interrupted 1 of 2", 1, true},
		{"cut after the last", apply, new1, new2, "interrupted 2 of 2", 2, true},
		{"cut, then overwritten", apply, new1, []byte("xx"), "interrupted 1 of 2, 1 overwritten", 1, true},
		{"applied", Control{State: Applied}, new1, new2, "applied", 2, true},
		{"applied, then overwritten", Control{State: Applied}, new1, []byte("xx"), "applied, 1 overwritten", 1, true},
		{"ended but for the phase", Control{State: Applied, Next: Applied, Prior: Preparing, Phase: Committed, Change: 77}, new1, new2, "interrupted 2 of 2", 2, true},
		{"revert ended but for the phase", Control{State: Reverted, Next: Reverted, Prior: Applied, Phase: Committed, Change: 78}, old1, old2, "interrupted 2 of 2", 2, true},
		{"revert begun", revert, new1, new2, "interrupted 0 of 2", 0, true},
		{"revert cut after the first", revert, old1, new2, "interrupted 1 of 2", 1, true},
		{"revert cut after the last", revert, old1, old2, "interrupted 2 of 2", 2, true},
		{"reverted", Control{State: Reverted}, old1, old2, "reverted", 0, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := record()
			r.Control = tc.control
			p := Look(sites(tc.first, tc.second), []*Record{r})
			report := p.Reports(dead)[0]
			if report.Condition() != tc.want || report.Written != tc.written || len(p.active()) == 1 != tc.active {
				t.Errorf("%s, %d written, active %v", report.Condition(), report.Written, p.active())
			}
			if (p.Pending != nil) != strings.Contains(tc.want, "interrupted") {
				t.Errorf("pending %+v", p.Pending)
			}
		})
	}
}

func TestChangeReport(t *testing.T) {
	comes, goes := record(), record()
	comes.Name, comes.Base = "next", comes.Base+0x10000
	comes.Control = Control{State: Preparing, Next: Applied, Prior: Preparing, Phase: Committed, Change: 9, Processes: 3, Sequence: 8, Owner: Owner{PID: 12}}
	goes.Prior, goes.Next, goes.Change = Applied, Reverted, 9
	p := Look(sites(comes.Writes[0].New, comes.Writes[1].New), []*Record{goes, comes})
	got := p.Pending.Report(true)
	if got.Kind != "retarget" || got.Phase != "committed" || got.Processes != 3 || got.Loader != 12 || !got.Alive || len(got.Patches) != 2 {
		t.Errorf("%+v", got)
	}
	if state := p.Reports(func(o Owner) bool { return o.PID == 12 })[0].State; state != "changing" {
		t.Errorf("state %q while the loader lives", state)
	}
}

func TestLookUnreadable(t *testing.T) {
	p := Look(memory{}, []*Record{record()})
	if got := p.Reports(dead)[0].Condition(); got != "applied, 2 overwritten" || p.Places[0].Have != nil {
		t.Errorf("%s, %+v", got, p.Places)
	}
}

func TestPristine(t *testing.T) {
	r := record()
	m := sites(r.Writes[0].New, r.Writes[1].New)
	want := sites(r.Writes[0].Old, r.Writes[1].Old)
	p := Look(m, []*Record{r}).Pristine(m)
	for _, span := range [][2]int{{0, 0x1000}, {0x100, 0x106}, {0x106, 0x201}, {0x108, 0x109}, {0x201, 0x210}, {0x300, 0x310}} {
		b := make([]byte, span[1]-span[0])
		if n, err := p.ReadAt(b, int64(m.base)+int64(span[0])); n != len(b) || err != nil {
			t.Fatal(n, err)
		}
		if !bytes.Equal(b, want.b[span[0]:span[1]]) {
			t.Errorf("%#x to %#x: %x", span[0], span[1], b)
		}
	}
	m.b[0x200] = 0xcc
	b := make([]byte, 1)
	if _, err := Look(m, []*Record{r}).Pristine(m).ReadAt(b, 0x555555555200); err != nil || b[0] != 0xcc {
		t.Errorf("what somebody else has written is %x, %v", b, err)
	}
}

// Redirects of different lengths in one place: what the later step of a plan found
// there is not what the file holds.
func TestPristineBeneath(t *testing.T) {
	m := sites([]byte{0x17, 2, 3, 4, 0x21, 0x22, 0x23, 0x24}, nil)
	at := m.base + 0x104
	host := &Record{Control: Control{State: Hosting, Sequence: 1}, Index: 0x1800, Functions: []Function{{Name: "f", Old: at, OldSize: 0x40}}, Base: 0x1000, Sizes: [3]uint64{0x400, 0x400, 0x400},
		Slots: []Slot{{0, 0x1000, 0x1810}}, Writes: []Write{{Function: 0, Addr: at, Old: make([]byte, 8), New: []byte{0x11, 0x12, 0x13, 0x14, 0x21, 0x22, 0x23, 0x24}}}}
	direct := &Record{Control: Control{State: Applied, Sequence: 2}, Functions: host.Functions, Base: 0x2000, Sizes: host.Sizes,
		Writes: []Write{{Function: 0, Addr: at, Old: make([]byte, 4), New: []byte{0x17, 2, 3, 4}}}}
	b := make([]byte, 8)
	if _, err := Look(m, []*Record{host, direct}).Pristine(m).ReadAt(b, int64(at)); err != nil || !bytes.Equal(b, make([]byte, 8)) {
		t.Errorf("% x, %v", b, err)
	}
}
