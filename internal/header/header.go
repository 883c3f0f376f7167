// Package header holds the C headers for the authors of kernel patches:
// callbacks, functions and sections to ignore, static calls, system calls.
package header

import "embed"

//go:embed livepatch.h kpatch-macros.h kpatch-syscall.h
var files embed.FS

// Names of the headers. The later ones include those before them, so all have to
// lie in one directory that the compiler searches.
const (
	Livepatch     = "livepatch.h"
	KpatchMacros  = "kpatch-macros.h"
	KpatchSyscall = "kpatch-syscall.h"
)

// File is one header.
type File struct {
	Name string
	Data []byte
}

// Files returns the headers in the order of their names.
func Files() []File {
	var all []File
	for _, name := range []string{KpatchMacros, KpatchSyscall, Livepatch} {
		b, err := files.ReadFile(name)
		if err != nil {
			panic("BUG: " + name + " is not embedded")
		}
		all = append(all, File{name, b})
	}
	return all
}

// Write hands every header to write, and stops at the first error.
func Write(write func(name string, data []byte) error) error {
	for _, f := range Files() {
		if err := write(f.Name, f.Data); err != nil {
			return err
		}
	}
	return nil
}
