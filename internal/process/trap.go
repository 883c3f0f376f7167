//go:build linux && (amd64 || arm64)

package process

import (
	"cmp"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"livepatch/internal/live"
	"livepatch/internal/refusal"
	"livepatch/internal/resolve"
	"livepatch/trampoline"
)

// The handler of breakpoints is put into the target, in memory of its own, before
// the first breakpoint, and is taken out when no thread can meet one any more. If
// the loader dies in between, it goes on doing what it is for, and Repair takes it
// out.

const (
	trapBit = uint64(1) << (unix.SIGTRAP - 1)

	// Flags of a signal's action, include/uapi/asm-generic/signal-defs.h and
	// arch/x86/include/uapi/asm/signal.h.
	saSiginfo   = 0x4
	saRestorer  = 0x04000000
	saOnStack   = 0x08000000
	saRestart   = 0x10000000
	saResetHand = 0x80000000

	signals     = 64
	wordSize    = 8 // of a mask, what the kernel calls sigsetsize
	scratchSize = 64

	membarrierSyncCore  = 1 << 5 // MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE
	membarrierRegister  = 1 << 6 // MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE
	membarrierNoCommand = 0
)

// permitTraps checks what can be known beforehand: that a thread which meets a
// breakpoint survives it. A thread that blocks the signal would be killed; most
// programs block it for a moment only, as when they start a thread.
func (p *proc) permitTraps() error {
	const tries, wait = 100, time.Millisecond
	tids, err := p.tids()
	if err != nil {
		return err
	}
	for range tries {
		var blocking []int
		for _, tid := range tids {
			s, err := p.threadStatus(tid)
			switch {
			case err != nil || s.state == 'Z' || s.state == 'X':
			case s.seccomp != 0:
				return refusal.New(refusal.NeedsStop, p.where(), "thread %d runs under seccomp, which may not let it return from a signal handler", tid)
			case s.blocked&trapBit != 0:
				blocking = append(blocking, tid)
			}
		}
		if len(blocking) == 0 {
			return nil
		}
		tids = blocking
		time.Sleep(wait)
	}
	return refusal.New(refusal.SigtrapBlocked, p.where(), "thread %d blocks SIGTRAP", tids[0])
}

// installTrap maps the handler for breakpoints and makes it the action of SIGTRAP.
func (p *proc) installTrap(sites []trampoline.TrapSite, deadline time.Time) error {
	s, err := readStatus(p.path("status"))
	if err != nil {
		return p.gone(err)
	}
	owner, err := self()
	if err != nil {
		return err
	}
	if p.opt.Guard {
		sites = withLandings(sites)
	}
	return p.withThread(deadline, p.opt, func(c *injection) error {
		if err := c.handlersBlock(s.caught); err != nil {
			return err
		}
		previous, err := c.action(unix.SIGTRAP)
		if err != nil {
			return err
		}
		if previous, err = p.beneath(previous); err != nil {
			return err
		}
		if err := p.mayChain(previous); err != nil {
			return err
		}
		p.barrier = p.opt.Sync == SyncMembarrier && c.registerBarrier()
		if p.opt.Sync == SyncMembarrier && !p.barrier {
			return fmt.Errorf("process %d: the kernel has no membarrier that synchronises processors", p.pid)
		}
		const slack = time.Minute
		until := sinceBoot() + uint64(time.Until(deadline)+slack)
		return c.mapTrap(sites, live.Trap{Previous: previous, Owner: owner, Until: until})
	})
}

// withLandings adds to the places of breakpoints what looks like one in front of each
// address to which they lead. A thread that the loader has sent there is still about
// to receive the signal: if the loader dies then, the handler lets it stay there.
func withLandings(sites []trampoline.TrapSite) []trampoline.TrapSite {
	all := slices.Clone(sites)
	for _, s := range sites {
		all = append(all, trampoline.TrapSite{Addr: s.Target - 1, Target: s.Target})
	}
	slices.SortStableFunc(all, func(a, b trampoline.TrapSite) int { return cmp.Compare(a.Addr, b.Addr) })
	return slices.CompactFunc(all, func(a, b trampoline.TrapSite) bool { return a.Addr == b.Addr })
}

// sinceBoot is the time since boot, in nanoseconds.
func sinceBoot() uint64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // it never fails
	return uint64(ts.Nano())
}

// beneath returns the action of the program itself, if that of SIGTRAP is of a
// handler of breakpoints: one that a dead loader has left.
func (p *proc) beneath(a live.Action) (live.Action, error) {
	for _, fresh := range []bool{false, true} {
		if fresh {
			if err := p.readMaps(); err != nil {
				return a, err
			}
			p.traps = live.FindTraps(p.mem, trapExtents(p.maps))
		}
		for _, trap := range p.traps {
			switch {
			case a.Handler != trap.Own.Handler:
			case inUse(trap):
				return a, p.otherSwitch(trap)
			default:
				return trap.Previous, nil
			}
		}
	}
	return a, nil
}

// inUse reports whether the loader of a handler may still be at work. One in
// another namespace of process numbers cannot be looked for, but has ended its
// change after some time.
func inUse(trap *live.Trap) bool {
	if ns, err := namespace("self"); err != nil || ns != trap.Owner.Namespace {
		return sinceBoot() < trap.Until
	}
	return alive(trap.Owner)
}

// notSwitching makes sure that no loader is at work with breakpoints.
func (p *proc) notSwitching() error {
	for _, trap := range p.traps {
		if inUse(trap) {
			return p.otherSwitch(trap)
		}
	}
	return nil
}

func (p *proc) otherSwitch(trap *live.Trap) error {
	return &BusyError{PID: p.pid, Reason: fmt.Sprintf("is being patched by process %d", trap.Owner.PID), again: true}
}

// mayChain refuses an action of SIGTRAP that nobody has permitted to be given a
// signal second-hand, or that cannot.
func (p *proc) mayChain(a live.Action) error {
	switch {
	case a.Handler <= 1: // SIG_DFL, SIG_IGN
	case a.Flags&saResetHand != 0:
		return refusal.New(refusal.SigtrapHandled, p.where(), "its handler of SIGTRAP at %#x is to be used once only", a.Handler)
	case !p.opt.ChainSigtrap:
		return refusal.New(refusal.SigtrapHandled, p.where(), "it has a handler of SIGTRAP, at %#x", a.Handler)
	}
	return nil
}

// handlersBlock refuses handlers of other signals during which SIGTRAP is blocked.
func (c *injection) handlersBlock(caught uint64) error {
	for caught &^= trapBit; caught != 0; caught &= caught - 1 {
		signal := bits.TrailingZeros64(caught) + 1
		a, err := c.action(unix.Signal(signal))
		if err != nil {
			return err
		}
		if a.Handler > 1 && a.Mask&trapBit != 0 {
			return refusal.New(refusal.SigtrapBlocked, c.p.where(), "its handler of signal %d, at %#x, blocks SIGTRAP", signal, a.Handler)
		}
	}
	return nil
}

// action reads the action of a signal, through memory below the frame.
func (c *injection) action(signal unix.Signal) (live.Action, error) {
	scratch := c.frame - scratchSize
	if _, err := c.call(unix.SYS_RT_SIGACTION, uint64(signal), 0, scratch, wordSize); err != nil {
		return live.Action{}, fmt.Errorf("process %d: read the action of signal %d: %w", c.p.pid, signal, err)
	}
	b := make([]byte, live.ActionSize)
	err := c.p.readMem(b, scratch)
	return live.DecodeAction(b), err
}

// registerBarrier reports whether the process can from now on make membarrier
// calls that synchronise processors.
func (c *injection) registerBarrier() bool {
	has, err := c.call(unix.SYS_MEMBARRIER, membarrierNoCommand, 0, 0)
	if err != nil || has&membarrierSyncCore == 0 {
		return false
	}
	_, err = c.call(unix.SYS_MEMBARRIER, membarrierRegister, 0, 0)
	return err == nil
}

// mapTrap maps and fills the memory and sets the action, which it has read from
// the target just before.
func (c *injection) mapTrap(sites []trampoline.TrapSite, trap live.Trap) (err error) {
	previous := trap.Previous
	code, restorer := trapHandler(sites, previous)
	trap.Size = alignUp(live.TrapCode+uint64(len(code)), pageSize)
	const flags = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS
	if trap.Base, err = c.call(unix.SYS_MMAP, 0, trap.Size, unix.PROT_READ|unix.PROT_EXEC, flags, ^uint64(0), 0); err != nil {
		return fmt.Errorf("process %d: map %#x bytes of memory: %w", c.p.pid, trap.Size, err)
	}
	flagsOf := uint64(saOnStack | saRestart)
	if previous.Handler > 1 { // run it where it would have been run
		flagsOf &= previous.Flags
	}
	handler := trap.Base + live.TrapCode
	trap.Own = live.Action{
		Handler: handler, Flags: saSiginfo | saRestorer | flagsOf,
		Restorer: handler + restorer, Mask: ^uint64(0),
	}
	for _, s := range sites {
		trap.Detours = append(trap.Detours, live.Detour(s))
	}
	if err = c.p.writeVerified(trap.Encode(code), trap.Base, c.t); err == nil {
		c.opt.at("handler")
		_, err = c.call(unix.SYS_RT_SIGACTION, uint64(unix.SIGTRAP), trap.Base+live.TrapAction, 0, wordSize)
	}
	if err != nil {
		_, _ = c.call(unix.SYS_MUNMAP, trap.Base, trap.Size)
		return fmt.Errorf("process %d: set the action of SIGTRAP: %w", c.p.pid, err)
	}
	c.p.traps = append(c.p.traps, &trap)
	return nil
}

// synchronise makes every processor that runs the process execute a serialising
// instruction, by a call of one of its threads.
func (p *proc) synchronise(deadline time.Time) error {
	return p.withThread(deadline, p.opt, func(c *injection) error {
		if _, err := c.call(unix.SYS_MEMBARRIER, membarrierSyncCore, 0, 0); err != nil {
			return fmt.Errorf("process %d: synchronise its processors: %w", p.pid, err)
		}
		return nil
	})
}

// removeTraps takes every handler of breakpoints out of a process that has no
// breakpoints any more. What cannot be done now is left, does no harm, and is told
// in the note: the next loader does it.
func (p *proc) removeTraps() (note string) {
	if len(p.traps) == 0 {
		return ""
	}
	const patience = 5 * time.Second
	limit := time.Now().Add(patience)
	used := map[*live.Trap]bool{} // by a frame on a stack, or perhaps
	tries := map[int]int{}        // by thread
	err := p.visit(limit, func(t *thread) error {
		const patience = 50
		tries[t.tid]++
		return p.leftTraps(t, used, tries[t.tid] < patience)
	})
	if err == nil {
		p.opt.at("drained")
		// From here on no thread has a breakpoint's signal to receive.
		err = p.withThread(time.Now().Add(patience), p.opt, func(c *injection) error { return c.unmapTraps(used) })
	}
	switch {
	case errors.Is(err, errEnded), errors.Is(err, errExec):
		return ""
	case err != nil:
		p.disownTraps()
		return fmt.Sprintf("the handler of breakpoints stays in process %d: %v", p.pid, err)
	case len(p.traps) > 0:
		p.disownTraps()
		return fmt.Sprintf("%#x bytes of a handler that is not used any more stay mapped in process %d: a signal handler may still return to it", p.traps[0].Size, p.pid)
	}
	return ""
}

// disownTraps says that no loader is at work with the handlers that stay.
func (p *proc) disownTraps() {
	for _, trap := range p.traps {
		_ = p.writeMem(make([]byte, live.TrapOwnerSize), trap.Base+live.TrapOwner, nil) // what cannot be written ends by itself
	}
}

// leftTraps makes sure that a thread has met no breakpoint that it has not left.
// If it may return to a handler, or that cannot be told, it is to be seen again;
// or, when that has been done often enough, the handlers are noted as used.
func (p *proc) leftTraps(t *thread, used map[*live.Trap]bool, again bool) error {
	moved, _, err := p.heading(t)
	if err != nil {
		return err
	}
	if moved {
		return &BusyError{PID: p.pid, Thread: t.tid, Reason: "is in the handler of breakpoints"}
	}
	var list []live.Range
	for _, trap := range p.traps {
		list = append(list, live.Range{Start: trap.Base, End: trap.Base + trap.Size})
	}
	check := checker{p: p, ranges: live.NewRanges(list), buf: make([]byte, 64<<10)}
	start, end, err := check.stack(t)
	if err == nil {
		err = check.scan(start, end, func(h live.Hit, at uint64) error { return check.onStack(t, h, at) })
	}
	if transient(err) && !again {
		for _, trap := range p.traps {
			used[trap] = true
		}
		return nil
	}
	return err
}

// unmapTraps gives SIGTRAP its action back, if it still is that of a handler of
// breakpoints, and unmaps those that nothing returns to.
func (c *injection) unmapTraps(used map[*live.Trap]bool) error {
	now, err := c.action(unix.SIGTRAP)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(c.p.traps, func(trap *live.Trap) bool { return trap.Own.Handler == now.Handler }) {
		return c.forgetTraps()
	}
	// All have the same previous action: a later one took over that of those before.
	at := c.frame - scratchSize
	if err := c.p.writeMem(c.p.traps[0].Previous.Encode(), at, c.t); err != nil {
		return err
	}
	if _, err := c.call(unix.SYS_RT_SIGACTION, uint64(unix.SIGTRAP), at, 0, wordSize); err != nil {
		return fmt.Errorf("process %d: restore the action of SIGTRAP: %w", c.p.pid, err)
	}
	var left []*live.Trap
	for _, trap := range c.p.traps {
		if used[trap] {
			left = append(left, trap)
			continue
		}
		if _, err := c.call(unix.SYS_MUNMAP, trap.Base, trap.Size); err != nil {
			return fmt.Errorf("process %d: unmap the handler of breakpoints: %w", c.p.pid, err)
		}
	}
	c.p.traps = left
	return nil
}

// forgetTraps leaves the memory of handlers mapped that are not the action of
// SIGTRAP: the program has another one by now and may remember ours, to give it
// signals or to put it back. It does no harm; no loader will find it again.
func (c *injection) forgetTraps() error {
	for _, trap := range c.p.traps {
		if err := c.p.writeMem(make([]byte, live.TrapMagicSize), trap.Base, c.t); err != nil {
			return err
		}
	}
	c.p.traps = nil
	return nil
}

// trapExtents returns the memory in which handlers of breakpoints can be: private,
// anonymous and executable.
func trapExtents(maps []resolve.Mapping) [][2]uint64 {
	var list [][2]uint64
	for i := range maps {
		m := &maps[i]
		if m.Read && !m.Write && m.Exec && !m.Shared && m.Inode == 0 && m.Path == "" {
			list = append(list, [2]uint64{m.Start, m.End})
		}
	}
	return list
}
