//go:build linux && (amd64 || arm64)

package process

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"livepatch/internal/refusal"
	"livepatch/internal/resolve"
)

// Which thread is made to run system calls: one that suffers least from it, and comes
// back to where it was.

var (
	errRestart    = errors.New("it waits in a system call that must not be disturbed")
	errUnsuitable = errors.New("it is at a place where it must not be disturbed")
)

// withThread stops one thread, lets run make system calls in it, and lets the
// thread go on where it was. Threads that wait in calls with a restart block
// are passed over; if all do, the first to return from its call is taken.
func (p *proc) withThread(deadline time.Time, opt *Options, run func(*injection) error) error {
	g, err := p.findGadgets()
	if err != nil {
		return p.orEnded(err)
	}
	var waiting []int
	tried := 0
	var busy error = &BusyError{PID: p.pid, Reason: "has no thread that can run a system call"}
	for _, tid := range p.ranked() {
		t, err := p.seizeThread(tid)
		if err != nil {
			return err
		}
		if t == nil {
			continue
		}
		tried++
		p.threads = []*thread{t}
		err = p.standStill(t, deadline)
		stood := time.Now()
		if err == nil {
			err = p.suitable(t)
		}
		switch {
		case err == nil:
			defer func() { p.longest = max(p.longest, time.Since(stood)) }()
			return p.inject(t, g, deadline, opt, run)
		case errors.Is(err, errExec):
			p.release()
			return fmt.Errorf("process %d: %w", p.pid, err)
		case refusal.Of(err) != nil:
			p.release()
			return err
		case errors.Is(err, errRestart):
			waiting = append(waiting, tid)
		case errors.As(err, new(*foreignError)):
			busy = err
		case errors.Is(err, errGone):
			tried--
		default:
			busy = cannotCall(p.pid, tid, err)
		}
		p.release()
		if time.Now().After(deadline) {
			break
		}
	}
	t, err := p.awaitReturn(waiting, deadline)
	switch {
	case errors.Is(err, errExec):
		return fmt.Errorf("process %d: %w", p.pid, err)
	case err != nil:
		return err
	case t == nil && len(waiting) > 0 && len(waiting) == tried:
		return &BusyError{PID: p.pid, Reason: allWait, Advice: "give a --timeout that is longer than their waits"}
	case t == nil && len(waiting) > 0:
		return cannotCall(p.pid, waiting[0], errRestart)
	case t == nil && tried == 0:
		return p.orEnded(busy)
	case t == nil:
		return busy
	}
	return p.inject(t, g, deadline, opt, run)
}

const allWait = "has no thread that can map memory for the patch: all wait in calls with a time limit " +
	"(nanosleep, poll, futex), which must not be cut short, and none has returned"

// orEnded is err, unless the process has ended.
func (p *proc) orEnded(err error) error {
	if gone := p.same(); gone != nil {
		return gone
	}
	return err
}

func cannotCall(pid, tid int, why error) error {
	return &BusyError{PID: pid, Thread: tid, Reason: "cannot run a system call: " + why.Error()}
}

// standStill stops a thread at a place between signals.
func (p *proc) standStill(t *thread, deadline time.Time) error {
	if t.kept && t.stopped {
		return nil
	}
	if err := t.interrupt(); err != nil {
		return err
	}
	for {
		if err := t.waitStop(deadline); err != nil {
			return err
		}
		if t.signal == 0 {
			return nil
		}
		// The signal is delivered first; the interruption is still to come.
		signal := t.signal
		t.signal = 0
		if err := t.pass(unix.PTRACE_CONT, signal); err != nil {
			return err
		}
	}
}

// ranked lists the threads, those first that suffer least from a stop: running
// ones, then those in calls that the kernel starts again by itself, then those
// whose calls would return EINTR, and last those with a restart block.
func (p *proc) ranked() []int {
	tids, err := p.tids()
	if err != nil {
		return nil
	}
	rank := make(map[int]int, len(tids))
	for _, tid := range tids {
		rank[tid] = p.rank(tid)
	}
	slices.SortFunc(tids, func(a, b int) int {
		if rank[a] != rank[b] {
			return rank[a] - rank[b]
		}
		return a - b
	})
	return tids
}

// What a thread suffers from a stop.
const (
	rankRunning = iota
	rankRestarts
	rankInterrupted
	rankUnknown
	rankLate
	rankSeccomp
)

func (p *proc) rank(tid int) int {
	if s, err := p.threadStatus(tid); p.options&suspendSeccomp == 0 && err == nil && s.seccomp != 0 {
		return rankSeccomp
	}
	b, err := os.ReadFile(p.path("task/" + strconv.Itoa(tid) + "/syscall"))
	if err != nil {
		return rankUnknown
	}
	word, _, _ := strings.Cut(string(b), " ")
	nr, err := strconv.Atoi(strings.TrimSpace(word))
	if err != nil {
		return rankRunning
	}
	return rankOfCall(nr)
}

// suitable reports whether a stopped thread can run a system call.
func (p *proc) suitable(t *thread) error {
	if err := t.getRegs(); err != nil {
		return err
	}
	if t.inRestartBlock() {
		return errRestart
	}
	if t.regs.foreignMode() {
		return fmt.Errorf("it runs 32-bit code")
	}
	if t.shadowStack() {
		return p.shadowed(t.tid)
	}
	if why := t.cannotReturn(); why != "" {
		return errors.New(why)
	}
	if s, err := p.threadStatus(t.tid); err == nil && s.seccomp != 0 && p.options&suspendSeccomp == 0 {
		return fmt.Errorf("it is under seccomp")
	}
	if p.inCriticalSection(t) {
		return errUnsuitable
	}
	if err := p.roomOnStack(t); err != nil || p.demand == nil {
		return err
	}
	return p.demand(t)
}

// inCriticalSection reports whether the thread is inside a restartable sequence
// (rseq(2)): coming back from a signal frame would not restart it.
func (p *proc) inCriticalSection(t *thread) bool {
	area := t.rseqArea()
	if area == 0 {
		return false
	}
	var word [8]byte
	if p.readMem(word[:], area+8) != nil {
		return true
	}
	cs := binary.LittleEndian.Uint64(word[:])
	if cs == 0 {
		return false
	}
	var desc [32]byte // version, flags, start, length, abort
	if p.readMem(desc[:], cs) != nil {
		return true
	}
	start, length := binary.LittleEndian.Uint64(desc[8:]), binary.LittleEndian.Uint64(desc[16:])
	return t.regs.pc()-start < length
}

// roomOnStack reports whether the frame fits below the stack pointer, on a
// stack that certainly ends there: that of the main thread, or one whose lower
// neighbour is not accessible.
func (p *proc) roomOnStack(t *thread) error {
	need := uint64(maxFrame)
	if p.demand != nil {
		need += callStack
	}
	if err := p.readMaps(); err != nil {
		return err
	}
	m := resolve.Find(p.maps, t.regs.sp())
	if m == nil || !m.Write || t.regs.sp()-m.Start < need {
		return fmt.Errorf("its stack has no room")
	}
	if m.Path == kernelStack {
		return nil
	}
	below := resolve.Find(p.maps, m.Start-1)
	if below != nil && below.Read || !m.Contains(t.regs.tls()) || t.regs.tls() < t.regs.sp() {
		return &foreignError{p.pid, t.tid, t.regs.sp(), notOwnStack}
	}
	return nil
}
