//go:build linux && (amd64 || arm64)

package process

import (
	"debug/elf"
	"errors"
	"fmt"
	"slices"

	"livepatch/elfpatch"
	"livepatch/internal/live"
	"livepatch/internal/resolve"
	"livepatch/internal/unwind"
)

// A word on a stack that looks like a return address may be one that was left
// there by a call which is over. A thread that always waits at the same depth
// leaves it there for good. So, when words have kept a target busy, the tables by
// which frames are unwound are looked up, while it runs; the next try uses them.

// frameTable is what a file or a patch tells of its functions.
type frameTable struct {
	table *unwind.Table
	code  []resolve.Mapping // as they were when it was read
}

// nowMemory reads through the handle that a process has now, see same.
type nowMemory struct{ p *proc }

func (m nowMemory) ReadAt(b []byte, at int64) (int, error) { return m.p.mem.ReadAt(b, at) }

// doubt reads the tables of frames, if words have kept a process busy.
func (c *change) doubt(err error) {
	var busy *BusyError
	if !errors.As(err, &busy) || !slices.ContainsFunc(busy.Holders, func(h Holder) bool { return h.Found == InStack || h.Found == InRegister }) {
		return
	}
	for _, p := range c.procs {
		if p.frames == nil {
			p.readFrames()
		}
	}
}

// readFrames looks up the tables of all files and patches. Those that have none
// that can be understood are left out.
func (p *proc) readFrames() {
	p.frames = []frameTable{}
	for _, im := range p.images {
		code := executable(im, "")
		i := slices.IndexFunc(im.Segments, func(s elfpatch.Segment) bool { return s.Type == elf.PT_GNU_EH_FRAME })
		if i < 0 || len(code) == 0 {
			continue
		}
		t, err := unwind.FromIndex(nowMemory{p}, im.Bias+im.Segments[i].VAddr, code[0].Start, code[len(code)-1].End)
		p.addFrames(t, err, code)
	}
	for _, r := range p.patches.Records {
		if r.Frames.Size > 0 {
			start, end := r.Code()
			t, err := unwind.FromSection(nowMemory{p}, r.Frames.Addr, r.Frames.Size, start, end)
			p.addFrames(t, err, []live.Range{{Start: start, End: end}})
		}
	}
}

func (p *proc) addFrames(t *unwind.Table, err error, code []live.Range) {
	if err != nil {
		return
	}
	f := frameTable{table: t}
	for _, r := range code {
		m := resolve.Find(p.maps, r.Start)
		if m == nil {
			return
		}
		f.code = append(f.code, *m)
	}
	p.frames = append(p.frames, f)
}

// stillMapped leaves out tables of code that is not mapped any more as it was.
func (p *proc) stillMapped(list []frameTable) []frameTable {
	return slices.DeleteFunc(slices.Clone(list), func(f frameTable) bool {
		return slices.ContainsFunc(f.code, func(was resolve.Mapping) bool {
			m := resolve.Find(p.maps, was.Start)
			return m == nil || *m != was
		})
	})
}

// know unwinds the stack of a thread in which a word was found that may be a
// return address. The word counts only where that cannot say otherwise.
func (c *checker) know(t *thread, busy *BusyError) error {
	start, end, err := c.stack(t)
	if err != nil {
		return busy
	}
	frames, err := c.unwind(t, start, end)
	if h, i, ok := c.active(frames); ok {
		return busyWith(Holder{PID: c.p.pid, Thread: t.tid, Function: h.Name, Offset: h.Offset, Found: InFrame, Frame: i})
	}
	if err != nil {
		busy.Holders[0].Doubt = "its stack cannot be unwound: " + err.Error()
		return busy
	}
	return c.loose(t, frames, end)
}

// unwind lists the frames of a thread's stack.
func (c *checker) unwind(t *thread, low, high uint64) ([]unwind.Frame, error) {
	u := &unwind.Unwinder{Machine: machine, Mem: nowMemory{c.p}, Signed: t.signedBits()}
	for _, f := range c.frames {
		u.Tables = append(u.Tables, f.table)
	}
	return u.Walk(unwind.NewRegisters(t.regs.pc(), t.regs.dwarf()...), low, high)
}

// active looks for a frame of a function that is in a range.
func (c *checker) active(frames []unwind.Frame) (h live.Hit, frame int, ok bool) {
	for i, f := range frames {
		if f.Interrupted {
			h, ok = c.ranges.PC(f.PC)
		} else {
			h, ok = c.ranges.Word(f.PC)
		}
		if ok {
			return h, i, true
		}
	}
	return h, 0, false
}

// loose looks at the words of a stack of which all frames are known that count
// nevertheless. A function that was interrupted anywhere may be described wrongly
// just there, for exceptions come from calls only: all of its frame counts, and
// the registers. Behind the last frame is what the thread began with.
func (c *checker) loose(t *thread, frames []unwind.Frame, end uint64) error {
	for i, f := range frames {
		from, to := f.SP&^7, f.Top
		if to == 0 {
			to = end
		}
		switch {
		case f.Interrupted && !f.Resting && i > 0:
			from = frames[i-1].SP &^ 7 // the kernel's frame, which holds the registers
		case f.Interrupted && !f.Resting:
			from = (f.SP - redZone) &^ 7
			for _, v := range t.regs.general() {
				if h, ok := c.ranges.Word(v &^ t.signedBits()); ok {
					return c.busy(t, h, InRegister)
				}
			}
		case f.Top != 0:
			continue
		}
		err := c.scan(from, to, func(h live.Hit, at uint64) error { return c.onStack(t, h, at) })
		var busy *BusyError
		if errors.As(err, &busy) && len(busy.Holders) > 0 {
			busy.Holders[0].Doubt = fmt.Sprintf("frame %d may be described wrongly", i)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
