package manifest

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of a manifest. They are far above what a patch needs and keep the
// work of a loader bounded on a hostile one.
const (
	MaxName     = 128      // bytes of a patch name
	MaxText     = 4096     // bytes of any other string; C++ symbol names get long
	MaxTargets  = 64       // files in one patch
	MaxRequires = 64       // packages that one builds on
	MaxList     = 1 << 16  // functions, variables, imports or writes of one target
	MaxPayload  = 64 << 20 // bytes of one payload
	MinPayload  = 64       // bytes: the header of an ELF64 file
	MaxWrite    = 64       // bytes; the longest redirect has 16
	MaxRoom     = 1 << 16  // bytes
	MaxFront    = 256      // bytes before a function that its writes may cover
	maxProblems = 20       // printed
)

// The words that a manifest may use.
const (
	KindExecutable = "executable"
	KindPIE        = "pie"
	KindLibrary    = "library"

	MachineX86   = "x86-64"
	MachineARM64 = "arm64"

	DispatchDirect = "direct" // of a function, the empty word
	DispatchGated  = "gated"
	DispatchShared = "shared"
	DispatchSlot   = "slot"

	PieceEntry   = "entry"
	PieceHandler = "handler"
	PieceTable   = "table"
	PieceRecord  = "record"
	PieceVersion = "version"

	ImportTarget    = "target"
	ImportTLSOffset = "tls-offset"
	ImportDynamic   = "dynamic"
)

func targetKinds() []string { return []string{KindExecutable, KindPIE, KindLibrary} }
func machines() []string    { return []string{MachineX86, MachineARM64} }
func proofs() []string      { return []string{"symbol", "dynsym", "debug", "search", "reference"} }
func siteKinds() []string   { return []string{"fentry-call", "fentry-nop", "patchable", "prologue"} }

// strategies tells for each strategy how many writes it takes.
func strategies() map[string]int {
	return map[string]int{"near": 1, "far": 1, "filler": 2, "veneer": 1, "slot": 2}
}

// hole is what a kind of hole covers.
type hole struct {
	size    int
	machine string // "" for all
	mask    byte   // bits of its last byte that belong to the template (the opcode)
}

func holeKinds() map[string]hole {
	return map[string]hole{
		"rel32":    {size: 4, machine: MachineX86},
		"abs64":    {size: 8},
		"branch26": {size: 4, machine: MachineARM64, mask: 0xfc},
	}
}

// A Problem is one thing that is wrong with a manifest.
type Problem struct {
	Where string // "targets[0].functions[2].site.room"
	Text  string
}

// An InvalidError lists everything that is wrong with a manifest.
type InvalidError struct{ Problems []Problem }

func (e *InvalidError) Error() string {
	lines := make([]string, 0, len(e.Problems))
	for i, p := range e.Problems {
		if i == maxProblems {
			lines = append(lines, fmt.Sprintf("and %d more", len(e.Problems)-i))
			break
		}
		lines = append(lines, p.Where+": "+p.Text)
	}
	return strings.Join(lines, "; ")
}

// Validate reports everything in the manifest that contradicts the format or
// itself, as an *InvalidError. What only the target or the payload can tell is
// not checked here.
func (m *Manifest) Validate() error {
	c := new(checker)
	if m.Format != Format {
		c.add("format", "is %q, not %q", m.Format, Format)
	}
	if err := CheckName(m.Name); err != nil {
		c.add("name", "%v", err)
	}
	c.text("tool.name", m.Tool.Name)
	c.text("tool.version", m.Tool.Version)
	if m.Kernel != nil {
		c.count("targets", len(m.Targets), 0, 0)
		c.kernel("kernel", m.Kernel)
	} else {
		c.count("targets", len(m.Targets), 1, MaxTargets)
	}
	for i := range m.Targets {
		at := fmt.Sprintf("targets[%d]", i)
		c.target(at, &m.Targets[i], fmt.Sprintf("payload/%d.o", i))
	}
	c.sameFiles(m.Targets)
	c.requires(m)
	if m.Build != nil {
		c.build("build", m.Build)
	}
	if len(c.problems) == 0 {
		return nil
	}
	return &InvalidError{c.problems}
}

func (c *checker) requires(m *Manifest) {
	most := MaxRequires
	if m.Kernel != nil {
		most = 0 // the kernel knows no such order
	}
	c.count("requires", len(m.Requires), 0, most)
	for i, r := range m.Requires {
		at := fmt.Sprintf("requires[%d]", i)
		if !validName(r.Name) {
			c.add(at+".name", "%.40q is not a patch name", r.Name)
		}
		c.bytes(at+".sha256", r.SHA256, sha256.Size)
		if slices.ContainsFunc(m.Requires[:i], func(o Requirement) bool { return bytes.Equal(o.SHA256, r.SHA256) }) {
			c.add(at+".sha256", "is required twice")
		}
	}
}

type checker struct{ problems []Problem }

func (c *checker) add(where, format string, args ...any) {
	c.problems = append(c.problems, Problem{where, fmt.Sprintf(format, args...)})
}

func (c *checker) count(where string, n, least, most int) {
	if n < least || n > most {
		c.add(where, "has %d entries, not %d to %d", n, least, most)
	}
}

func (c *checker) bytes(where string, h Hex, n int) {
	if len(h) != n {
		c.add(where, "has %d bytes, not %d", len(h), n)
	}
}

func (c *checker) word(where, s string, known []string) {
	if !slices.Contains(known, s) {
		c.add(where, "%.40q is none of %s", s, strings.Join(known, ", "))
	}
}

// text checks a string that must say something: valid UTF-8, so that encoding
// keeps it, and without control characters, so that it can be printed.
func (c *checker) text(where, s string) {
	if s == "" {
		c.add(where, "is empty")
	}
	c.optional(where, s)
}

func (c *checker) optional(where, s string) {
	switch {
	case len(s) > MaxText:
		c.add(where, "has %d bytes, more than %d", len(s), MaxText)
	case !utf8.ValidString(s):
		c.add(where, "%.40q is not UTF-8", s)
	case strings.ContainsFunc(s, unprintable):
		c.add(where, "%.40q holds a control character", s)
	}
}

func unprintable(r rune) bool {
	// Cf: the bidirectional overrides, which make a name read as another.
	return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029'
}

// base checks the name of a file without directories.
func (c *checker) base(where, s string) {
	c.text(where, s)
	if strings.Contains(s, "/") || s == "." || s == ".." {
		c.add(where, "%.40q is not the name of a file without directories", s)
	}
}

// extent checks that [addr, addr+size) lies in the address space.
func (c *checker) extent(where string, addr, size uint64) {
	if size > math.MaxUint64-addr {
		c.add(where, "%#x bytes at %#x run past the end of the address space", size, addr)
	}
}

// CheckName says what is wrong with the name of a patch.
func CheckName(s string) error {
	if !validName(s) {
		return fmt.Errorf("%.40q is not a patch name: 1 to %d letters, digits, '.', '_' or '-', the first a letter or digit", s, MaxName)
	}
	return nil
}

func validName(s string) bool {
	if s == "" || len(s) > MaxName {
		return false
	}
	for i := range len(s) {
		b := s[i]
		switch {
		case b >= 'a' && b <= 'z', b >= 'A' && b <= 'Z', b >= '0' && b <= '9':
		case i > 0 && (b == '.' || b == '_' || b == '-'):
		default:
			return false
		}
	}
	return true
}
