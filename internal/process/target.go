//go:build linux && (amd64 || arm64)

package process

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"livepatch/internal/live"
	"livepatch/internal/refusal"
	"livepatch/internal/resolve"
)

// proc is a process that is worked on.
type proc struct {
	pid     int
	pidfd   int
	mem     *os.File
	status  status // of the main thread
	maps    []resolve.Mapping
	images  []*resolve.Image // in the order of the dynamic linker's search
	entry   uint64           // AT_ENTRY
	auxv    []byte           // what the kernel told the program when it started it
	patches *live.Patches    // in its memory
	extents [][2]uint64      // in which they were looked for
	options uintptr          // of ptrace
	held    *thread          // that somebody else seized and will let go, nil for none
	threads []*thread        // while stopped
	seized  map[int]bool     // threads that were neither let go nor seen to end
	missed  bool             // a thread vanished that was seized
	traps   []*live.Trap     // handlers of breakpoints in its memory
	guard   *guard           // of threads that are traced while there are breakpoints, else nil
	barrier bool             // it may make the membarrier call that synchronises processors
	counted int              // threads that the last visit saw
	longest time.Duration    // that a visit held one
	opt     *Options         // of tests, nil without
	frames  []frameTable     // read when they are first needed

	// demand, if set, is what a thread that is to make calls has to comply with
	// besides.
	demand func(t *thread) error
}

// open gets hold of a process and reads what it maps, without stopping it.
func open(pid int) (*proc, error) {
	p := &proc{pid: pid, pidfd: -1, options: seizeOptions}
	err := p.attachFiles()
	if err == nil {
		err = p.read()
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *proc) attachFiles() (err error) {
	if err := ownProc(); err != nil {
		return err
	}
	if p.pidfd, err = unix.PidfdOpen(p.pid, 0); err != nil {
		return fmt.Errorf("process %d: %w", p.pid, plain(err))
	}
	if p.status, err = readStatus(p.path("status")); err != nil {
		return p.gone(err)
	}
	if err := p.firstEnded(); err != nil {
		return err
	}
	if p.mem, err = os.OpenFile(p.path("mem"), os.O_RDWR, 0); err != nil {
		if p.status, _ = readStatus(p.path("status")); p.firstEnded() != nil {
			return p.firstEnded()
		}
		switch {
		case errors.Is(err, fs.ErrPermission):
			return p.denied()
		case errors.Is(err, unix.ESRCH) && p.lives():
			return p.noMemory() // newer kernels do not even open what is not there
		}
		return p.gone(err)
	}
	return p.alive()
}

// firstEnded refuses a process without a first thread: its memory cannot be
// had by its number.
func (p *proc) firstEnded() error {
	switch {
	case p.status.state != 'Z' && p.status.state != 'X':
		return nil
	case p.lives():
		return refusal.New(refusal.Unsupported, p.where(), "its first thread has ended, others run")
	}
	return p.ended()
}

func (p *proc) close() {
	if p.mem != nil {
		p.mem.Close()
	}
	if p.pidfd >= 0 {
		unix.Close(p.pidfd)
	}
}

func (p *proc) path(name string) string { return fmt.Sprintf("/proc/%d/%s", p.pid, name) }

// alive asks through the pidfd whether the process that was opened still is the
// one of that number.
func (p *proc) alive() error {
	if err := unix.PidfdSendSignal(p.pidfd, 0, nil, 0); err != nil && err != unix.EPERM {
		return p.ended()
	}
	return nil
}

func (p *proc) ended() error { return fmt.Errorf("process %d %w", p.pid, errEnded) }

// same makes sure that the process still runs the program that was looked at.
// Once a thread is seized, a later exec is an event of that thread. The memory
// is opened anew, for the old handle holds on to what was there before an exec.
func (p *proc) same() error {
	if err := p.alive(); err != nil {
		return err
	}
	auxv, err := p.readAuxv()
	switch {
	case err != nil:
		return err
	case !bytes.Equal(auxv, p.auxv): // it holds random addresses
		return fmt.Errorf("process %d: %w", p.pid, errExec)
	}
	mem, err := os.OpenFile(p.path("mem"), os.O_RDWR, 0)
	if err != nil {
		return p.gone(err)
	}
	p.mem.Close()
	p.mem = mem
	return nil
}

// readAuxv reads the auxiliary vector. It is not there when the process has
// ended, and for a moment when a thread other than the first starts a program.
func (p *proc) readAuxv() ([]byte, error) {
	for limit := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		b, err := os.ReadFile(p.path("auxv"))
		switch {
		case len(b) > 0:
			return b, nil
		case !p.lives() || time.Now().After(limit):
			return nil, p.ended()
		case err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, fs.ErrNotExist):
			return nil, p.gone(err)
		}
	}
}

// lives reports whether any thread runs or can run.
func (p *proc) lives() bool {
	tids, err := p.tids()
	if err != nil {
		return false
	}
	for _, tid := range tids {
		if s, err := p.threadStatus(tid); err == nil && s.state != 'Z' && s.state != 'X' {
			return true
		}
	}
	return false
}

// lost explains that a thread ended while it was held. One that is held cannot
// end by itself.
func (p *proc) lost() error {
	if err := p.same(); err != nil {
		return err
	}
	return p.ended()
}

// gone turns the error of a file in /proc/PID into one about the process.
func (p *proc) gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return p.ended()
	}
	return fmt.Errorf("process %d: %w", p.pid, err)
}

// plain drops the operation and the path of a file error.
func plain(err error) error {
	var e *fs.PathError
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

// read reads the maps and finds the images and the patches.
func (p *proc) read() error {
	if err := p.readMaps(); err != nil {
		return err
	}
	if len(p.maps) == 0 {
		return p.noMemory()
	}
	auxv, err := p.readAuxv()
	if err != nil {
		return err
	}
	p.auxv, p.entry = auxv, auxValue(auxv, auxEntry)
	p.images = resolve.Order(p.mem, resolve.Images(p.mem, p.maps), p.entry)
	p.extents = patchExtents(p.maps)
	p.patches = live.Look(p.mem, live.Find(p.mem, p.extents))
	p.traps = live.FindTraps(p.mem, trapExtents(p.maps))
	p.patches.Trapped(p.traps)
	return p.same() // memory that was given back meanwhile holds no patches
}

func (p *proc) noMemory() error {
	return refusal.New(refusal.Unsupported, p.where(), "it has no memory: a kernel thread, or it is ending")
}

func (p *proc) readMaps() error {
	b, err := os.ReadFile(p.path("maps"))
	if err != nil {
		return p.gone(err)
	}
	p.maps, err = resolve.ParseMaps(b)
	if err != nil {
		return fmt.Errorf("process %d: %w", p.pid, err)
	}
	return nil
}

func (p *proc) where() string { return fmt.Sprintf("process %d", p.pid) }

const auxEntry = 9

func auxValue(b []byte, key uint64) uint64 {
	for ; len(b) >= 16; b = b[16:] {
		if binary.LittleEndian.Uint64(b) == key {
			return binary.LittleEndian.Uint64(b[8:])
		}
	}
	return 0
}

// patchExtents returns the memory in which records of patches can be: private,
// anonymous and read-only.
func patchExtents(maps []resolve.Mapping) [][2]uint64 {
	var list [][2]uint64
	for i := range maps {
		m := &maps[i]
		if m.Read && !m.Write && !m.Exec && !m.Shared && m.Inode == 0 && m.Path == "" {
			list = append(list, [2]uint64{m.Start, m.End})
		}
	}
	return list
}

// readMem reads memory of the target, all of b or an error.
func (p *proc) readMem(b []byte, addr uint64) error {
	if n, err := p.mem.ReadAt(b, int64(addr)); n != len(b) {
		return fmt.Errorf("process %d: read %d bytes at %#x: %w", p.pid, len(b), addr, plain(err))
	}
	return nil
}

var errPokeOnly = errors.New("only ptrace may write")

// writeMem writes memory of the target that the target itself may not be
// allowed to write. t is a stopped thread for the case that the kernel
// reserves that to ptrace (proc_mem.restrict_foll_force).
func (p *proc) writeMem(b []byte, addr uint64, t *thread) error {
	err := errPokeOnly
	if p.opt == nil || !p.opt.poke {
		if _, err = p.mem.WriteAt(b, int64(addr)); err == nil {
			return nil
		}
	}
	// Memory that ends at its first byte is that of a process that is no more.
	if t != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		err = t.poke(addr, b)
	}
	if err != nil {
		return fmt.Errorf("process %d: write %d bytes at %#x: %w", p.pid, len(b), addr, plain(err))
	}
	return nil
}

// status is what /proc/PID/status and /proc/PID/task/TID/status say.
type status struct {
	state       byte
	tracer      int
	uid, gid    int    // effective
	seccomp     int    // mode
	ignored     uint64 // signals, bit 0 is signal 1
	blocked     uint64
	caught      uint64 // signals that have a handler
	shadowStack bool
}

// ignores reports whether the process ignores a signal.
func (s *status) ignores(sig unix.Signal) bool { return s.ignored>>(sig-1)&1 != 0 }

func readStatus(path string) (s status, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return s, err
	}
	for line := range bytes.Lines(b) {
		key, value, _ := strings.Cut(string(line), ":")
		f := strings.Fields(value)
		if len(f) == 0 {
			continue
		}
		switch key {
		case "State":
			s.state = f[0][0]
		case "TracerPid":
			s.tracer, _ = strconv.Atoi(f[0])
		case "Uid":
			if len(f) > 1 {
				s.uid, _ = strconv.Atoi(f[1])
			}
		case "Gid":
			if len(f) > 1 {
				s.gid, _ = strconv.Atoi(f[1])
			}
		case "SigIgn":
			s.ignored, _ = strconv.ParseUint(f[0], 16, 64)
		case "Seccomp":
			s.seccomp, _ = strconv.Atoi(f[0])
		case "SigBlk":
			s.blocked, _ = strconv.ParseUint(f[0], 16, 64)
		case "SigCgt":
			s.caught, _ = strconv.ParseUint(f[0], 16, 64)
		case "x86_Thread_features":
			s.shadowStack = strings.Contains(value, "shstk")
		}
	}
	return s, nil
}

// tids lists the threads of the process.
func (p *proc) tids() ([]int, error) {
	d, err := os.Open(p.path("task"))
	if err != nil {
		return nil, p.gone(err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, p.gone(err)
	}
	list := make([]int, 0, len(names))
	for _, n := range names {
		if tid, err := strconv.Atoi(n); err == nil {
			list = append(list, tid)
		}
	}
	return list, nil
}

func (p *proc) threadStatus(tid int) (status, error) {
	return readStatus(p.path(filepath.Join("task", strconv.Itoa(tid), "status")))
}

// permit checks what can be known of permissions before anything is stopped:
// another tracer, shadow stacks, seccomp.
func (p *proc) permit() error {
	var list refusal.List
	switch {
	case p.status.tracer == 0, p.held != nil:
	case isLoader(p.status.tracer):
		return otherLoader(p.pid, p.status.tracer)
	default:
		list = append(list, refusal.New(refusal.AlreadyTraced, p.where(), "process %d (%s) traces it", p.status.tracer, commandOf(p.status.tracer)))
	}
	tids, err := p.tids()
	if err != nil {
		return err
	}
	free := 0 // threads without seccomp
	for _, tid := range tids {
		s, err := p.threadStatus(tid)
		if err != nil {
			continue
		}
		if s.shadowStack {
			list = append(list, refusal.Of(p.shadowed(tid))...)
			break
		}
		if s.seccomp == 0 {
			free++
		}
	}
	if free == 0 && len(tids) > 0 {
		if reason := cannotSuspendSeccomp(); reason != "" {
			list = append(list, refusal.New(refusal.Seccomp, p.where(), "every thread is under seccomp (mode %d), and mapping memory could kill it: %s", p.status.seccomp, reason))
		} else {
			p.options |= suspendSeccomp
		}
	}
	return list.Err()
}

func (p *proc) shadowed(tid int) error {
	return refusal.New(refusal.ShadowStack, p.where(), "thread %d runs with a shadow stack, which a system call made for it would break", tid)
}

// otherLoader says that another loader holds a process: it will not for long.
func otherLoader(pid, loader int) error {
	return &BusyError{PID: pid, Reason: fmt.Sprintf("is being patched by process %d", loader), again: true}
}

// cannotSuspendSeccomp says why this process may not use
// PTRACE_O_SUSPEND_SECCOMP; empty if it may.
func cannotSuspendSeccomp() string {
	self, err := readStatus("/proc/thread-self/status")
	if err == nil && self.seccomp != 0 {
		return "livepatch runs under seccomp itself"
	}
	if !hasCapability(unix.CAP_SYS_ADMIN) {
		return "suspending seccomp takes CAP_SYS_ADMIN"
	}
	return ""
}

func hasCapability(capability uint) bool {
	b, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return false
	}
	_, rest, ok := bytes.Cut(b, []byte("CapEff:\t"))
	if !ok || len(rest) < 16 {
		return false
	}
	set, err := strconv.ParseUint(string(rest[:16]), 16, 64)
	return err == nil && set>>capability&1 != 0
}

func commandOf(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return "?"
	}
	return strings.TrimSpace(string(b))
}

// denied explains why the kernel does not let us trace the process.
func (p *proc) denied() error {
	return refusal.New(refusal.NoPermission, p.where(), "%s", p.whyDenied())
}

func (p *proc) whyDenied() string {
	if b, err := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope"); err == nil {
		switch strings.TrimSpace(string(b)) {
		case "3":
			return "kernel.yama.ptrace_scope is 3: nobody may trace until the next boot"
		case "2":
			if !hasCapability(unix.CAP_SYS_PTRACE) {
				return "kernel.yama.ptrace_scope is 2: tracing takes CAP_SYS_PTRACE"
			}
		case "1":
			if !hasCapability(unix.CAP_SYS_PTRACE) && p.status.uid == os.Geteuid() {
				return "kernel.yama.ptrace_scope is 1: only a parent or a process with CAP_SYS_PTRACE may trace"
			}
		}
	}
	if other, err := os.Readlink(p.path("ns/user")); err == nil {
		if own, err := os.Readlink("/proc/self/ns/user"); err == nil && own != other {
			return "it lives in another user namespace: run livepatch there, or as root of an enclosing one"
		}
	}
	if p.status.uid != os.Geteuid() {
		return fmt.Sprintf("it runs as user %d and livepatch as user %d: run livepatch as that user or as root", p.status.uid, os.Geteuid())
	}
	var st unix.Stat_t
	if unix.Stat(fmt.Sprintf("/proc/%d", p.pid), &st) == nil && int(st.Uid) != p.status.uid {
		return "it is not dumpable (it changed its user or said so with prctl): run livepatch as root"
	}
	return "the kernel does not permit tracing it: run livepatch as root (a security module may forbid it even then)"
}
