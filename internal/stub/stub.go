// Package stub makes the objects of a patch that nobody wrote: a function of a
// kernel as the image has it, and one in its place that returns at once. From there
// on they are a pair like those that compilers make.
package stub

import (
	"fmt"
	"strings"

	"livepatch/elfpatch"
	"livepatch/elfpatch/btf"
	"livepatch/fentry"
	"livepatch/internal/refusal"
	"livepatch/internal/safety"
)

// Value is what a stub returns; the zero value is nothing at all.
type Value struct {
	Given bool
	Int   int64
}

// A Function is a function of a kernel, or of a module.
type Function struct {
	Name string
	Addr uint64 // link-time
	Size uint64 // up to the next symbol
}

// Pair is a function before and after.
type Pair struct {
	Name        string // of the object, for messages
	Orig, After *elfpatch.File
	Findings    []safety.Finding // what speaks against returning at once
}

// Maker makes pairs for functions of one file.
type Maker struct {
	code   *code
	finder *fentry.Finder
	types  *btf.Table
}

// NewMaker takes the linked image; the file with the functions, which is the image too
// or a module laid out; the finder of patch sites in that; and its type information (BTF),
// nil without, of a module with that which it builds on. Both files have their symbols.
// The error is about the type information.
func NewMaker(image, f *elfpatch.File, finder *fentry.Finder, base, types []byte) (*Maker, error) {
	m := &Maker{code: newCode(f), finder: finder}
	if image != f {
		m.code.kernel = newCode(image)
	}
	var err error
	switch {
	case types == nil:
	case base == nil:
		m.types, err = btf.Parse(types)
	default:
		var below *btf.Table
		if below, err = btf.Parse(base); err == nil {
			m.types, err = btf.ParseSplit(below, types)
		}
	}
	return m, err
}

// Make makes the pair of a function. The error is a refusal, or says that the file
// is damaged.
func (m *Maker) Make(fn Function, value Value) (*Pair, error) {
	p := &Pair{Name: fn.Name + ".stub"}
	where := p.Name + ": " + fn.Name
	site, err := m.finder.At(fn.Addr, fn.Size)
	if err != nil {
		return nil, fmt.Errorf("look for the patch site of %s: %w", fn.Name, err)
	}
	switch {
	case site.Verdict != fentry.Yes:
		return nil, refusal.New(refusal.NoPatchSite, where, "ftrace cannot redirect it: %s", site.Reason)
	case !m.code.returns(fn.Addr):
		return nil, refusal.New(refusal.NeverReturns, where, "it does not return, and its callers have no code for when it does")
	}
	o := &objects{code: m.code, fn: fn, site: site}
	if err := o.make(value); err != nil {
		return nil, fmt.Errorf("make a stub of %s: %w", fn.Name, err)
	}
	p.Orig, p.After = o.before, o.after
	for _, text := range safety.Unbalanced(o.calls, m.code.has) {
		p.add(refusal.StubLock, safety.Refuse, where, text)
	}
	if text := m.unfit(fn.Name, value); text != "" {
		p.add(refusal.StubReturn, safety.Refuse, where, text)
	}
	return p, nil
}

func (p *Pair) add(code refusal.Code, level safety.Level, where, text string) {
	p.Findings = append(p.Findings, safety.Finding{Code: code, Level: level, Where: where, Text: text})
}

// stem is a name up to the suffixes that compilers append.
func stem(name string) string {
	s, _, _ := strings.Cut(name, ".")
	return s
}
