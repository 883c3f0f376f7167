package fentry

import (
	"debug/elf"
	"regexp"
	"slices"

	"livepatch/disasm"
	"livepatch/elfpatch"
	"livepatch/trampoline"
)

// Report is what is said of one image: docs/sites.md describes its JSON.
type Report struct {
	File      string  `json:"file"`
	Machine   string  `json:"machine"`            // "x86-64", "arm64"
	Type      string  `json:"type"`               // "object", "module", "kernel", "executable", "shared"
	BuildID   Bytes   `json:"build_id,omitempty"` // GNU build-id
	Bias      *uint64 `json:"bias,omitempty"`     // process: what is added to addresses
	Functions []Row   `json:"functions"`
	Tables    []Table `json:"tables,omitempty"` // kernels: the tables about code, whatever the filter
	Summary   Summary `json:"summary"`          // of Functions
}

// Row is one function of a report.
type Row struct {
	Func
	Live    Bytes   `json:"live,omitempty"`     // process: the bytes at Site, where they differ from Expected
	LeadsTo *uint64 `json:"leads_to,omitempty"` // process: where a redirect at Site leads
}

// Summary counts functions.
type Summary struct {
	Functions int             `json:"functions"`
	Verdicts  map[Verdict]int `json:"verdicts"`
	Kinds     map[Kind]int    `json:"kinds"`
	Modified  int             `json:"modified"` // process: whose site does not hold the bytes of the file
}

// Filter selects functions. Empty parts select all.
type Filter struct {
	Name     *regexp.Regexp      // in the name, an alias, or what Readable makes of either
	Readable func(string) string // demangles; nil without
	Kinds    []Kind
	Verdicts []Verdict
	Tables   bool // say of each function what tables name in it
}

// Has says whether the filter selects a function.
func (l Filter) Has(f *Func) bool {
	if len(l.Kinds) > 0 && !slices.Contains(l.Kinds, f.Kind) || len(l.Verdicts) > 0 && !slices.Contains(l.Verdicts, f.Verdict) {
		return false
	}
	return l.Name == nil || l.named(f.Name) || slices.ContainsFunc(f.Aliases, l.named)
}

func (l Filter) named(name string) bool {
	return l.Name.MatchString(name) || l.Readable != nil && l.Name.MatchString(l.Readable(name))
}

// NewReport describes the functions of a file that the filter selects. The
// report does not refer to the bytes of the file.
func NewReport(path string, f *elfpatch.File, opt Options, filter Filter) (*Report, error) {
	opt.Tables = opt.Tables || filter.Tables
	finder, err := NewFinder(f, opt)
	if err != nil {
		return nil, err
	}
	id, err := f.BuildID()
	if err != nil {
		return nil, err
	}
	r := &Report{File: path, Machine: disasm.MachineName(f.Machine), Type: finder.typeName(), BuildID: slices.Clone(id), Functions: []Row{}, Tables: finder.Tables()}
	for _, fn := range finder.All() {
		if filter.Has(&fn) {
			fn.Expected, fn.FrontBytes = slices.Clone(fn.Expected), slices.Clone(fn.FrontBytes)
			r.Functions = append(r.Functions, Row{Func: fn})
		}
	}
	r.count()
	return r, nil
}

func (fd *Finder) typeName() string {
	switch {
	case fd.kernel != nil && fd.kernel.image:
		return "kernel"
	case fd.kernel != nil && fd.kernel.module:
		return "module"
	case fd.file.Type == elf.ET_REL:
		return "object"
	case fd.file.Type == elf.ET_EXEC || fd.isPIE():
		return "executable"
	}
	return "shared"
}

// isPIE tells position-independent executables from libraries: they name an
// interpreter, or say so.
func (fd *Finder) isPIE() bool {
	const flagPIE = 0x08000000 // DF_1_PIE
	for _, p := range fd.file.Segments {
		if p.Type == elf.PT_INTERP {
			d, err := fd.file.Dynamic()
			return err != nil || d == nil || d.Soname == "" || d.Flags1&flagPIE != 0
		}
	}
	d, err := fd.file.Dynamic()
	return err == nil && d != nil && d.Flags1&flagPIE != 0
}

// count fills the summary.
func (r *Report) count() {
	s := Summary{Functions: len(r.Functions), Verdicts: map[Verdict]int{}, Kinds: map[Kind]int{}}
	for i := range r.Functions {
		f := &r.Functions[i]
		s.Verdicts[f.Verdict]++
		s.Kinds[f.Kind]++
		if f.Live != nil {
			s.Modified++
		}
	}
	r.Summary = s
}

// Compare notes where the memory of a process differs from the file at patch
// sites. bias is what is added to addresses there; read returns up to n bytes
// at an address of the process.
func (r *Report) Compare(bias uint64, read func(addr uint64, n int) []byte) {
	m := elf.EM_X86_64
	if r.Machine == disasm.MachineName(elf.EM_AARCH64) {
		m = elf.EM_AARCH64
	}
	r.Bias = &bias
	for i := range r.Functions {
		f := &r.Functions[i]
		live := read(f.Site+bias, len(f.Expected))
		if len(live) != len(f.Expected) || slices.Equal(live, f.Expected) {
			continue
		}
		f.Live = live
		if target, ok := trampoline.Follow(m, f.Site+bias, read); ok {
			f.LeadsTo = &target
		}
	}
	r.count()
}
