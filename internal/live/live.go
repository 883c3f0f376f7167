// Package live holds what the loaders know about patches in a running target:
// the record that a patch keeps in the target's own memory, so that any loader
// can tell what is applied from the target alone, and the scan that proves that
// no thread is inside given code. It is pure: it takes bytes and addresses.
package live

import (
	"fmt"
)

// State says how far a patch has come. It is one byte in the target, so that a
// change of it is atomic.
type State uint8

const (
	Preparing State = 1 // mapped, no byte of the target's text is changed
	Applied   State = 2 // every write is made
	Reverted  State = 3 // every write is undone; the memory stays for threads that may hold its addresses
)

func (s State) String() string {
	switch s {
	case Preparing:
		return "preparing"
	case Applied:
		return "applied"
	case Reverted:
		return "reverted"
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// Known reports whether s is a state that this package defines.
func (s State) Known() bool { return s >= Preparing && s <= Reverted }

// A Record is what a patch says of itself at the start of its memory. Addresses
// are those of the process.
type Record struct {
	State     State
	Name      string    // of the patch
	Digest    [32]byte  // of the package
	Target    string    // base name of the patched file
	BuildID   []byte    // of the patched file
	Bias      uint64    // load bias of the patched file
	Base      uint64    // where the patch is mapped
	Sizes     [3]uint64 // bytes mapped read-only (this record first), executable, writable; in this order
	Functions []Function
	Writes    []Write
}

// Function is one replaced function.
type Function struct {
	Name    string
	Old     uint64 // address of the original
	OldSize uint64
	New     uint64 // address of the replacement
	NewSize uint64
}

// Write is one change of the target's text.
type Write struct {
	Function int // index into Functions
	Addr     uint64
	Old, New []byte
}

// Size is the number of bytes that the patch occupies.
func (r *Record) Size() uint64 { return r.Sizes[0] + r.Sizes[1] + r.Sizes[2] }

// End is the address behind the last byte of the patch.
func (r *Record) End() uint64 { return r.Base + r.Size() }

// Code returns the range of the patch's executable memory.
func (r *Record) Code() (start, end uint64) {
	start = r.Base + r.Sizes[0]
	return start, start + r.Sizes[1]
}

// Redirect returns the name of the function whose write covers an address, if
// the patch is applied.
func (r *Record) Redirect(addr, n uint64) (name string, ok bool) {
	if r.State != Applied {
		return "", false
	}
	for _, w := range r.Writes {
		if addr < w.Addr+uint64(len(w.Old)) && w.Addr < addr+n {
			return r.Functions[w.Function].Name, true
		}
	}
	return "", false
}

// Owns returns the name of the function of the patch that shares a byte with
// an extent of old code, if the patch is applied.
func (r *Record) Owns(addr, n uint64) (name string, ok bool) {
	if r.State != Applied {
		return "", false
	}
	for _, f := range r.Functions {
		if addr < f.Old+f.OldSize && f.Old < addr+n {
			return f.Name, true
		}
	}
	return r.Redirect(addr, n)
}
