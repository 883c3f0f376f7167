package process

import (
	"errors"
	"strings"

	"livepatch/internal/live"
)

// A Life tells one program that a process runs from the next one, and from that
// of a later process of the same number.
type Life struct {
	Started uint64   // of the process, in clock ticks since boot
	Vector  [16]byte // digest of the auxiliary vector, which holds random addresses
}

// Seen is what a process was found to run.
type Seen struct {
	PID     int
	Life    Life
	Command string // as in /proc/PID/comm
	Program File
	Images  []SeenImage   // the program first
	Deleted []string      // executed files whose names are gone or belong to other files by now
	Patches []live.Report // in its memory, retired ones included
}

// A File tells one executable file from others, and from what it held before.
type File struct {
	Device, Inode uint64
	Size, Changed int64 // bytes; nanoseconds since 1970
}

// SeenImage is an ELF file that a process executes.
type SeenImage struct {
	Name    string
	BuildID []byte        // nil if it has none
	Digest  func() []byte // of its read-only segments without patches; only while the process is looked at
}

// deletedMark is what the kernel puts behind the name of a mapped file that has
// been unlinked, as an upgrade does.
const deletedMark = " (deleted)"

// isFile reports whether a name in the maps is that of a file in a file system
// that users see: not of memfd_create, shared memory or the kernel's own.
func isFile(path string) bool {
	for _, prefix := range []string{"/memfd:", "/dev/", "/SYSV", "/[", "/anon_hugepage", "/drm "} {
		if strings.HasPrefix(path, prefix) {
			return false
		}
	}
	return strings.HasPrefix(path, "/")
}

// errEnded is what an operation on a process meets that is no more.
var errEnded = errors.New("has ended")

// ErrEnded is within the error of an operation on a process that is no more.
var ErrEnded = errEnded

// errExec is returned when a process starts another program while it is traced.
var errExec = errors.New("it has started another program")

// Ended reports whether an error says that the process is no more, or runs
// another program by now.
func Ended(err error) bool { return errors.Is(err, errEnded) || errors.Is(err, errExec) }
