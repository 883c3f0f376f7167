package live

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
)

// slotted is a patch of functions f, g and h that are reached through records: its
// own, or those of a host.
func slotted(name string, sequence uint64, functions string, host *Record) *Record {
	r := &Record{Control: Control{State: Applied, Sequence: sequence}, Name: name, Digest: [32]byte{byte(sequence)}, Base: 0x1000 * sequence, Sizes: [3]uint64{0x400, 0x400, 0x400}}
	r.Handler = Extent{r.Base + 0x7c0, 0x40}
	for i, letter := range functions {
		entry := map[rune]uint64{'f': 0x100, 'g': 0x200, 'h': 0x300}[letter]
		r.Functions = append(r.Functions, Function{Name: string(letter), Old: entry, OldSize: 0x40, New: r.Base + 0x400 + uint64(i)*0x40, NewSize: 0x20})
		if host != nil {
			for _, s := range host.Own() {
				if host.Functions[s.Function].Old == entry {
					r.Slots = append(r.Slots, Slot{i, host.Base, s.Record})
				}
			}
			continue
		}
		record := r.Base + 0x810 + uint64(i)*0x20
		r.Slots = append(r.Slots, Slot{i, r.Base, record})
		r.Index = r.Base + 0x800
		r.Writes = append(r.Writes,
			Write{Function: i, Addr: entry - 8, Old: []byte{1, 2, 3, 4, 5, 6, 7, 8}, New: binary.LittleEndian.AppendUint64(nil, record)},
			Write{Function: i, Addr: entry, Old: []byte{9, 9, 9, 9, 9}, New: []byte{0xe8, byte(sequence), 0, 0, 0}})
	}
	return r
}

// A machine has the text of a process and the records of its hosts.
type machine struct {
	text  text
	hosts []*Record
	cells map[*Record][]Cell
}

// load puts in memory what a patch brings along.
func (m *machine) load(list ...*Record) {
	for _, r := range list {
		for _, w := range r.Writes {
			m.text.put(w.Addr, w.Old)
		}
		if !r.Hosts() {
			continue
		}
		m.hosts = append(m.hosts, r)
		m.text.put(r.Index, []byte{0})
		cells := make([]Cell, len(r.Own()))
		for i, s := range r.Own() {
			cells[i] = Cell{r.Functions[s.Function].Old + 5, r.Functions[s.Function].New}
		}
		m.cells[r] = cells
	}
}

// call returns where a call of a function ends.
func (m *machine) call(entry uint64) string {
	code := m.text.get(entry, 5)
	switch code[0] {
	case 0xe9:
		return fmt.Sprintf("jump %d", code[1])
	case 9:
		return "old"
	}
	word := binary.LittleEndian.Uint64(m.text.get(entry-8, 8))
	for _, h := range m.hosts {
		for i, s := range h.Own() {
			if h.Base == 0x1000*uint64(code[1]) && s.Record == word {
				to := m.cells[h][i][m.text[h.Index]]
				if to == entry+5 {
					return "old"
				}
				return fmt.Sprintf("slot %#x", to)
			}
		}
	}
	return fmt.Sprintf("nowhere: %x, %#x", code, word)
}

// From every set of patches to every other one, through records or not: each
// function is old or new at every step, and what hosts is never written twice.
func TestPlanOfSlots(t *testing.T) {
	a := slotted("a", 1, "fg", nil)
	h := slotted("h", 5, "h", nil)
	direct := patchOf("direct", 3, "f")
	for i := range direct.Writes {
		direct.Writes[i].Old = []byte{9, 9, 9, 9, 9}
	}
	all := []*Record{a, slotted("b", 2, "gf", a), direct, slotted("d", 4, "g", a), h}
	entries := []uint64{0x100, 0x200, 0x300}
	m := machine{text: text{}, cells: map[*Record][]Cell{}}
	m.load(all...)
	var hosts []Host
	now := Set{}
	visits := 0
	move := func(bits int) {
		after := Set{}
		for i, r := range all {
			if bits>>i&1 != 0 {
				after.Applied = append(after.Applied, r)
			}
		}
		installed := slices.Clone(hosts)
		for _, r := range []*Record{a, h} {
			is := slices.ContainsFunc(installed, func(o Host) bool { return o.Record == r })
			if !is && (slices.Contains(after.Applied, r) || r == a) { // the others are made for a as their host
				installed = append(installed, Host{r, 0})
			}
		}
		for _, host := range installed {
			column, fill := after.Column(host.Record, host.Column, m.cells[host.Record])
			for i, to := range fill {
				if column == 0 || column == host.Column {
					t.Fatalf("column %d is written while %d is taken", column, host.Column)
				}
				m.cells[host.Record][i][column] = to
			}
			after.Hosts = append(after.Hosts, Host{host.Record, column})
		}
		var begin, end []string
		for _, e := range entries {
			begin = append(begin, m.call(e))
		}
		done := machine{text{}, m.hosts, m.cells}
		for addr, b := range m.text {
			done.text[addr] = b
		}
		steps := Plan(now, after)
		for _, s := range steps {
			done.text.put(s.Addr, s.New)
		}
		for _, e := range entries {
			end = append(end, done.call(e))
		}
		top := tops(after.Applied)
		for i, e := range entries {
			v, ok := top[e]
			want := "old"
			switch {
			case ok && v.record == direct:
				want = "jump 3"
			case ok:
				want = fmt.Sprintf("slot %#x", v.record.Functions[v.function].New)
			}
			if end[i] != want {
				t.Fatalf("to %05b: function %d leads to %s, not %s", bits, i, end[i], want)
			}
		}
		for _, s := range steps {
			if !slices.Equal(m.text.get(s.Addr, len(s.Old)), s.Old) {
				t.Fatalf("step at %#x expects %x", s.Addr, s.Old)
			}
			if slices.ContainsFunc(now.Hosts, func(h Host) bool { return h.Record == s.Record }) && s.Function != Whole && len(now.Applied) > 0 && s.New[0] != 0xe8 && s.New[0] != 0xe9 {
				t.Fatalf("step at %#x writes %x over a site that stays", s.Addr, s.New)
			}
			m.text.put(s.Addr, s.New)
			for i, e := range entries {
				if to := m.call(e); to != begin[i] && to != end[i] {
					t.Fatalf("to %05b: function %d leads to %s on the way from %s to %s", bits, i, to, begin[i], end[i])
				}
			}
		}
		now, hosts = after, after.Hosts
		visits++
	}
	for from := range 1 << len(all) {
		for to := range 1 << len(all) {
			move(from)
			move(to)
		}
	}
	if visits != 2048 {
		t.Errorf("%d changes", visits)
	}
	for _, s := range Plan(now, Set{}) {
		m.text.put(s.Addr, s.New)
	}
	for _, r := range all {
		for _, w := range r.Writes {
			if !slices.Equal(m.text.get(w.Addr, len(w.Old)), w.Old) {
				t.Errorf("%#x holds %x when all is gone", w.Addr, m.text.get(w.Addr, len(w.Old)))
			}
		}
	}
}

// What slots say of themselves survives, and what contradicts itself is refused.
func TestSlotsInRecord(t *testing.T) {
	r := slotted("a", 1, "fg", nil)
	r.State, r.Column, r.NextCol, r.PriorCol = Hosting, 2, 3, 1
	got, err := Decode(r.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if got.Control != r.Control || !slices.Equal(got.Slots, r.Slots) || got.Index != r.Index || got.Handler != r.Handler {
		t.Errorf("%+v", got)
	}
	for name, spoil := range map[string]func(r *Record){
		"a column that is none": func(r *Record) { r.NextCol = Columns },
		"no such function":      func(r *Record) { r.Slots[1].Function = 2 },
		"a record at the end":   func(r *Record) { r.Slots[0].Record = ^uint64(0) - 3 },
		"an endless handler":    func(r *Record) { r.Handler.Size = ^uint64(0) },
	} {
		r := slotted("a", 1, "fg", nil)
		spoil(r)
		if _, err := Decode(r.Encode()); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}
