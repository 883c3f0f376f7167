// Package match proves that functions of a relocatable object are the code of
// a linked image, byte for byte apart from what linking changes, and learns
// from the linked fields where the object's symbols went, static ones included,
// also in a stripped image. It never guesses: when two answers fit, or when two
// sources disagree, it refuses.
package match

import (
	"bytes"
	"debug/elf"
	"fmt"

	"livepatch/elfpatch"
	"livepatch/internal/refusal"
)

// Use is a way in which a relocated field names a symbol. What the linker
// writes depends on it: a call may go to a PLT stub while a pointer holds the
// entry itself.
type Use uint8

const (
	Address   Use = iota // the address of the symbol
	Branch               // where calls and jumps to it go: its entry, or a PLT stub
	Slot                 // the GOT entry that holds its address at run time
	TPOffset             // a thread-local variable: offset from the thread pointer (signed)
	TPSlot               // the GOT entry that holds TPOffset
	DTPOffset            // offset in the module's own thread-local block
	TLSPair              // the two GOT words (module, offset) of the general dynamic model
	TLSModule            // the two GOT words of the local dynamic model, one for all symbols
	TLSDesc              // the two GOT words of a TLS descriptor
	CallSlot             // a word to call through; before the first call it may lead to the dynamic loader
	numUses
)

var useNames = [numUses]string{
	"address", "branch target", "GOT entry", "thread-pointer offset", "GOT entry of the thread-pointer offset",
	"offset in the thread-local block", "GOT pair", "GOT pair of the module", "TLS descriptor", "PLT word",
}

func (u Use) String() string {
	if u < numUses {
		return useNames[u]
	}
	return fmt.Sprintf("use %d", uint8(u))
}

// Found says how an address was found.
type Found string

const (
	BySymbol    Found = "symbol"    // .symtab of the target
	ByDynSymbol Found = "dynsym"    // its dynamic symbols
	ByDebug     Found = "debug"     // .symtab of the separate debug file
	ByReference Found = "reference" // a field of code already proven
	BySearch    Found = "search"    // the only place in the text that holds these bytes
)

// Options of Prove.
type Options struct {
	Object string // name of the before object in refusals
	Target string // name of the target in refusals

	// At says where functions are, by symbol, from the proof of the same source
	// compiled as the target's own build does. They are looked for nowhere else, and
	// jumps in them may have other lengths, in programs too.
	At map[int]Func
}

// Func is one proven function.
type Func struct {
	Symbol int    // in the before object
	Name   string // as the before object spells it
	Addr   uint64 // in the target, link-time
	Size   uint64
	Found  Found
	Masked Masked  // places that may hold other bytes than the object
	Extra  []Range // its outlined parts (".cold"), as far as its own branches lead to them
}

// Range is a stretch of the target's text.
type Range struct{ Addr, Size uint64 }

// Place is one thing known about a symbol.
type Place struct {
	Value uint64 // address, or offset as two's complement
	Found string // a Found, or the first field that showed it: "function+0x12"
	Uses  int    // fields of proven code that agree, 0 when only a symbol table says so
}

// Resolved is everything known about a symbol of the before object.
type Resolved map[Use]Place

// Proof is the answer of Prove.
type Proof struct {
	Funcs []Func // in the order asked for
	p     *prover
}

// Target is a linked file made ready for the proofs of many objects.
type Target struct {
	img   *image
	debug *elfpatch.File
}

// NewTarget reads the names and relocations of a linked file and its separate
// debug file, which may be nil.
func NewTarget(target, debug *elfpatch.File) (*Target, error) {
	if err := checkTarget(target, debug); err != nil {
		return nil, err
	}
	img, err := newImage(target, debug, nil)
	if err != nil {
		return nil, err
	}
	return &Target{img, debug}, nil
}

// Survey is what is known of each function that was asked for.
type Survey struct {
	Proof  *Proof // of those that are proven
	Missed []Missed
}

// Missed is a function that is not proven, and why.
type Missed struct {
	Symbol     int
	Name       string
	Refusal    refusal.Refusal
	Difference *Difference // nil if no place resembles it, or if its bytes are not what is wrong
	Unused     *Func       // where its code stands all the same, when the target runs another object's function of its name
}

// Survey looks for each of the functions, given as symbol indices of orig, in
// the target. Its errors are those of Prove but for refusals.
func (t *Target) Survey(orig *elfpatch.File, funcs []int, opt Options) (*Survey, error) {
	p, err := newProver(orig, t.img.f, t.debug, t.img, opt)
	if err != nil {
		return nil, err
	}
	return p.survey(funcs)
}

// Prove is the function of that name for this target.
func (t *Target) Prove(orig *elfpatch.File, funcs []int, opt Options) (*Proof, error) {
	s, err := t.Survey(orig, funcs, opt)
	if err != nil {
		return nil, err
	}
	return s.Whole()
}

// Prove shows for each of the functions, given as symbol indices of orig, that
// the target holds its code, and where. target and debug (which may be nil)
// are one linked file and its separate debug file. The error is a refusal.List
// with every function that could not be proven, a *elfpatch.FormatError, or
// says that the files cannot be compared at all.
func Prove(orig *elfpatch.File, funcs []int, target, debug *elfpatch.File, opt Options) (*Proof, error) {
	s, err := Try(orig, funcs, target, debug, opt)
	if err != nil {
		return nil, err
	}
	return s.Whole()
}

// Try is Prove for who can do with the proof of some of the functions.
func Try(orig *elfpatch.File, funcs []int, target, debug *elfpatch.File, opt Options) (*Survey, error) {
	if err := checkTarget(target, debug); err != nil {
		return nil, err
	}
	p, err := newProver(orig, target, debug, nil, opt)
	if err != nil {
		return nil, err
	}
	return p.survey(funcs)
}

// Whole is the proof of all functions; the error is a refusal.List with those
// that are not proven.
func (s *Survey) Whole() (*Proof, error) {
	var list refusal.List
	for _, m := range s.Missed {
		list = append(list, m.Refusal)
	}
	if err := list.Err(); err != nil {
		return nil, err
	}
	return s.Proof, nil
}

// survey is the proof, step by step.
func (p *prover) survey(funcs []int) (*Survey, error) {
	for _, sym := range funcs {
		f, err := p.obj.function(sym)
		if err != nil {
			return nil, err
		}
		if f == nil {
			p.refuse(refusal.Unsupported, sym, p.obj.symbolName(sym), "is not a function that the object defines")
			continue
		}
		p.want(f, true)
	}

	// Place: from here on each function that can be placed has one address, and its
	// fields agree with those of all others.
	p.settle()
	// When several places fit, other functions of the object may decide.
	if p.undecided() {
		p.helpAll()
		p.settle()
	}
	if p.img.kernel && p.undecided() {
		if err := p.askData(); err != nil {
			return nil, err
		}
		p.settle()
	}
	p.placeUnused()
	p.refuseFolded()
	p.crossExamine()

	// Compare data: from here on what the functions refer to reads the same in the
	// target as in the object.
	if err := p.compareData(); err != nil {
		return nil, err
	}
	p.judge()
	s := &Survey{Proof: &Proof{p: p}, Missed: p.missed}
	missed := map[int]bool{}
	for _, m := range p.missed {
		missed[m.Symbol] = true
	}
	for _, sym := range funcs {
		if !missed[sym] {
			s.Proof.Funcs = append(s.Proof.Funcs, p.report(p.funcs[sym]))
		}
	}
	return s, nil
}

// checkTarget refuses files that cannot be an image and its debug file.
func checkTarget(target, debug *elfpatch.File) error {
	switch {
	case target.Type != elf.ET_EXEC && target.Type != elf.ET_DYN:
		return fmt.Errorf("match: the target is neither executable nor shared library (%v)", target.Type)
	case debug != nil && debug.Machine != target.Machine:
		return fmt.Errorf("match: debug file and target are for different machines (%v, %v)", debug.Machine, target.Machine)
	case debug != nil:
		return sameBuild(target, debug)
	}
	return nil
}

// checkObject refuses files that cannot be an object of a target.
func checkObject(orig, target *elfpatch.File) error {
	switch {
	case orig.Type != elf.ET_REL:
		return fmt.Errorf("match: the before object is not relocatable (%v)", orig.Type)
	case orig.Machine != target.Machine:
		return fmt.Errorf("match: object and target are for different machines (%v, %v)", orig.Machine, target.Machine)
	case orig.Machine != elf.EM_X86_64 && orig.Machine != elf.EM_AARCH64:
		return fmt.Errorf("match: machine %v is not supported", orig.Machine)
	}
	return nil
}

// sameBuild refuses the debug file of another build, whose symbols would be
// wrong everywhere.
func sameBuild(target, debug *elfpatch.File) error {
	a, err := target.BuildID()
	if err != nil {
		return err
	}
	b, err := debug.BuildID()
	if err != nil {
		return err
	}
	if !bytes.Equal(a, b) {
		return fmt.Errorf("match: the debug file has build-id %x, the target %x", b, a)
	}
	return nil
}
