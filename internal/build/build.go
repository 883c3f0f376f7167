// Package build makes a package from before and after objects and the files
// that they are linked into. It is a pure function of its inputs: the same
// inputs give the same bytes, on any system.
package build

import (
	"cmp"
	"debug/elf"
	"errors"
	"fmt"
	"slices"

	"livepatch/elfpatch"
	"livepatch/elfpatch/diff"
	"livepatch/elfpatch/match"
	"livepatch/internal/kimage"
	"livepatch/internal/pack"
	"livepatch/internal/pobj"
	"livepatch/internal/refusal"
	"livepatch/internal/safety"
	"livepatch/manifest"
	"livepatch/trampoline"
)

// Inputs are everything that a package is made from.
type Inputs struct {
	Name     string              // of the patch
	Version  string              // of livepatch, recorded in the manifest
	Dispatch trampoline.Dispatch // how calls of functions get to their replacements; empty for Direct
	Targets  []Target
	Kernel   *Kernel // the targets are this kernel and its modules

	Requires []manifest.Requirement // packages that this one builds on

	// Record is what the manifest says of how the package was made; nil for
	// nothing. Proofs and findings are added to a copy of it.
	Record *manifest.Build

	// Allow are the codes of findings that are recorded instead of refused.
	Allow []refusal.Code
}

// Target is one linked file and the pairs of objects that changed in it.
type Target struct {
	Name   string // base name of the file
	File   *elfpatch.File
	Debug  *elfpatch.File // its separate debug file, nil without
	Module *kimage.Module // instead of File, for a kernel module
	Pairs  []Pair
}

// Pair is one object before and after the change.
type Pair struct {
	OrigName, PatchedName string // base names, for messages
	Orig, Patched         *elfpatch.File

	// Plain is the before object as the target's own build makes it, nil without.
	// Orig may have a section for each function where Plain has one for all.
	Plain *elfpatch.File

	// Made: no compiler made the objects, but internal/stub; they have no types that
	// could be compared. Findings are what it says against the change.
	Made     bool
	Findings []safety.Finding

	Lines *diff.LineShift // how the patch moved the lines of its sources, nil if not known

	Checksums []Checksum // of exports, that the patch changes
}

// A Checksum is that of a symbol which a kernel object exports: it stands for the
// types that lead from the symbol.
type Checksum struct {
	Name, Before, After string
	Types               []string // that are other ones; none if not known
	Known               bool     // they are not: the object knows more of them than before
}

// Result is a package with what led to it, for reports.
type Result struct {
	Package  *pack.Package // nil when it was refused
	Parts    []Part
	Findings []Finding // about the change, by target
}

// Part is one pair of the patch: what differs, and where it is in the target.
type Part struct {
	Target *Target
	Pair   Pair
	Delta  *diff.Delta
	Proof  *match.Proof // nil if nothing of the pair is part of the patch, or nothing was proven
	Cut    *diff.Cut    // nil likewise
}

// ErrNothingToPatch says that no pair has a changed function.
var ErrNothingToPatch = errors.New("nothing to patch: no function differs")

// Create makes the package. The error is ErrNothingToPatch, a refusal.List with
// every reason found, or says which input cannot be read.
func Create(in Inputs) (*pack.Package, error) {
	r, err := Run(in)
	if err != nil {
		return nil, err
	}
	return r.Package, nil
}

// Run makes the package and keeps what led to it. Its errors are those of
// Create; with a refusal.List the result has what is known of each pair.
func Run(in Inputs) (*Result, error) {
	if err := checkInputs(in); err != nil {
		return nil, err
	}
	if in.Kernel != nil {
		return createKernel(in)
	}
	p := &pack.Package{
		Manifest: &manifest.Manifest{
			Format: manifest.Format, Name: in.Name,
			Tool: manifest.Tool{Name: "livepatch", Version: in.Version}, Requires: in.Requires,
		},
		Members: map[string][]byte{},
	}
	out := &Result{Package: p}
	var refusals refusal.List
	for i := range in.Targets {
		t := in.Targets[i]
		member := fmt.Sprintf("payload/%d.o", len(p.Manifest.Targets))
		s := &steps{target: t, way: cmp.Or(in.Dispatch, trampoline.Direct)}
		entry, payload, err := s.run(member, in.Allow)
		out.Parts = append(out.Parts, s.made()...)
		out.Findings = append(out.Findings, s.findings...)
		var list refusal.List
		switch {
		case errors.As(err, &list):
			refusals = append(refusals, list...)
			continue
		case err != nil:
			return nil, fmt.Errorf("%s: %w", t.Name, err)
		case entry == nil:
			continue // nothing changed in it
		}
		p.Manifest.Targets = append(p.Manifest.Targets, *entry)
		p.Members[member] = payload
	}
	if err := refusals.Err(); err != nil {
		return &Result{Parts: out.Parts, Findings: out.Findings}, err
	}
	if len(p.Manifest.Targets) == 0 {
		return nil, ErrNothingToPatch
	}
	p.Manifest.Build = in.record(out.Parts, out.Findings)
	if err := p.Manifest.Validate(); err != nil {
		return nil, fmt.Errorf("make the manifest: %w", err)
	}
	return out, nil
}

// run is the pipeline for one target. Refusals of a step are kept, and the next
// steps go on with what is left, so that one run names every reason.
func (s *steps) run(member string, allow []refusal.Code) (*manifest.Target, []byte, error) {
	// Compare: from here on every function and variable of each pair is the
	// same, changed, new or removed, and what cannot be patched at all is known.
	if err := s.compare(); err != nil {
		return nil, nil, err
	}
	if s.changed() == 0 {
		return nil, nil, s.refusals.Err()
	}

	// Prove: from here on each changed function has exactly one address in the
	// target, where its code stands byte for byte as the before object has it.
	if err := s.prove(); err != nil {
		return nil, nil, err
	}

	// Cut: from here on what is loaded is separate from what is only compared,
	// and every name that crosses the border is an external.
	if err := s.cut(); err != nil {
		return nil, nil, err
	}

	// Judge: from here on what the change means for what runs is refused, allowed
	// by who makes the package, or a finding for who reads it.
	s.judge(allow)

	// Find, Plan: from here on each changed function has a patch site, and the
	// bytes that redirect it, and what they lead through, are known but for the
	// addresses of the run.
	if err := s.plan(); err != nil {
		return nil, nil, err
	}

	// All that can be said against the patch before linking has been said.
	if err := s.refusals.Err(); err != nil {
		return nil, nil, err
	}

	// Link: from here on every external has a definite owner: an address or GOT
	// entry of the target, or a name that the loader looks up.
	linked, err := pobj.Link(s.target.File.Machine, s.parts, s.dispatch())
	if err != nil {
		return nil, nil, err
	}

	// Manifest: the contract with the loader; it repeats nothing that the
	// payload says, and the payload's undefined symbols are its imports.
	entry, err := s.describe(member, linked)
	if err != nil {
		return nil, nil, err
	}
	return entry, linked.Object, nil
}

// steps is what the pipeline knows about one target.
type steps struct {
	target   Target
	kernel   bool // the objects are a kernel's
	way      trampoline.Dispatch
	pairs    []*pairSteps
	parts    []pobj.Part
	plans    []planned // by address, once all are known
	pieces   []trampoline.Piece
	refusals refusal.List
	findings []Finding
}

// pairSteps is what it knows about one pair.
type pairSteps struct {
	Pair
	delta *diff.Delta
	proof *match.Proof
	cut   *diff.Cut

	// elsewhere are changed functions that another pair replaces, as symbols of
	// the after object.
	elsewhere map[int]bool
}

// made lists the pairs for the result.
func (s *steps) made() (out []Part) {
	for _, p := range s.pairs {
		out = append(out, Part{Target: &s.target, Pair: p.Pair, Delta: p.delta, Proof: p.proof, Cut: p.cut})
	}
	return out
}

// note keeps the refusals in err; other errors are returned.
func (s *steps) note(err error) error {
	list := refusal.Of(err)
	s.refusals = append(s.refusals, list...)
	if list != nil {
		return nil
	}
	return err
}

func (s *steps) changed() (n int) {
	for _, p := range s.pairs {
		n += len(p.changed())
	}
	return n
}

// changed returns the symbols of the changed functions in the before object.
// An outlined part is replaced with the function that it is a part of.
func (p *pairSteps) changed() (syms []int) {
	for _, f := range p.delta.Funcs {
		if f.Status == diff.Changed && f.Parent == 0 && !p.elsewhere[f.Patched] {
			syms = append(syms, f.Orig)
		}
	}
	return syms
}

// adds reports whether the after object has names that others may use and the
// before object had not, or kept to itself.
func (p *pairSteps) adds() bool {
	found := false
	p.eachPatched(func(orig, patched int) {
		found = found || p.Patched.Symbols[patched].Bind != elf.STB_LOCAL && (orig == 0 || p.Orig.Symbols[orig].Bind == elf.STB_LOCAL)
	})
	return found
}

// eachPatched calls fn with every named function and variable of the after
// object and its twin in the before object, 0 if it is new.
func (p *pairSteps) eachPatched(fn func(orig, patched int)) {
	for _, f := range p.delta.Funcs {
		if f.Patched != 0 {
			fn(f.Orig, f.Patched)
		}
	}
	for _, d := range p.delta.Data {
		if d.Patched != 0 {
			fn(d.Orig, d.Patched)
		}
	}
}

func checkInputs(in Inputs) error {
	switch {
	case in.Dispatch == "" || in.Dispatch == trampoline.Direct:
	case !slices.Contains(trampoline.Dispatches, in.Dispatch):
		return fmt.Errorf("dispatch %q is not known", in.Dispatch)
	case in.Kernel != nil && in.Dispatch != trampoline.Shared:
		return fmt.Errorf("dispatch %s is for processes", in.Dispatch)
	}
	if len(in.Targets) == 0 {
		return errors.New("no target")
	}
	for _, t := range in.Targets {
		if len(t.Pairs) == 0 {
			return fmt.Errorf("%s: no pair of objects", t.Name)
		}
	}
	return nil
}
