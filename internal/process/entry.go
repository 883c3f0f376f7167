//go:build linux && (amd64 || arm64)

package process

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"livepatch/internal/pack"
	"livepatch/internal/refusal"
	"livepatch/internal/resolve"
)

// A program is patched before it runs at the first of two places: where the
// dynamic linker has mapped and relocated everything that the program starts
// with and is about to run the constructors of the libraries, or at the
// program's entry point (AT_ENTRY).
//
// The first is the function that glibc calls for debuggers whenever its list of
// libraries has changed (_dl_debug_state, link.h): the call with r_state ==
// RT_CONSISTENT comes after relocation and before constructors (elf/rtld.c,
// dl_main). Other dynamic linkers have no such symbol or relocate later; there,
// and in static programs, it is the entry point. The musl library runs all
// constructors after it.
//
// The thread is led there by a breakpoint instruction in its private copy of the
// page, which is taken back before anything else is done. Debug registers would
// leave memory alone, but there are virtual machines in which they are accepted
// and never hit; a program would then have run unpatched.
//
// Until the last package is applied the program dies with this process
// (PTRACE_O_EXITKILL): it runs patched or not at all.

// entryPatience bounds how long the dynamic linker may take, and each of the
// steps that patch the program.
const entryPatience = 30 * time.Second

// errNotStarted is what happens when a process ends before it starts a program.
var errNotStarted = errors.New("ended without starting a program")

// PatchAtStart takes hold of a thread, calls ready, lets the thread start a
// program, and applies the packages, in their order, before the program runs
// its first instruction. If one cannot be applied, the program exits, without
// having run, with the code that refused returns for the error. A process that
// ends before it starts a program is no error.
func PatchAtStart(s Start, pkgs []*pack.Package, ready func() error, refused func(error) (exit int)) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	e := &entry{p: &proc{pid: s.PID, options: seizeOptions | unix.PTRACE_O_EXITKILL}}
	err := ownProc()
	if err != nil {
		return err
	}
	if e.p.status, err = readStatus(e.p.path("status")); err != nil {
		return e.p.gone(err)
	}
	if e.t, err = e.p.seizeThread(s.TID); err != nil || e.t == nil {
		return err
	}
	if err := ready(); err != nil {
		return err
	}
	err = e.toExec()
	if errors.Is(err, errNotStarted) {
		return nil
	}
	if err == nil {
		err = e.patch(pkgs)
	}
	if e.p.mem != nil {
		defer e.p.close()
	}
	if err == nil {
		return e.letGo()
	}
	if !errors.Is(err, errGone) {
		e.quit(refused(err))
	}
	return err
}

// entry is a process on its way into a program.
type entry struct {
	p     *proc
	t     *thread
	fresh bool // not even a constructor has run
}

// toExec lets the thread run until it has started a program. It then stands at
// the end of the system call.
func (e *entry) toExec() error {
	for {
		ws, err := e.await(time.Time{})
		switch {
		case errors.Is(err, errGone):
			return errNotStarted
		case err != nil:
			return err
		case int(ws)>>16 == unix.PTRACE_EVENT_EXEC:
			// What the call returns is still to come. The thread has the number
			// of the process now.
			e.t = &thread{p: e.p, tid: e.p.pid, kept: true}
			return e.finishCall()
		}
		if err := e.goOn(ws); err != nil {
			return err
		}
	}
}

func (e *entry) finishCall() error {
	if err := e.t.resume(unix.PTRACE_SYSCALL, 0); err != nil {
		return err
	}
	for {
		ws, err := e.await(time.Now().Add(entryPatience))
		switch {
		case err != nil:
			return err
		case ws.StopSignal() == unix.SIGTRAP|traceSyscall:
			e.t.stopped = true
			return e.t.outOfCall(time.Now().Add(entryPatience))
		}
		if err := ptraceWord(unix.PTRACE_SYSCALL, e.t.tid, 0, signalOf(ws)); err != nil {
			return err
		}
	}
}

// await waits for the next stop of the thread, which changes its number when it
// starts a program. A zero deadline is none.
func (e *entry) await(deadline time.Time) (unix.WaitStatus, error) {
	for {
		unknown := 0
		numbers := [2]int{e.t.tid, e.p.pid}
		for _, tid := range numbers {
			var ws unix.WaitStatus
			got, err := unix.Wait4(tid, &ws, unix.WNOHANG|unix.WALL, nil)
			switch {
			case err == unix.ECHILD:
				unknown++
			case got == tid && (ws.Exited() || ws.Signaled()):
				return 0, errGone
			case got == tid && ws.Stopped():
				return ws, nil
			}
		}
		if unknown == len(numbers) {
			return 0, errGone
		}
		if !deadline.IsZero() && time.Now().After(deadline) {
			return 0, errLate
		}
		ts := unix.NsecToTimespec(int64(stopPoll))
		unix.Nanosleep(&ts, nil)
	}
}

// goOn continues a thread that has stopped for another reason than ours:
// signals reach it, and a stop of job control lasts until it is continued.
func (e *entry) goOn(ws unix.WaitStatus) error {
	if int(ws)>>16 == unix.PTRACE_EVENT_STOP && ws.StopSignal() != unix.SIGTRAP {
		return ptraceWord(unix.PTRACE_LISTEN, e.t.tid, 0, 0)
	}
	return ptraceWord(unix.PTRACE_CONT, e.t.tid, 0, signalOf(ws))
}

// signalOf is the signal that a thread has stopped to receive, 0 if it has
// stopped for another reason.
func signalOf(ws unix.WaitStatus) uintptr {
	if s := ws.StopSignal(); int(ws)>>16 == 0 && s != unix.SIGTRAP|traceSyscall {
		return uintptr(s)
	}
	return 0
}

// patch brings the thread to the place where the program is patched, and
// patches it.
func (e *entry) patch(pkgs []*pack.Package) error {
	p, err := open(e.p.pid)
	if err != nil {
		return err
	}
	e.p, e.t.p = p, p
	if err := e.t.getRegs(); err != nil {
		return err
	}
	if err := e.startable(); err != nil {
		return err
	}
	// From here on it is a program that runs with all that it shall have.
	if err := e.toStart(); err != nil {
		return err
	}
	// From here on every library that the program starts with is in place.
	opt := Options{MaxPause: entryPatience, Timeout: entryPatience, held: e.t, fresh: e.fresh}
	for _, pkg := range pkgs {
		if _, err := Apply([]int{p.pid}, pkg, opt); err != nil {
			return err
		}
	}
	return nil
}

// startable refuses what would run otherwise than without us.
func (e *entry) startable() error {
	p := e.p
	if e.t.regs.foreignMode() {
		return refusal.New(refusal.Unsupported, p.where(), "it runs 32-bit code")
	}
	if p.status.ignores(unix.SIGTRAP) {
		return refusal.New(refusal.Unsupported, p.where(), "it was started with SIGTRAP ignored, which the way to its start would undo")
	}
	var st unix.Stat_t
	exe := p.path("exe")
	if err := unix.Stat(exe, &st); err != nil {
		return p.denied()
	}
	const groupExecute = 0o010
	lost := ""
	switch {
	case st.Mode&unix.S_ISUID != 0 && int(st.Uid) != p.status.uid:
		lost = fmt.Sprintf("set-user-ID %d", st.Uid)
	case st.Mode&unix.S_ISGID != 0 && st.Mode&groupExecute != 0 && int(st.Gid) != p.status.gid:
		lost = fmt.Sprintf("set-group-ID %d", st.Gid)
	case hasFileCapabilities(exe) && !hasCapability(unix.CAP_SYS_PTRACE):
		lost = "given capabilities"
	default:
		return nil
	}
	return refusal.New(refusal.NoPermission, p.where(), "its program is %s, and the kernel does not grant that to what is traced without CAP_SYS_PTRACE: run livepatch as root", lost)
}

func hasFileCapabilities(path string) bool {
	n, err := unix.Getxattr(path, "security.capability", nil)
	return err == nil && n > 0
}

// toStart lets the dynamic linker do its work.
func (e *entry) toStart() error {
	p := e.p
	if p.entry == 0 {
		return fmt.Errorf("process %d: the kernel tells no entry point", p.pid)
	}
	if e.t.regs.pc() == p.entry {
		e.fresh = true
		return nil // no dynamic linker
	}
	state, notify := p.debugState()
	stops := []breakpoint{{addr: p.entry}}
	if notify != 0 {
		stops = append(stops, breakpoint{addr: notify})
	}
	mask, err := e.t.sigmask()
	if err != nil {
		return err
	}
	for limit := time.Now().Add(entryPatience); ; {
		at, err := e.runTo(stops, limit)
		if err != nil {
			return err
		}
		if at == p.entry || p.consistent(state) {
			break
		}
		if err := e.stepOver(limit); err != nil { // it has only begun
			return err
		}
	}
	// A breakpoint is a signal that cannot be blocked; it has been unblocked.
	if err := e.t.setSigmask(mask); err != nil {
		return err
	}
	e.fresh = e.t.regs.pc() != p.entry
	return p.read()
}

// debugState returns the address of the dynamic linker's r_state and of the
// function that it calls after a change, 0 if they cannot be found.
func (p *proc) debugState() (state, notify uint64) {
	base := auxValue(p.auxv, auxBase)
	for _, im := range p.images {
		if im.Base != base {
			continue
		}
		scope := resolve.NewScope(p.mem, []*resolve.Image{im})
		debug, err := scope.Lookup("_r_debug", "", "")
		if err != nil {
			return 0, 0
		}
		notify, err = scope.Lookup("_dl_debug_state", "", "")
		if err != nil || !im.Contains(notify-im.Bias, 1, 0) {
			return 0, 0
		}
		const stateOffset = 24 // of r_state in struct r_debug, link.h
		return debug + stateOffset, notify
	}
	return 0, 0
}

const auxBase = 7

// consistent reports whether the dynamic linker's list is complete.
func (p *proc) consistent(state uint64) bool {
	const rtConsistent = 0
	var b [4]byte
	return p.readMem(b[:], state) == nil && binary.LittleEndian.Uint32(b[:]) == rtConsistent
}

// breakpoint is a place where a thread shall stop.
type breakpoint struct {
	addr uint64
	old  []byte
}

// runTo runs the thread until it is about to execute one of the places, and
// returns which. Memory is then as it was.
func (e *entry) runTo(stops []breakpoint, limit time.Time) (at uint64, err error) {
	p := e.p
	for i := range stops {
		b := &stops[i]
		b.old = make([]byte, len(breakpointCode()))
		if err := p.readMem(b.old, b.addr); err != nil {
			return 0, err
		}
		if err := p.writeVerified(breakpointCode(), b.addr, e.t); err != nil {
			return 0, err
		}
	}
	if err := e.t.resume(unix.PTRACE_CONT, 0); err != nil {
		return 0, err
	}
	for {
		ws, err := e.await(limit)
		switch {
		case errors.Is(err, errLate):
			return 0, fmt.Errorf("process %d: its dynamic linker does not come to an end within %v", p.pid, entryPatience)
		case err != nil:
			return 0, err
		}
		if signalOf(ws) == uintptr(unix.SIGTRAP) {
			break
		}
		if err := e.goOn(ws); err != nil {
			return 0, err
		}
	}
	e.t.stopped = true
	for i := range stops {
		if err := p.writeVerified(stops[i].old, stops[i].addr, e.t); err != nil {
			return 0, err
		}
	}
	if err := e.t.getRegs(); err != nil {
		return 0, err
	}
	for _, b := range stops {
		if e.t.regs.pc() == b.addr+trapPast {
			e.t.regs.setPC(b.addr)
			return b.addr, e.t.setRegs(&e.t.regs)
		}
	}
	return 0, fmt.Errorf("process %d: stopped by a breakpoint of its own at %#x", p.pid, e.t.regs.pc())
}

func (e *entry) stepOver(limit time.Time) error {
	err := e.t.step(limit)
	if err == nil && e.t.signal != 0 {
		err = fmt.Errorf("process %d: signal %d while its dynamic linker works", e.p.pid, e.t.signal)
	}
	return err
}

// letGo ends the tracing; the program runs.
func (e *entry) letGo() error {
	e.t.kept = false
	return e.t.detach()
}

// quit makes the program exit without having run: by a system call where one can
// be made, else by SIGKILL.
func (e *entry) quit(code int) {
	if e.p.mem != nil && e.t.stopped && e.exit(code) == nil {
		return
	}
	_ = unix.Kill(e.p.pid, unix.SIGKILL)
}

func (e *entry) exit(code int) error {
	if err := e.t.getRegs(); err != nil {
		return err
	}
	if e.t.regs.foreignMode() {
		return errUnsuitable
	}
	g, err := e.p.findGadgets()
	if err != nil {
		return err
	}
	if _, err := e.p.placeGadgets(g, e.t); err != nil {
		return err
	}
	r := e.t.regs.leaving(g, unix.SYS_EXIT_GROUP, uint64(code))
	if err := e.t.setRegs(&r); err != nil {
		return err
	}
	return e.letGo()
}

// keep makes a thread that is traced already, and stands still, one of the
// process: it is neither seized nor let go by what is done with the process.
func (p *proc) keep(t *thread) {
	if t != nil {
		t.p = p
		p.held = t
	}
}
