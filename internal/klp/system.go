package klp

import (
	"io/fs"

	"livepatch/internal/kstate"
)

// A system is the machine as the loader sees it. Tests have one of their own.
type system interface {
	// Files is the machine's file system, from the root.
	Files() fs.FS
	// Load hands a module to the kernel, which runs its init function.
	Load(module []byte) error
	// Unload takes a module out; the error is errInUse while something uses it.
	Unload(name string) error
	// Write writes a file of sysfs.
	Write(name, text string) error
	// Log returns a reader of the kernel's log from now on: each call returns
	// what was added since the last one. nil if the log may not be read.
	Log() func() []kstate.Record
	// BPF lists the BPF programs that are attached to functions.
	BPF() ([]kstate.BPFLink, error)
	// ErrorName is the name of a system call's error, such as "EBUSY".
	ErrorName(err error) string
}
