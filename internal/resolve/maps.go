// Package resolve finds things in the memory of a process: the mapped images
// and their build-ids, the order in which the dynamic linker searches them, and
// the addresses of dynamic symbols. It reads memory through an io.ReaderAt
// whose offsets are addresses and never touches a process itself.
package resolve

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
)

// Mapping is one line of /proc/PID/maps.
type Mapping struct {
	Start, End uint64
	Offset     uint64 // in the file
	Read       bool
	Write      bool
	Exec       bool
	Shared     bool
	Inode      uint64
	Path       string // empty for anonymous memory; "[stack]", "[heap]", …; " (deleted)" is kept
}

// Contains reports whether addr lies in the mapping.
func (m *Mapping) Contains(addr uint64) bool { return addr >= m.Start && addr < m.End }

// Anonymous reports whether no file stands behind the mapping.
func (m *Mapping) Anonymous() bool { return m.Inode == 0 && (m.Path == "" || m.Path[0] == '[') }

// ParseMaps reads the text of /proc/PID/maps (proc(5)). The result is sorted
// by address, as the kernel writes it.
func ParseMaps(b []byte) ([]Mapping, error) {
	list := make([]Mapping, 0, bytes.Count(b, []byte{'\n'}))
	for n := 1; len(b) > 0; n++ {
		var line []byte
		line, b, _ = bytes.Cut(b, []byte{'\n'})
		m, ok := parseMapping(line)
		if !ok || m.Start >= m.End || len(list) > 0 && m.Start < list[len(list)-1].End {
			return nil, fmt.Errorf("read maps: line %d: %.80q is not a mapping", n, line)
		}
		list = append(list, m)
	}
	return list, nil
}

// parseMapping takes "start-end perms offset dev inode   path" apart. It avoids
// conversions: it runs while the target is stopped, on thousands of lines.
func parseMapping(line []byte) (m Mapping, ok bool) {
	var f [5][]byte
	rest := line
	for i := range f {
		f[i], rest, ok = bytes.Cut(rest, []byte{' '})
		if !ok && i < len(f)-1 {
			return m, false
		}
	}
	start, end, ok := bytes.Cut(f[0], []byte{'-'})
	if !ok || len(f[1]) != 4 {
		return m, false
	}
	var good [3]bool
	m.Start, good[0] = hexNumber(start)
	m.End, good[1] = hexNumber(end)
	m.Offset, good[2] = hexNumber(f[2])
	inode, err := strconv.ParseUint(string(f[4]), 10, 64)
	if err != nil || !good[0] || !good[1] || !good[2] {
		return m, false
	}
	m.Inode = inode
	m.Read, m.Write, m.Exec, m.Shared = f[1][0] == 'r', f[1][1] == 'w', f[1][2] == 'x', f[1][3] == 's'
	m.Path = string(bytes.TrimLeft(rest, " "))
	return m, true
}

func hexNumber(b []byte) (v uint64, ok bool) {
	if len(b) == 0 || len(b) > 16 {
		return 0, false
	}
	for _, c := range b {
		switch {
		case c >= '0' && c <= '9':
			v = v<<4 | uint64(c-'0')
		case c >= 'a' && c <= 'f':
			v = v<<4 | uint64(c-'a'+10)
		default:
			return 0, false
		}
	}
	return v, true
}

// Find returns the mapping that contains addr, nil if none does.
func Find(maps []Mapping, addr uint64) *Mapping {
	i, ok := slices.BinarySearchFunc(maps, addr, func(m Mapping, a uint64) int {
		switch {
		case m.End <= a:
			return -1
		case m.Start > a:
			return 1
		}
		return 0
	})
	if !ok {
		return nil
	}
	return &maps[i]
}
