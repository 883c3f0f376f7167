// Package live holds what the loaders know about patches in a running target:
// the record that a patch keeps in the target's own memory, so that any loader
// can tell from the target alone what is applied, what was being changed when a
// loader died, and how to finish or undo it; the stack of versions of each
// function; and the scan that proves that no thread is inside given code. It is
// pure: it takes bytes and addresses.
package live

import (
	"fmt"
	"slices"
)

// State says how far a patch has come. It is one byte in the target, so that a
// change of it is atomic.
type State uint8

const (
	Preparing State = 1 // mapped, no byte of the target's text is changed
	Applied   State = 2 // its functions are versions of the target's
	Reverted  State = 3 // nothing leads to it; the memory stays for threads that may hold its addresses
	Hosting   State = 4 // none of its replacements is reached, but its redirects are in the text, and its handler and records in use
	Unused    State = 5 // it was proven that nothing leads to it and nobody holds an address in it: about to be unmapped
)

func (s State) String() string {
	switch s {
	case Preparing:
		return "preparing"
	case Applied:
		return "applied"
	case Reverted, Hosting, Unused:
		return "reverted"
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// hosts reports whether the redirects of a host are in the text.
func (s State) hosts() bool { return s == Applied || s == Hosting }

// Known reports whether s is a state that this package defines.
func (s State) Known() bool { return s >= Preparing && s <= Unused }

// Phase says how far a change has come. It is one byte of the record that leads
// the change.
type Phase uint8

const (
	Idle      Phase = 0 // there is no change
	Begun     Phase = 1 // text is written from here on
	Committed Phase = 2 // all text is written, the states are not
)

// Known reports whether p is a phase that this package defines.
func (p Phase) Known() bool { return p <= Committed }

// Owner is the loader that made a record or made the last change of it.
type Owner struct {
	PID       uint32
	Namespace uint64 // of process numbers: the inode of /proc/PID/ns/pid
	Start     uint64 // of the process, in clock ticks since boot, as in /proc/PID/stat
}

// Control is the part of a record that changes while the patch lives. Records
// that change together hold the same Change; the phase in one of them is that of
// the change.
type Control struct {
	State     State
	Next      State // that the patch gets by Change
	Phase     Phase
	Prior     State  // that it had before Change; the states are set one after another
	Column    uint8  // of a host: which of its records' destinations is taken
	NextCol   uint8  // by Change
	PriorCol  uint8  // before Change
	Stays     Stay   // why the memory of a reverted patch stays mapped
	Change    uint64 // a random number
	Processes uint32 // that Change is about
	Sequence  uint64 // later patches of a process have higher ones; images of one package the same
	Owner     Owner
}

// A Record is what a patch says of itself at the start of its memory. Addresses
// are those of the process.
type Record struct {
	Control
	Name      string     // of the patch
	Digest    [32]byte   // of the package
	Requires  [][32]byte // digests of the packages that it builds on
	Target    string     // base name of the patched file
	BuildID   []byte     // of the patched file
	Bias      uint64     // load bias of the patched file
	Base      uint64     // where the patch is mapped
	Sizes     [3]uint64  // bytes mapped read-only (this record first), executable, writable; in this order
	Functions []Function
	Writes    []Write
	Slots     []Slot
	Index     uint64   // address of the byte that holds the column; 0 if it hosts no slot
	Handler   Extent   // that reads it
	Symbols   []Symbol // of the patch's code, besides the replacements

	Frames    Extent     // the section that tells how the patch's functions are unwound; none if empty
	Unwinders []Unwinder // that are told of it
}

// Symbol is a name of the patch's code.
type Symbol struct {
	Name       string
	Addr, Size uint64
}

// Unwinder is one copy of the library code that unwinds frames, for exceptions,
// in the target, and where the patch keeps what it and that copy know of each
// other: code of the patch that calls it to make the frames known, and to make
// it forget them, and what it needs, in memory of the patch that can be written.
type Unwinder struct {
	Tell, Forget uint64       // address of the code
	Object       uint64       // address of the copy's own data about the patch
	Flag         uint64       // address of the byte that holds State
	State        Registration // as it was read; not in the record
}

// Registration says what an unwinder knows of a patch. The loader says what it
// is going to do, before a thread of the target does it, and that thread what
// was done, so that both are known whoever dies: while no thread is inside the
// code that calls the unwinder, what was only asked for has not been done.
type Registration uint8

const (
	Untold     Registration = 0
	Telling    Registration = 1
	Registered Registration = 2
	Forgetting Registration = 3
	Forgotten  Registration = 4
)

// Known reports whether an unwinder may know the patch, or come to know it.
func (r *Record) Known() bool {
	return slices.ContainsFunc(r.Unwinders, func(u Unwinder) bool { return u.State != Untold && u.State != Forgotten })
}

// Registered reports whether all unwinders of the target know the patch.
func (r *Record) Registered() bool {
	return len(r.Unwinders) > 0 && !slices.ContainsFunc(r.Unwinders, func(u Unwinder) bool { return u.State != Registered })
}

// Function is one replaced function.
type Function struct {
	Name    string
	Old     uint64 // address of the original
	OldSize uint64
	New     uint64 // address of the replacement
	NewSize uint64

	Outlined []Extent // what the compiler moved out of the original
}

// Extent is a stretch of code.
type Extent struct{ Addr, Size uint64 }

// Write is one change of the target's text. Old is what the file holds, also in
// a patch that was put on top of another.
type Write struct {
	Function int // index into Functions, or Whole
	Addr     uint64
	Old, New []byte
}

// Whole is the Function of a write that switches all functions of a patch: the
// byte by which what their entries lead to tells the replacement from the old
// body. Until it is written calls reach the old bodies, which go on to be used.
const Whole = -1

// Switched reports whether the patch has such a byte, or its host one.
func (r *Record) Switched() bool {
	return len(r.Slots) > 0 || slices.ContainsFunc(r.Writes, func(w Write) bool { return w.Function == Whole })
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

// shares returns the function of the patch that shares a byte with an extent of
// old code, by its body or by its writes.
func (r *Record) shares(addr, n uint64) *Function {
	for i := range r.Functions {
		if f := &r.Functions[i]; addr < f.Old+f.OldSize && f.Old < addr+n {
			return f
		}
	}
	for _, w := range r.Writes {
		if w.Function != Whole && addr < w.Addr+uint64(len(w.Old)) && w.Addr < addr+n {
			return &r.Functions[w.Function]
		}
	}
	return nil
}
