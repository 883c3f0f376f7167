package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"livepatch/internal/resolve"
)

// Reader looks at a process without stopping or changing it.
type Reader struct {
	pid  int
	mem  *os.File
	maps []resolve.Mapping
}

// NewReader opens the memory of a process for reading (Linux on any machine).
func NewReader(pid int) (*Reader, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, unreadable(pid, err)
	}
	maps, err := resolve.ParseMaps(b)
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return nil, unreadable(pid, err)
	}
	return &Reader{pid, mem, maps}, nil
}

func unreadable(pid int, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("process %d does not exist", pid)
	}
	var e *fs.PathError
	if errors.As(err, &e) {
		err = e.Err
	}
	return fmt.Errorf("read process %d: %w", pid, err)
}

// Close lets go of the process.
func (r *Reader) Close() error { return r.mem.Close() }

// Loaded is an ELF file that a process executes.
type Loaded struct {
	Path    string // as in the maps of the process
	Bias    uint64 // what is added to link-time addresses
	BuildID []byte // as in memory; nil if it has none

	// Files are names under which the file can be opened from here: first the
	// one of the mapping, which works even if another file has its path by now
	// but needs privileges, then the path in the process's file system, where
	// the build-id must be compared.
	Files []string
}

// Images returns what the process executes, by address.
func (r *Reader) Images() []Loaded {
	var all []Loaded
	for _, im := range resolve.Images(r.mem, r.maps) {
		l := Loaded{Path: im.Path, Bias: im.Bias, BuildID: im.BuildID}
		if m := resolve.Find(r.maps, im.Base); m != nil {
			l.Files = append(l.Files, fmt.Sprintf("/proc/%d/map_files/%x-%x", r.pid, m.Start, m.End))
		}
		l.Files = append(l.Files, fmt.Sprintf("/proc/%d/root%s", r.pid, im.Path))
		all = append(all, l)
	}
	return all
}

// Read returns up to n bytes at an address; fewer where memory cannot be read.
func (r *Reader) Read(addr uint64, n int) []byte {
	b := make([]byte, n)
	got, _ := r.mem.ReadAt(b, int64(addr))
	return b[:got]
}
