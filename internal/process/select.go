//go:build linux && amd64

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

// ByExecutable lists the processes that run a file: the file at that path, or
// one that was there and has been replaced or deleted since.
func ByExecutable(path string) ([]int, error) {
	all, err := All()
	if err != nil {
		return nil, err
	}
	want, statErr := os.Stat(path)
	var pids []int
	for _, pid := range all {
		link := fmt.Sprintf("/proc/%d/exe", pid)
		name, err := os.Readlink(link)
		if err != nil {
			continue // a kernel thread, or not ours to look at
		}
		have, err := os.Stat(link)
		if statErr == nil && err == nil && os.SameFile(want, have) || strings.TrimSuffix(name, " (deleted)") == path {
			pids = append(pids, pid)
		}
	}
	if len(pids) == 0 {
		return nil, fmt.Errorf("no process runs %s", path)
	}
	return pids, nil
}
