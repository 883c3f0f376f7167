package live

// Functions that calls reach through a record (dispatch slot). The record is in
// memory of a patch, the host, whose redirects lead to a handler and stay when
// the patch goes: what is called is then a matter of data. A record has several
// columns, each with a destination; one byte of the host says which of them the
// handler takes. Column 0 leads on in the old body and is never written. A change
// writes all destinations into a column that is not in use, and then the byte, so
// that all functions of the host change at once, also while threads run.

// Columns is the number of destinations in a record.
const Columns = 4

// ownColumn holds the host's own replacements, from the beginning. It is not
// written, so that two others are left, of which one at least is not in use.
const ownColumn = 1

// A Slot is a function that a patch replaces by way of a record.
type Slot struct {
	Function int    // index into Functions
	Host     uint64 // base of the patch that has the record
	Record   uint64 // address of the record
}

// A Host is a patch whose redirects lead to its handler, and the column that
// this takes.
type Host struct {
	*Record
	Column uint8
}

// Hosts reports whether the patch has a handler and records of its own.
func (r *Record) Hosts() bool { return r.Index != 0 }

// Own are the functions for which a patch has records of its own.
func (r *Record) Own() (list []Slot) {
	for _, s := range r.Slots {
		if s.Host == r.Base {
			list = append(list, s)
		}
	}
	return list
}

// Slot returns how a function of a patch is redirected by a record; nil if it is
// not.
func (r *Record) Slot(function int) *Slot {
	for i := range r.Slots {
		if r.Slots[i].Function == function {
			return &r.Slots[i]
		}
	}
	return nil
}

// A Cell is what the record of one function of a host holds.
type Cell [Columns]uint64

// Column returns the column that a host takes when a set of patches is applied,
// and what has to be written into it before; nil if it holds that. The cells are
// those of its own slots in their order; column is the one it takes now.
//
// Calls of a function whose entry leads elsewhere, by a redirect of another kind
// over that of the host, do not come here: its destination stays what it is.
func (s Set) Column(host *Record, column uint8, cells []Cell) (next uint8, fill []uint64) {
	top := tops(s.Applied)
	want := make([]uint64, len(cells))
	for i, slot := range host.Own() {
		v, ok := top[host.Functions[slot.Function].Old]
		switch own := ok && v.record.Slot(v.function) != nil; {
		case !ok:
			want[i] = cells[i][0]
		case own:
			want[i] = v.record.Functions[v.function].New
		default:
			want[i] = cells[i][column]
		}
	}
	for _, k := range []uint8{column, 0, 1, 2, 3} {
		if matches(cells, k, want) {
			return k, nil
		}
	}
	if next = ownColumn + 1; next == column {
		next++
	}
	return next, want
}

func matches(cells []Cell, column uint8, want []uint64) bool {
	for i := range cells {
		if cells[i][column] != want[i] {
			return false
		}
	}
	return true
}
