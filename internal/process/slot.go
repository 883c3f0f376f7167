//go:build linux && (amd64 || arm64)

package process

import (
	"encoding/binary"
	"fmt"
	"slices"

	"livepatch/internal/live"
	"livepatch/internal/refusal"
	"livepatch/manifest"
	"livepatch/trampoline"
)

// Functions that calls reach through records: see internal/live/slot.go.

var _ [trampoline.Versions]byte = [live.Columns]byte{}

const cellSize = 8

// cell is one destination of one record.
type cell struct{ addr, to uint64 }

func (c cell) bytes() []byte { return binary.LittleEndian.AppendUint64(nil, c.to) }

// columns finds the hosts whose calls go elsewhere when the change is made: what
// their records have to hold, and the column that they take. Those that neither
// come nor go become members of the change.
func (x *part) columns() error {
	for _, m := range x.members {
		if m.fill != nil && m.was.State == live.Hosting {
			if err := x.p.keepRecords(m.record, m.fill); err != nil {
				return err
			}
		}
	}
	after := x.after()
	for _, h := range after.Hosts {
		now := h.Record.Column
		next, fill := after.Column(h.Record, now, x.cells(h.Record))
		i := slices.IndexFunc(x.members, func(m *member) bool { return m.record == h.Record })
		switch {
		case i >= 0:
		case next == now:
			continue
		default:
			i = len(x.members)
			x.members = append(x.members, &member{record: h.Record, was: h.Control, next: h.State, mapped: true, lent: true})
		}
		m := x.members[i]
		m.column = next
		for k, s := range h.Own() {
			if fill != nil {
				m.cells = append(m.cells, cell{s.Record + uint64(next)*cellSize, fill[k]})
			}
		}
	}
	return nil
}

// cells reads the records of a host. One that comes has them in its own memory.
func (x *part) cells(h *live.Record) []live.Cell {
	list := make([]live.Cell, len(h.Own()))
	start := h.Base + h.Sizes[partRead] + h.Sizes[partExec]
	for i, s := range h.Own() {
		b := make([]byte, live.Columns*cellSize)
		if data := x.comes(h); data != nil && s.Record-start < uint64(len(data)) {
			copy(b, data[s.Record-start:])
		} else {
			_ = x.p.readMem(b, s.Record) // zeros lead to a column that is written
		}
		for k := range list[i] {
			list[i][k] = binary.LittleEndian.Uint64(b[k*cellSize:])
		}
	}
	return list
}

// comes is the writable part of a patch that is not in force yet.
func (x *part) comes(h *live.Record) []byte {
	for _, m := range x.members {
		if m.record == h && m.was.State != live.Hosting {
			return m.data
		}
	}
	return nil
}

// setColumn notes the column that a host takes.
func (p *proc) setColumn(m *member) error {
	if !m.record.Hosts() {
		return nil
	}
	return p.writeVerified([]byte{m.column}, m.record.Base+live.ColumnOffset, p.anyThread())
}

// keepRecords makes what a host's writable part is to hold agree with what its
// records and its column are: others may be using them.
func (p *proc) keepRecords(r *live.Record, data []byte) error {
	start := r.Base + r.Sizes[partRead] + r.Sizes[partExec]
	if err := p.readMem(data[r.Index-start:][:1], r.Index); err != nil {
		return err
	}
	for _, s := range r.Own() {
		if err := p.readMem(data[s.Record-start:][:live.Columns*cellSize], s.Record); err != nil {
			return err
		}
	}
	return nil
}

// hostOf returns the patch whose handler a function's entry leads to, and its
// slot; nil if there is none.
func (p *proc) hostOf(old uint64) (*live.Record, live.Slot) {
	for _, h := range p.patches.Before().Hosts {
		for _, s := range h.Own() {
			if h.Functions[s.Function].Old == old {
				return h.Record, s
			}
		}
	}
	return nil, live.Slot{}
}

// hosted makes sure that the text of hosts that a change uses is what they wrote.
func (x *part) hosted() (list refusal.List) {
	set := x.p.patches.Before()
	for _, s := range live.Plan(live.Set{}, set) {
		if !slices.ContainsFunc(x.members, func(m *member) bool { return m.record == s.Record && m.lent }) {
			continue
		}
		s.Old = s.New
		list = append(list, x.p.sites(x.p.mem, []live.Step{s})...)
	}
	return list
}

// findSlots tells of each function with a record whose that is. Who comes first
// is host.
func (in *installation) findSlots() {
	in.record.Slots, in.hosted = nil, map[int]bool{}
	for i := range in.target.Functions {
		f := &in.target.Functions[i]
		if f.Dispatch != manifest.DispatchSlot {
			continue
		}
		slot := live.Slot{Function: i}
		if h, s := in.p.hostOf(in.record.Bias + f.Address); h != nil && (in.guest || !in.again(h)) {
			slot.Host, slot.Record, in.hosted[i] = h.Base, s.Record, true
		}
		in.record.Slots = append(in.record.Slots, slot)
	}
}

// again reports whether a patch is this one, of an earlier time.
func (in *installation) again(r *live.Record) bool {
	return r.Digest == in.record.Digest && r.Bias == in.record.Bias
}

// hostNone makes an installation that does not use the memory of a host of the
// same package a guest of it.
func (in *installation) hostNone() error {
	if in.guest || !slices.ContainsFunc(in.p.patches.Before().Hosts, func(h live.Host) bool { return in.again(h.Record) }) {
		return nil
	}
	in.guest = true
	in.findSlots()
	in.record.Writes = in.ownWrites()
	var err error
	if in.layout, err = layOut(in.layout.obj, uint64(len(in.record.Encode())), in.spare()); err != nil {
		return refusal.New(refusal.Unsupported, in.target.Name, "%v", err)
	}
	in.record.Sizes = in.layout.sizes
	in.window = in.layout.needs(in.sites(), in.imports)
	return nil
}

// placePieces fills in the addresses of what the record names in the payload.
func (in *installation) placePieces() error {
	hosts := false
	for i := range in.record.Slots {
		if s := &in.record.Slots[i]; !in.hosted[s.Function] {
			s.Host, hosts = in.record.Base, true
		}
	}
	for _, p := range in.target.Pieces {
		addr, size, ok := in.layout.symbol(p.Symbol, in.record.Base)
		switch {
		case !ok:
			return fmt.Errorf("the payload lacks %s", p.Symbol)
		case p.Kind == manifest.PieceVersion && in.target.Dispatch() != manifest.DispatchSlot:
			in.record.Writes[len(in.record.Writes)-1].Addr = addr
		case !hosts:
		case p.Kind == manifest.PieceVersion:
			in.record.Index = addr
		case p.Kind == manifest.PieceHandler && in.target.Dispatch() == manifest.DispatchSlot:
			in.record.Handler = live.Extent{Addr: addr, Size: size}
		case p.Kind == manifest.PieceRecord:
			for k := range in.record.Slots {
				if s := &in.record.Slots[k]; s.Function == p.Function && !in.hosted[p.Function] {
					s.Record = addr
				}
			}
		}
	}
	return nil
}

// clearRecords takes the addresses out of the records that the payload has for
// functions which another patch hosts: nobody reads those, and who looks for
// addresses of the patch is not to find them.
func (in *installation) clearRecords() {
	start := in.record.Base + in.record.Sizes[partRead] + in.record.Sizes[partExec]
	for _, p := range in.target.Pieces {
		if p.Kind != manifest.PieceRecord || !in.hosted[p.Function] {
			continue
		}
		if addr, size, ok := in.layout.symbol(p.Symbol, in.record.Base); ok {
			clear(in.memory[partWrite][addr-start:][:size])
		}
	}
}

// divide sorts the steps of a change that is made while threads run: writes of
// data, each of one byte or of what nobody reads yet, and edits of code.
func (s *liveChange) divide() (edits []trampoline.Edit) {
	before, after := s.x.p.patches.Before(), s.x.after()
	for _, step := range s.x.steps {
		r := step.Record
		switch {
		case isWord(&step) && slices.ContainsFunc(after.Hosts, func(h live.Host) bool { return h.Record == r }):
			s.lead = append(s.lead, step)
		case isWord(&step):
			s.trail = append(s.trail, step)
		case step.Function == live.Whole && len(edits) == 0:
			s.lead = append(s.lead, step)
		case step.Function == live.Whole && !r.Hosts() && !slices.Contains(after.Applied, r):
			// A gate that nothing leads to any more stays open: a thread may be in it.
		case step.Function == live.Whole:
			s.trail = append(s.trail, step)
		default:
			edits = append(edits, trampoline.Edit{Addr: step.Addr, Old: step.Old, New: step.New, Landing: landing(&step, before, after)})
		}
	}
	return edits
}

// isWord reports whether a step writes the word before a function, which nobody
// executes, and which is read only by what the entry calls.
func isWord(s *live.Step) bool {
	return s.Function != live.Whole && s.Record.Slot(s.Function) != nil && len(s.New) == cellSize && s.Addr+cellSize <= s.Record.Functions[s.Function].Old
}

// landing is where a thread may go that meets the breakpoint of a redirect which
// is no jump: on in the old body, where a redirect with a record leads until the
// host is switched; else to the version that comes, or goes.
func landing(s *live.Step, before, after live.Set) uint64 {
	old := s.Record.Functions[s.Function].Old
	from, to := before.Top(old), after.Top(old)
	const call = 0xe8
	switch {
	case s.Record.Slot(s.Function) != nil && (from == nil || to == nil):
		return s.Addr + uint64(len(s.New))
	case to != nil && s.New[0] == call:
		return to.New
	case from != nil && s.Old[0] == call:
		return from.New
	}
	return 0
}
