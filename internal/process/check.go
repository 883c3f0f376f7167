//go:build linux && (amd64 || arm64)

package process

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"livepatch/internal/live"
	"livepatch/internal/refusal"
	"livepatch/internal/resolve"
)

// A checker looks through the threads of a stopped process for code that must
// not be in use.
type checker struct {
	p      *proc
	ranges *live.Ranges
	all    bool // look through all writable memory
	limit  time.Time
	buf    []byte
	frames []frameTable // by which stacks can be unwound; none if words alone count
	signed uint64       // bits of return addresses that hold their signatures
}

// A foreignError says that a thread runs on a stack that is not its own.
type foreignError struct {
	pid, tid int
	rsp      uint64
	why      string
}

func (e *foreignError) Error() string { return fmt.Sprintf("thread %d %s", e.tid, e.reason()) }

func (e *foreignError) reason() string {
	return fmt.Sprintf("has its stack pointer at %#x, %s", e.rsp, e.why)
}

const notOwnStack = "outside its own stack (a signal stack or a coroutine)"

// threads reads every register set and looks through every stack. It returns a
// *BusyError for a thread inside of a range, a *foreignError for a stack that
// cannot be told from other memory.
func (c *checker) threads() error {
	// What was mapped when the target still ran may have changed.
	if err := c.p.readMaps(); err != nil {
		return err
	}
	c.frames = c.p.stillMapped(c.frames)
	if c.buf == nil {
		c.buf = make([]byte, 256<<10)
	}
	if err := c.each(c.p.threads); err != nil {
		return err
	}
	if c.all {
		return c.memory()
	}
	return nil
}

// each looks at threads. After one that is inside of a range it looks for others
// for a moment, to tell of them, too.
func (c *checker) each(list []*thread) error {
	const moment = time.Millisecond
	var held *BusyError
	var until time.Time
	for _, t := range list {
		if held != nil && (len(held.Holders) >= maxHolders || time.Now().After(until)) {
			return held
		}
		err := c.thread(t)
		var busy *BusyError
		switch {
		case err == nil:
		case !errors.As(err, &busy) || len(busy.Holders) == 0:
			return err
		case held == nil:
			held, until = busy, time.Now().Add(moment)
		default:
			held.Holders = append(held.Holders, busy.Holders...)
		}
	}
	if held != nil {
		return held
	}
	return nil
}

// busy says that a thread is inside of a range, or may return into it.
func (c *checker) busy(t *thread, h live.Hit, found Place) error {
	return busyWith(Holder{PID: c.p.pid, Thread: t.tid, Function: h.Name, Offset: h.Offset, Found: found})
}

// onStack says the same of a word on its stack.
func (c *checker) onStack(t *thread, h live.Hit, at uint64) error {
	return busyWith(Holder{
		PID: c.p.pid, Thread: t.tid, Function: h.Name, Offset: h.Offset, Found: InStack, Address: at, Depth: int64(at - t.regs.sp()),
	})
}

func (c *checker) thread(t *thread) error {
	moved, _, err := c.p.heading(t)
	var h live.Hit
	inside := false
	switch {
	case err != nil:
	case moved:
		// It has met a breakpoint of a change that a dead loader made while threads
		// ran, and goes on at the start of what came, whether or not that goes
		// again: such a change lets calls finish.
	default:
		h, inside, err = c.stepOut(t, c.limit)
	}
	switch {
	case errors.Is(err, errGone):
		return nil
	case inside:
		return c.busy(t, h, AtPC)
	case err != nil:
		return err
	}
	return c.words(t)
}

// words looks for return addresses in a thread's registers, at the given ones
// besides, and on its stack. Where it can be unwound, what it finds is looked at
// once more.
func (c *checker) words(t *thread, more ...uint64) error {
	err := c.guess(t, more...)
	var busy *BusyError
	if len(c.frames) > 0 && errors.As(err, &busy) && len(busy.Holders) > 0 {
		err = c.know(t, busy)
	}
	if err != nil {
		return err
	}
	return c.abandoned(t)
}

// abandoned looks through the stack that the kernel gave to a process, if its main
// thread stands on another: one that a thread has forked goes on on the stack of
// that thread. What is there is of the past then; but that cannot be told.
func (c *checker) abandoned(t *thread) error {
	if t.tid != c.p.pid {
		return nil
	}
	for i := range c.p.maps {
		m := &c.p.maps[i]
		if m.Path != kernelStack || m.Contains(t.regs.sp()) {
			continue
		}
		err := c.scan(m.Start, m.End, func(h live.Hit, at uint64) error {
			return busyWith(Holder{PID: c.p.pid, Function: h.Name, Offset: h.Offset, Found: InMemory, Address: at})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// kernelStack is how the maps name the stack that a process starts with.
const kernelStack = "[stack]"

// guess takes every word for a return address.
func (c *checker) guess(t *thread, more ...uint64) error {
	general := t.regs.general()
	c.signed = t.signedBits()
	for _, v := range slices.Concat(general[:], more) {
		if h, ok := c.ranges.Word(v &^ c.signed); ok {
			return c.busy(t, h, InRegister)
		}
	}
	start, end, err := c.stack(t)
	for err == nil && start < end {
		lower := start
		err = c.scan(start, end, func(h live.Hit, at uint64) error { return c.onStack(t, h, at) }, func(b []byte, at uint64) {
			lower = min(lower, c.interrupted(b, at, start))
		})
		start, end = lower, start
	}
	return err
}

// stack returns the part of a thread's stack that is in use, red zone
// included, to the end of its mapping. The stack of the main thread is the
// kernel's; that of another, and of the main thread of a process that another
// thread has forked, lies below its thread control block, to which the thread
// register points, in the same mapping.
func (c *checker) stack(t *thread) (start, end uint64, err error) {
	rsp := t.regs.sp()
	m := resolve.Find(c.p.maps, rsp)
	if m == nil || !m.Write {
		return 0, 0, &foreignError{c.p.pid, t.tid, rsp, "where no writable memory is"}
	}
	own := t.tid == c.p.pid && m.Path == kernelStack || t.regs.tls() > rsp && m.Contains(t.regs.tls())
	if !own && !c.all {
		return 0, 0, &foreignError{c.p.pid, t.tid, rsp, notOwnStack}
	}
	return max(m.Start, rsp-redZone) &^ 7, m.End, nil
}

// memory looks through all private writable memory.
func (c *checker) memory() error {
	for i := range c.p.maps {
		m := &c.p.maps[i]
		if !m.Write || !m.Read || m.Shared {
			continue
		}
		err := c.scan(m.Start, m.End, func(h live.Hit, at uint64) error {
			return busyWith(Holder{PID: c.p.pid, Function: h.Name, Offset: h.Offset, Found: InMemory, Address: at})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// scan looks at every word from start to end. More may look at what was read.
func (c *checker) scan(start, end uint64, found func(h live.Hit, at uint64) error, more ...func(b []byte, at uint64)) error {
	for at := start; at < end; {
		n := min(uint64(len(c.buf)), end-at)
		if err := c.p.readMem(c.buf[:n], at); err != nil {
			return err
		}
		c.unsign(c.buf[:n])
		if h, off, ok := c.ranges.Words(c.buf[:n]); ok {
			return found(h, at+uint64(off))
		}
		for _, look := range more {
			look(c.buf[:n], at)
		}
		at += n
	}
	return nil
}

// unsign takes the signatures off all words.
func (c *checker) unsign(b []byte) {
	if c.signed == 0 {
		return
	}
	for ; len(b) >= 8; b = b[8:] {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)&^c.signed)
	}
}

// ofText leaves out the steps that switch whole patches: those are in memory of
// the patch, which need not be mapped yet.
func ofText(list []live.Step) []live.Step {
	return slices.DeleteFunc(slices.Clone(list), func(s live.Step) bool { return s.Function == live.Whole })
}

// present leaves out the steps in memory that is filled when the change begins.
func (x *part) present() []live.Step {
	return slices.DeleteFunc(slices.Clone(x.steps), func(s live.Step) bool {
		filled := func(m *member) bool { return m.record == s.Record && m.fill != nil && m.was.State != live.Hosting }
		return s.Function == live.Whole && slices.ContainsFunc(x.members, filled)
	})
}

// sites compares what stands at the places of steps with what must be there.
func (p *proc) sites(mem io.ReaderAt, list []live.Step) refusal.List {
	var bad refusal.List
	for i := range list {
		s := &list[i]
		have := make([]byte, len(s.Old))
		where := fmt.Sprintf("process %d: %s", p.pid, s.Name())
		if n, _ := mem.ReadAt(have, int64(s.Addr)); n != len(have) {
			bad = append(bad, refusal.New(refusal.SiteChanged, where, "the site at %#x cannot be read", s.Addr))
			continue
		}
		if !bytes.Equal(have, s.Old) {
			bad = append(bad, refusal.New(refusal.SiteChanged, where, "%s", siteDiffers(have, s.Old, s.Addr)))
		}
	}
	return bad
}

// siteDiffers says what is wrong with a site.
func siteDiffers(have, expected []byte, addr uint64) string {
	trap := breakpointCode()
	for i := 0; i+len(trap) <= len(have); i += codeStep {
		if is := have[i : i+len(trap)]; bytes.Equal(is, trap) && !bytes.Equal(is, expected[i:i+len(trap)]) {
			return fmt.Sprintf("%#x holds a breakpoint", addr+uint64(i))
		}
	}
	return fmt.Sprintf("%#x holds %x, not %x", addr, have, expected)
}
