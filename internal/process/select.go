//go:build linux && (amd64 || arm64)

package process

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// All lists every process but our own, by number.
func All() ([]int, error) {
	if err := ownProc(); err != nil {
		return nil, err
	}
	d, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids, nil
}

// Running chooses the processes that run a file: the file at that path, or one
// that was there and has been replaced or deleted since. What has the name in
// another root, as in a container, is another file.
func Running(path string) func(pid int) bool {
	want, statErr := os.Stat(path)
	return func(pid int) bool {
		link := fmt.Sprintf("/proc/%d/exe", pid)
		name, err := os.Readlink(link)
		if err != nil {
			return false // a kernel thread, or not ours to look at
		}
		have, err := os.Stat(link)
		if statErr == nil && err == nil && os.SameFile(want, have) {
			return true
		}
		return strings.TrimSuffix(name, deletedMark) == path && sameRoot(pid)
	}
}

// sameRoot reports whether a process has our root directory. Services with mounts
// of their own have it, too; containers do not.
func sameRoot(pid int) bool {
	own, err := os.Stat("/")
	if err != nil {
		return false
	}
	root, err := os.Stat(fmt.Sprintf("/proc/%d/root", pid))
	return err == nil && os.SameFile(own, root)
}

// InService chooses the processes of a unit of systemd, by their control group.
// A name without a suffix is that of a service.
func InService(unit string) func(pid int) bool {
	if !strings.Contains(unit, ".") {
		unit += ".service"
	}
	return func(pid int) bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		return err == nil && inUnit(string(b), unit)
	}
}

// inUnit reports whether the text of /proc/PID/cgroup places a process in a unit
// or in a control group of its own below that: in the second version's only
// hierarchy, or in systemd's own of the first (cgroups(7)).
func inUnit(text, unit string) bool {
	for line := range strings.Lines(text) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) == 3 && (f[0] == "0" && f[1] == "" || f[1] == "name=systemd") && slices.Contains(strings.Split(f[2], "/"), unit) {
			return true
		}
	}
	return false
}

// Those lists the processes that are chosen, zombies left out.
func Those(belongs func(pid int) bool) ([]int, error) {
	all, err := All()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(pid int) bool { return !belongs(pid) || ended(pid) }), nil
}

func ended(pid int) bool {
	s, err := readStatus(fmt.Sprintf("/proc/%d/status", pid))
	return err != nil || s.state == 'Z' || s.state == 'X'
}
