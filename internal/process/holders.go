//go:build linux && (amd64 || arm64)

package process

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"livepatch/internal/live"
	"livepatch/internal/refusal"
	"livepatch/internal/resolve"
	"livepatch/internal/taken"
	"livepatch/internal/unwind"
	"livepatch/trampoline"
)

// What may lead to the memory of a patch, or hold an address in it.

// maxSearched bounds the memory that is looked through in one process.
const maxSearched = 4 << 30

// look notes for each patch what keeps it mapped. Everything stands.
func (x *reclaiming) look(limit time.Time) error {
	owner, err := self()
	if err != nil {
		return err
	}
	for _, r := range x.free() {
		if r.State == live.Unused && r.Owner != owner && alive(r.Owner) {
			x.keep(r, live.StaysUnmapping, "process %d is about to unmap it", r.Owner.PID)
			continue
		}
		if !x.p.mappedAs(r) {
			x.keep(r, live.StaysUnread, "its memory is not mapped as a patch is")
			continue
		}
		x.led(r)
		x.taken(r)
	}
	if err := x.shared(); err != nil {
		return err
	}
	stacks, err := x.threads(limit)
	if err != nil || len(x.free()) == 0 {
		return err
	}
	m := memorySearch{x: x, stacks: stacks, limit: limit, left: maxSearched, buf: make([]byte, 1<<20)}
	return m.all()
}

// led notes a patch that something leads to although it is reverted.
func (x *reclaiming) led(r *live.Record) {
	for _, w := range r.Writes {
		have := make([]byte, len(w.New))
		switch {
		case w.Function == live.Whole:
		case x.p.readMem(have, w.Addr) != nil:
			x.keep(r, live.StaysUnread, "what is at %#x, where its redirect was, cannot be read", w.Addr)
		case bytes.Equal(have, w.New):
			x.keep(r, live.StaysLed, "its redirect is at %#x", w.Addr)
		}
	}
	for _, o := range x.p.patches.Records {
		for _, s := range o.Slots {
			if s.Host == r.Base && o != r && active(o) {
				x.keep(r, live.StaysLed, "patch %s is reached through it", o.Name)
			}
		}
	}
}

// taken notes a patch that makes addresses of its own code or variables, or holds
// some: they may have been given to the kernel, or be kept in another form (as the
// C library keeps functions that run at exit), where nobody can look. Constants
// are left out: their addresses are looked for like all.
func (x *reclaiming) taken(r *live.Record) {
	start, end := r.Code()
	var code []byte
	if max(end-start, r.Sizes[partRead]) <= maxPayload {
		code = make([]byte, end-start)
	}
	if code == nil || x.p.readMem(code, start) != nil {
		x.keep(r, live.StaysUnread, "its code cannot be read")
		return
	}
	// The calls of unwinders are the loader's own: no other code has their address.
	for _, u := range r.Unwinders {
		for _, at := range []uint64{u.Tell, u.Forget} {
			if at >= start && at < end {
				clear(code[at-start:][:min(trampoline.CallSize, end-at)])
			}
		}
	}
	if at, ok := taken.Address(machine, code, start, start, r.End()); ok {
		x.keep(r, live.StaysTaken, "%s (%#x)", live.StaysTaken, at)
		return
	}
	parts := []live.Extent{{Addr: start, Size: end - start}}
	record := alignUp(uint64(len(r.Encode())), 8)
	parts = append(parts, live.Extent{Addr: r.Base + record, Size: r.Sizes[partRead] - min(record, r.Sizes[partRead])})
	for _, e := range parts {
		b := code
		if e.Addr != start {
			if b = make([]byte, e.Size); x.p.readMem(b, e.Addr) != nil {
				x.keep(r, live.StaysUnread, "its constants cannot be read")
				return
			}
		}
		taken := func(off int, _ uint64) bool {
			x.keep(r, live.StaysTaken, "%s (%#x)", live.StaysTaken, e.Addr+uint64(off))
			return false
		}
		search{start, r.End()}.in(b, taken)
		search{start, r.End()}.short(b, taken)
	}
}

// stack is one of a thread of which all frames are known: from dead to from
// nothing is in use; from there to end, if it is exact, a return address counts only if a
// frame has it. An empty one is of a stack of which not enough is known.
type stack struct {
	dead, from, end uint64
	exact           bool
}

// threads notes patches that a thread is in, will return to, or holds an address
// of in a register, and returns what is known of the stacks.
func (x *reclaiming) threads(limit time.Time) (stacks []stack, err error) {
	for _, t := range x.p.threads {
		if err := t.getRegs(); err != nil {
			return nil, x.p.orEnded(err)
		}
		state, err := t.vectors()
		if err != nil {
			return nil, x.p.orEnded(err)
		}
		if t.signedBits()&(1<<(8*addressBytes)-1) != 0 {
			return nil, refusal.New(refusal.Unsupported, x.p.where(), "signatures of return addresses begin below bit %d: they cannot be told from addresses", 8*addressBytes)
		}
		registers := state.bytes()
		for _, v := range append(t.regs.dwarf(), t.regs.pc()) {
			registers = binary.LittleEndian.AppendUint64(registers, v)
		}
		for _, r := range x.free() {
			search{r.Base, r.End()}.in(registers, func(int, uint64) bool {
				x.keep(r, live.StaysThread, "thread %d has an address of it in a register", t.tid)
				return false
			})
		}
		c := &checker{p: x.p, limit: limit, frames: x.p.stillMapped(x.p.frames)}
		stacks = append(stacks, x.stack(c, t))
	}
	return slices.DeleteFunc(stacks, func(s stack) bool {
		return slices.ContainsFunc(x.p.threads, func(t *thread) bool { return t.regs.sp() >= s.dead && t.regs.sp() < s.from })
	}), nil
}

// stack unwinds the stack of a thread, and notes the patches that it returns to.
func (x *reclaiming) stack(c *checker, t *thread) (s stack) {
	start, end, err := c.stack(t)
	m := resolve.Find(x.p.maps, t.regs.sp())
	if err != nil || m == nil {
		return s
	}
	frames, err := c.unwind(t, start, end)
	for _, f := range frames {
		for _, r := range x.free() {
			if f.PC >= r.Base && f.PC < r.End() {
				x.keep(r, live.StaysThread, "thread %d returns to it", t.tid)
			}
		}
	}
	if err != nil || x.loose {
		return s
	}
	return stack{dead: m.Start, from: start, end: frames[len(frames)-1].SP, exact: resting(frames)}
}

// resting reports whether all functions that were interrupted stand behind a
// system call.
func resting(frames []unwind.Frame) bool {
	for _, f := range frames {
		if f.Interrupted && !f.Resting {
			return false
		}
	}
	return len(frames) > 0
}

// memorySearch looks through the memory of a process for addresses in patches.
type memorySearch struct {
	x      *reclaiming
	stacks []stack
	limit  time.Time
	left   uint64 // bytes that may still be read
	buf    []byte
}

// all looks through every mapping that can hold an address that the program has
// stored: writable memory, and memory that was writable.
func (s *memorySearch) all() error {
	pages, err := os.Open(s.x.p.path("pagemap"))
	if err != nil {
		return fmt.Errorf("process %d: %w", s.x.p.pid, plain(err))
	}
	defer pages.Close()
	for i := range s.x.p.maps {
		m := &s.x.p.maps[i]
		free := s.x.free()
		switch {
		case len(free) == 0:
			return nil
		case m.Exec && !m.Write && m.Inode != 0, strings.HasPrefix(m.Path, "[v"):
			continue // code of files; the kernel's own
		case strings.HasPrefix(m.Path, "/dev/") && !strings.HasPrefix(m.Path, "/dev/zero") && !strings.HasPrefix(m.Path, "/dev/shm/"):
			s.unread("memory of a device at %#x is not looked through", m.Start)
			return nil
		}
		if err := s.mapping(m, pages); err != nil {
			s.unread("%v", err)
			return nil
		}
	}
	return nil
}

func (s *memorySearch) unread(format string, args ...any) {
	for _, r := range s.x.free() {
		s.x.keep(r, live.StaysUnread, format, args...)
	}
}

// mapping looks through the pages of a mapping that are there: what was never
// touched, or is still as the file has it, holds no address of a patch. Of shared
// memory that cannot be told.
func (s *memorySearch) mapping(m *resolve.Mapping, pages *os.File) error {
	if m.Shared {
		return s.run(m.Start, m.End, m)
	}
	const entry, present, swapped = 8, 1 << 63, 1 << 62 // Documentation/admin-guide/mm/pagemap.rst
	size := uint64(os.Getpagesize())
	b := make([]byte, 64<<10)
	from := uint64(0) // of a run of pages that are there; 0 without
	for at := m.Start; at < m.End; {
		n := min(uint64(len(b))/entry, (m.End-at)/size)
		if got, err := pages.ReadAt(b[:n*entry], int64(at/size*entry)); uint64(got) != n*entry {
			return fmt.Errorf("its pages cannot be told: %w", plain(err))
		}
		if time.Now().After(s.limit) {
			return errTooLong
		}
		for i := range n {
			there := binary.LittleEndian.Uint64(b[i*entry:])&(present|swapped) != 0
			page := at + i*size
			switch {
			case there && from == 0:
				from = page
			case !there && from != 0:
				if err := s.run(from, page, m); err != nil {
					return err
				}
				from = 0
			}
		}
		at += n * size
	}
	if from != 0 {
		return s.run(from, m.End, m)
	}
	return nil
}

var errTooLong = fmt.Errorf("memory was not looked through within the longest pause")

// run looks through memory, and a word to both sides.
func (s *memorySearch) run(from, to uint64, m *resolve.Mapping) error {
	from, to = max(m.Start, from-addressBytes), min(m.End, to+addressBytes)
	for at := from; at < to; {
		n := min(uint64(len(s.buf)), to-at)
		switch {
		case n > s.left:
			return fmt.Errorf("it has more than %d MB of memory in use", uint64(maxSearched)>>20)
		case time.Now().After(s.limit):
			return errTooLong
		}
		s.left -= n
		if err := s.x.p.readMem(s.buf[:n], at); err != nil {
			return err
		}
		for _, r := range s.x.free() {
			search{r.Base, r.End()}.in(s.buf[:n], func(off int, v uint64) bool {
				if s.counts(r, at+uint64(off), v) {
					s.x.keep(r, live.StaysMemory, "%s, at %#x", live.StaysMemory, at+uint64(off))
					return false
				}
				return true
			})
		}
		if at += n; at < to {
			at -= addressBytes - 1 // one may lie across
		}
	}
	return nil
}

// counts reports whether an address in memory may be used.
func (s *memorySearch) counts(r *live.Record, at, v uint64) bool {
	if at >= r.Base && at < r.End() { // its own
		return at >= r.End()-r.Sizes[partWrite] && !ofUnwinder(r, at) && !inCells(r, at)
	}
	if s.x.p.toldOf(at) {
		return false
	}
	if ofUnwinder(r, v) && !s.x.standsOn(at) {
		return false // it has the address from the loader alone, and forgets the patch before that is unmapped
	}
	start, end := r.Code()
	for _, k := range s.stacks {
		switch {
		case at >= k.dead && at+addressBytes <= k.from:
			return false // below the stack pointer
		case k.exact && at >= k.from && at < k.end && at%8 == 0 && v > start && v < end && s.x.p.behindCall(v):
			return false // a return address, and of no frame
		}
	}
	return true
}

// standsOn reports whether a thread has its stack in the mapping of an address.
func (x *reclaiming) standsOn(at uint64) bool {
	m := resolve.Find(x.p.maps, at)
	return m != nil && slices.ContainsFunc(x.p.threads, func(t *thread) bool { return m.Contains(t.regs.sp()) })
}

// inCells reports whether an address lies in what the patch's handler reads, when
// calls reach functions by way of it: nothing leads to the handler any more.
func inCells(r *live.Record, at uint64) bool {
	return slices.ContainsFunc(r.Own(), func(s live.Slot) bool {
		return at >= s.Record && at+addressBytes <= s.Record+live.Columns*cellSize
	})
}

// toldOf reports whether an address lies in what loaders keep about a patch: that
// names the patch whose handler it has used, and no code reads it.
func (p *proc) toldOf(at uint64) bool {
	return slices.ContainsFunc(p.patches.Records, func(r *live.Record) bool {
		return at >= r.Base && at-r.Base < uint64(len(r.Encode()))
	})
}

// ofUnwinder reports whether an address is in what an unwinder is told of a patch,
// or keeps in it. The patch itself refers to neither.
func ofUnwinder(r *live.Record, at uint64) bool {
	if len(r.Unwinders) > 0 && at >= r.Frames.Addr && at < r.Frames.Addr+r.Frames.Size {
		return true
	}
	for _, u := range r.Unwinders {
		if at >= u.Object && at < u.Object+registration {
			return true
		}
	}
	return false
}

func (p *proc) behindCall(addr uint64) bool {
	var code [8]byte
	return p.readMem(code[:], addr-uint64(len(code))) == nil && live.MayEndWithCall(machine, code[:])
}
