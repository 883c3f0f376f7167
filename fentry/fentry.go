// Package fentry finds the patch sites of an image or object: for each
// function the place where calls can be redirected, the bytes that stand there,
// the room, and a verdict with its reason. It writes nothing.
//
// A Finder reads one file once: where its text is, where functions begin, what
// branches lead into their first bytes. Sites of all functions, or of one, are
// then answered from that.
package fentry

import (
	"livepatch/elfpatch"
	"livepatch/trampoline"
)

// Kind is what stands at a patch site.
type Kind string

const (
	FentryCall Kind = "fentry-call" // call __fentry__ (e8, or through a GOT slot, or a relocation)
	FentryNop  Kind = "fentry-nop"  // the five-byte NOP that replaced it
	Patchable  Kind = "patchable"   // NOPs of -fpatchable-function-entry, named by the table
	Prologue   Kind = "prologue"    // plain code that may be overwritten as a whole
	None       Kind = "none"        // nothing usable
)

// Kinds are all kinds, in the order of reports.
var Kinds = []Kind{FentryCall, FentryNop, Patchable, Prologue, None}

// Verdict says whether a function can be redirected.
type Verdict string

const (
	Yes        Verdict = "patchable"
	TooShort   Verdict = "too-short"
	BranchInto Verdict = "branch-into-site"
	InitText   Verdict = "init-text"
	NoSite     Verdict = "no-site"
	DataInText Verdict = "data-in-text"

	NoTrace     Verdict = "notrace"            // kernels: the table of ftrace does not name it
	Blacklisted Verdict = "kprobe-blacklisted" // the same, and kprobes refuse it too
)

// Verdicts are all verdicts, in the order of reports.
var Verdicts = []Verdict{Yes, TooShort, BranchInto, InitText, NoTrace, Blacklisted, NoSite, DataInText}

// MaxRoom is where Room ends: no redirect is longer.
const MaxRoom = trampoline.Arm64FarLen + trampoline.Arm64BranchLen

// Func is one function and its patch site. Addresses are link-time addresses,
// or offsets in the section for ET_REL.
type Func struct {
	Name         string   `json:"name"` // mangled; "sub_401000" where no symbol names it
	Aliases      []string `json:"aliases,omitempty"`
	Section      string   `json:"section"` // "" in files without section headers
	SectionIndex int      `json:"-"`       // in File.Sections, 0 without
	Addr         uint64   `json:"address"`
	Size         uint64   `json:"size"`
	Padding      int      `json:"padding"` // filler after the function up to the next
	Kind         Kind     `json:"kind"`
	Site         uint64   `json:"site"`
	Expected     Bytes    `json:"expected"`           // the Room bytes at Site
	Room         int      `json:"room"`               // bytes at Site that may be overwritten, MaxRoom at most
	Front        int      `json:"front"`              // filler bytes directly before Addr
	FrontBytes   Bytes    `json:"-"`                  // the last of them, as many as a redirect needs
	Nops         int      `json:"nops,omitempty"`     // bytes of NOPs at Site that the compiler left there to be patched
	Slot         *uint64  `json:"slot,omitempty"`     // aligned 8 bytes of patchable NOPs before Addr; nil without
	Landing      string   `json:"landing,omitempty"`  // landing pad at Addr: "endbr64", "bti c", "paciasp", …
	Lead         Bytes    `json:"lead,omitempty"`     // landing pad that a redirect starts with, where it overwrites one
	Strategy     string   `json:"strategy,omitempty"` // the first trampoline strategy that fits
	Verdict      Verdict  `json:"verdict"`
	Reason       string   `json:"reason,omitempty"` // of the verdict, or why the strategy is not near

	// Of kernels, modules and their objects.
	Ftrace            *uint64   `json:"ftrace,omitempty"`             // the place by which ftrace knows the site
	KCFI              *uint32   `json:"kcfi,omitempty"`               // hash of the type before the entry
	KprobeBlacklisted bool      `json:"kprobe_blacklisted,omitempty"` // kprobes refuse the function
	Notes             []string  `json:"notes,omitempty"`              // what a user of the site should know
	Entries           []Entries `json:"entries,omitempty"`            // with Options.Tables: what tables about code name in it
}

// TrampolineSite returns the site as the trampoline package wants it.
func (f Func) TrampolineSite() trampoline.Site {
	gap := 0
	if f.Site > f.Addr {
		gap = int(f.Site - f.Addr)
	}
	return trampoline.Site{
		Addr: f.Site, Expected: f.Expected, Room: f.Room,
		Front: f.Front, FrontBytes: f.FrontBytes, Gap: gap, Lead: f.Lead,
	}
}

// Options are what Find needs to know besides the file.
type Options struct {
	Debug   *elfpatch.File // separate debug file of the same build, for its symbols; nil without
	Section int            // ET_REL: index of the section that the address of At counts in

	// Of kernels: whether to list what tables name in each function, and the
	// size of a type of the kernel, where its type information is at hand.
	Tables     bool
	StructSize func(name string) (uint64, bool)

	also []candidate // functions that are taken to be there
}

// Find returns every function of a file with its patch site, in the order of
// sections and addresses. Files that contradict themselves are an
// *elfpatch.FormatError.
func Find(f *elfpatch.File, opt Options) ([]Func, error) {
	finder, err := NewFinder(f, opt)
	if err != nil {
		return nil, err
	}
	return finder.All(), nil
}

// At returns the patch site of the function of size bytes at addr, which need
// not be one that Find lists. Size 0 means up to the next function.
// Whoever asks for many functions of a file makes one Finder.
func At(f *elfpatch.File, addr, size uint64, opt Options) (Func, error) {
	finder, err := NewFinder(f, opt)
	if err != nil {
		return Func{}, err
	}
	return finder.At(addr, size)
}
