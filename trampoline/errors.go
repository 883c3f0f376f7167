package trampoline

import (
	"debug/elf"
	"fmt"
)

// A RoomError says that a site is too small for a strategy.
type RoomError struct {
	Addr       uint64
	Strategy   Strategy
	Need, Have int    // bytes
	What       string // "" for the site itself, "filler before the entry", …
}

func (e *RoomError) Error() string {
	what := e.What
	if what == "" {
		what = "site"
	}
	return fmt.Sprintf("%s jump at %#x needs %d bytes, the %s has %d", e.Strategy, e.Addr, e.Need, what, e.Have)
}

// A BytesError says that a site does not tell what stands where a strategy
// writes.
type BytesError struct {
	Addr       uint64
	Need, Have int
}

func (e *BytesError) Error() string {
	return fmt.Sprintf("%d bytes at %#x are to be overwritten, only %d are known", e.Need, e.Addr, e.Have)
}

// A ReachError says that a target is too far away for a jump.
type ReachError struct {
	Kind       HoleKind
	At, Target uint64 // address of the hole and of the target
}

func (e *ReachError) Error() string {
	return fmt.Sprintf("target %#x is out of reach of the %s field at %#x", e.Target, e.Kind, e.At)
}

// An AlignError says that an address of arm64 code is not a multiple of four.
type AlignError struct{ Addr uint64 }

func (e *AlignError) Error() string {
	return fmt.Sprintf("address %#x is not a multiple of 4", e.Addr)
}

// An UnsupportedError says that a machine has no such strategy.
type UnsupportedError struct {
	Machine  elf.Machine
	Strategy Strategy
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("no %s jump on %s", e.Strategy, e.Machine)
}

// A HoleError says that a hole does not lie in its template or is of no known
// kind. Templates of Make have none; those of a package may.
type HoleError struct {
	Hole Hole
	Len  int // of the template
}

func (e *HoleError) Error() string {
	return fmt.Sprintf("hole %q at offset %d does not fit a template of %d bytes", string(e.Hole.Kind), e.Hole.Off, e.Len)
}
