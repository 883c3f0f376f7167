//go:build linux && (amd64 || arm64)

package process

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"livepatch/internal/live"
	"livepatch/internal/refusal"
)

// self is this loader as records name it.
func self() (live.Owner, error) { return ownerOf(os.Getpid()) }

func ownerOf(pid int) (live.Owner, error) {
	start, err := startOf(pid)
	if err != nil {
		return live.Owner{}, err
	}
	ns, err := namespace("self")
	return live.Owner{PID: uint32(pid), Start: start, Namespace: ns}, err
}

func namespace(pid string) (uint64, error) {
	var st unix.Stat_t
	path := "/proc/" + pid + "/ns/pid"
	if err := unix.Stat(path, &st); err != nil {
		return 0, fmt.Errorf("look at %s: %w", path, err)
	}
	return st.Ino, nil
}

// ownProc makes sure that /proc tells of processes by the numbers that system calls
// of ours take. It does not where a new namespace of process numbers was entered
// and the /proc of an outer one kept: another process would be read than traced.
func ownProc() error {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return refusal.New(refusal.Unsupported, "/proc", "it does not show livepatch itself: mount that of its pid namespace (mount -t proc proc /proc)")
	}
	for line := range bytes.Lines(b) {
		// The numbers of this process, from that in the namespace of /proc to that
		// in its own (proc_pid_status(5)); Linux before 4.1 does not tell.
		if numbers, ok := bytes.CutPrefix(line, []byte("NSpid:")); ok && len(bytes.Fields(numbers)) > 1 {
			return refusal.New(refusal.Unsupported, "/proc", "it shows processes by the numbers of an outer pid namespace: mount that of livepatch's own (unshare --mount-proc, mount -t proc proc /proc)")
		}
	}
	return nil
}

// startOf is the time at which a process was started, in clock ticks since boot.
func startOf(pid int) (uint64, error) {
	const field = 22 - 2 // behind the name, which may hold anything
	path := fmt.Sprintf("/proc/%d/stat", pid)
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("look at process %d: %w", pid, plain(err))
	}
	if i := bytes.LastIndexByte(b, ')'); i >= 0 {
		if f := bytes.Fields(b[i+1:]); len(f) >= field {
			return strconv.ParseUint(string(f[field-1]), 10, 64)
		}
	}
	return 0, fmt.Errorf("%s is not understood", path)
}

// alive reports whether a loader still runs. One in another namespace of process
// numbers cannot be looked for; as it holds no thread of the target while this is
// asked about a change, it is taken for dead.
func alive(o live.Owner) bool {
	if ns, err := namespace("self"); err != nil || ns != o.Namespace {
		return false
	}
	start, err := startOf(int(o.PID))
	return err == nil && start == o.Start && (&proc{pid: int(o.PID)}).lives() // one that was killed may not have been waited for
}

// isLoader reports whether a thread is of another process that runs the same
// program as this one.
func isLoader(tid int) bool {
	if _, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", tid)); err == nil {
		return false
	}
	var own, other unix.Stat_t
	return unix.Stat("/proc/self/exe", &own) == nil && unix.Stat(fmt.Sprintf("/proc/%d/exe", tid), &other) == nil &&
		own.Ino == other.Ino && own.Dev == other.Dev
}

// alone makes sure, while everything stands, that the patches of the process are
// those that the change was planned for: another loader may have been at work
// since. From then on none can be: it would have to hold a thread.
func (p *proc) alone(members []*member) error {
	if err := p.readMaps(); err != nil {
		return err
	}
	changed := &BusyError{PID: p.pid, Reason: "is being patched by another loader", again: true}
	for _, m := range members {
		if m.mapped && !p.holds(*m.record, m.was) {
			return changed
		}
	}
	known := map[uint64]bool{}
	for _, m := range members {
		known[m.record.Base] = true
	}
	for _, r := range p.patches.Records {
		if known[r.Base] {
			continue
		}
		known[r.Base] = true
		b := make([]byte, len(r.Encode()))
		if p.readMem(b, r.Base) != nil {
			b = nil
		}
		now, err := live.Decode(b)
		if active(r) != (err == nil && active(now)) || active(r) && !bytes.Equal(b, r.Encode()) {
			return changed
		}
	}
	var fresh [][2]uint64
	for _, e := range patchExtents(p.maps) {
		if !slices.Contains(p.extents, e) {
			fresh = append(fresh, e)
		}
	}
	for _, r := range live.Find(p.mem, fresh) {
		if !known[r.Base] && active(r) {
			return changed
		}
	}
	return nil
}

func active(r *live.Record) bool {
	return r.State == live.Applied || r.State == live.Hosting || r.Phase != live.Idle
}

// holds reports whether the memory of a process holds a record with a control.
func (p *proc) holds(r live.Record, c live.Control) bool {
	r.Control = c
	want := r.Encode()
	have := make([]byte, len(want))
	return p.readMem(have, r.Base) == nil && bytes.Equal(have, want)
}
