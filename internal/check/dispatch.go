package check

import (
	"bytes"
	"debug/elf"
	"fmt"

	"livepatch/elfpatch"
	"livepatch/manifest"
	"livepatch/trampoline"
)

// Memory is a target with a payload beside it: a file laid out, or a process.
type Memory struct {
	Machine elf.Machine
	Bias    uint64                                   // of the target
	Old     func(addr uint64, n int) []byte          // target as it was before the writes; nil if it has no such bytes
	Read    func(addr uint64, n int) []byte          // all of it after the writes
	Symbol  func(name string) (addr uint64, ok bool) // of the payload
}

// Dispatch checks what stands between the redirects of a target and its
// replacements: every redirect is followed to its piece, and every piece is
// made anew from the old code and compared, byte by byte, so that what is there
// leads to the replacement, and to nothing but the old body before that.
func Dispatch(t *manifest.Target, m Memory) error {
	way := trampoline.Dispatch(t.Dispatch())
	if way == "" {
		return nil
	}
	d := dispatched{target: t, m: m, way: way}
	list, plans, err := d.redirected()
	if err != nil {
		return err
	}
	pieces, err := trampoline.Pieces(m.Machine, way, list, plans)
	if err != nil {
		return err
	}
	if len(pieces) != len(t.Pieces) {
		return fmt.Errorf("%d pieces for dispatch %s, not %d", len(t.Pieces), way, len(pieces))
	}
	for _, p := range pieces {
		if err := d.piece(p); err != nil {
			return fmt.Errorf("%s of function %d: %w", p.Name.Kind, p.Name.Function, err)
		}
	}
	for _, f := range list {
		if err := d.entry(f); err != nil {
			return fmt.Errorf("%s: %w", t.Functions[f.Index].Name, err)
		}
	}
	return nil
}

type dispatched struct {
	target *manifest.Target
	m      Memory
	way    trampoline.Dispatch
}

// redirected lists the functions that are not direct, and their writes as plans.
func (d *dispatched) redirected() (list []trampoline.Redirected, plans []trampoline.Plan, err error) {
	for i := range d.target.Functions {
		f := &d.target.Functions[i]
		if f.Dispatch == "" {
			continue
		}
		n := f.Address + f.Size - f.Site.Address
		body := d.m.Old(d.m.Bias+f.Site.Address, int(n))
		if uint64(len(body)) != n {
			return nil, nil, fmt.Errorf("%s: no code at its site", f.Name)
		}
		list = append(list, trampoline.Redirected{Body: body, Site: trampoline.Site{Addr: f.Site.Address}, Index: i})
		plan := trampoline.Plan{Machine: d.m.Machine, Strategy: trampoline.Strategy(f.Strategy)}
		for _, w := range d.target.Writes {
			if w.Function == i {
				plan.Writes = append(plan.Writes, trampoline.Template{Addr: w.Address, Bytes: w.Template})
			}
		}
		plans = append(plans, plan)
	}
	return list, plans, nil
}

// at is the address of a place.
func (d *dispatched) at(p trampoline.Place) (uint64, error) {
	name := ""
	switch p.Kind {
	case trampoline.InTarget:
		return d.m.Bias + p.Addr, nil
	case trampoline.Replacement:
		name = d.target.Functions[p.Function].Replacement
	default:
		for _, q := range d.target.Pieces {
			if q.Kind == string(p.Kind) && q.Function == p.Function {
				name = q.Symbol
			}
		}
	}
	addr, ok := d.m.Symbol(name)
	if !ok {
		return 0, fmt.Errorf("the payload has no %s %q", p.Kind, name)
	}
	return addr, nil
}

func (d *dispatched) piece(p trampoline.Piece) error {
	addr, err := d.at(p.Name)
	if err != nil {
		return err
	}
	want := bytes.Clone(p.Bytes)
	for _, r := range p.Refs {
		to, err := d.at(r.To)
		if err == nil {
			err = elfpatch.ApplyReloc(d.m.Machine, r.Type, want[r.Off:], addr+uint64(r.Off), to, r.Addend)
		}
		if err != nil {
			return err
		}
	}
	have := d.m.Read(addr, len(want))
	if p.Name.Kind == trampoline.Version && len(have) == 1 {
		have[0] = 0 // it may have been switched
	}
	if !bytes.Equal(have, want) {
		return fmt.Errorf("%x at %#x, not %x", have, addr, want)
	}
	return nil
}

// entry follows the redirect of a function.
func (d *dispatched) entry(f trampoline.Redirected) error {
	to := trampoline.Place{Kind: trampoline.Handler}
	for _, p := range d.target.Pieces {
		if p.Kind == manifest.PieceEntry && p.Function == f.Index {
			to = trampoline.Place{Kind: trampoline.Entry, Function: f.Index}
		}
	}
	want, err := d.at(to)
	if err != nil {
		return err
	}
	got, record, ok := trampoline.FollowDispatch(d.m.Machine, d.way, d.m.Bias+f.Site.Addr, d.m.Read)
	if !ok || got != want {
		return fmt.Errorf("the writes lead to %#x, not to its %s at %#x", got, to.Kind, want)
	}
	if d.way != trampoline.Slot {
		return nil
	}
	want, err = d.at(trampoline.Place{Kind: trampoline.Record, Function: f.Index})
	if err == nil && record != want {
		err = fmt.Errorf("the word before it holds %#x, not its record's %#x", record, want)
	}
	return err
}
