package modcheck

import (
	"errors"
	"fmt"

	"livepatch/elfpatch"
	"livepatch/internal/check"
	"livepatch/internal/kimage"
	"livepatch/internal/refusal"
)

// What results are about.
const (
	whatFormat     = "format"     // ELF file, .modinfo, struct module
	whatPatch      = "patch"      // klp_patch and what it leads to
	whatFunction   = "function"   // one function that is replaced
	whatSymbol     = "symbol"     // symbols of livepatch relocations
	whatRelocation = "relocation" // relocations, livepatch's and ordinary ones
	whatImport     = "import"     // exported symbols
	whatKernel     = "kernel"     // vermagic, structure layouts
	whatTable      = "table"      // special sections
	whatEntry      = "entry"      // landing pads
	whatMitigation = "mitigation" // returns and indirect branches
	whatUnwind     = "unwind"     // ORC
)

// Set is what a module is checked against. All parts are optional: what cannot
// be answered without them is reported as left to the kernel.
type Set struct {
	Kernel  *kimage.Kernel
	Modules []*kimage.Module
	Symbols []kimage.Symbol          // kallsyms of the kernel, where Kernel is not given or has none
	Exports map[string]kimage.Export // Module.symvers, beside what Kernel and Modules say
	Base    *kimage.Module           // the base module of a package for direct calls
}

// Check asks every question about a livepatch module, compressed or not. Files that are
// no modules get a refused result as well, never an error.
func Check(b []byte, set Set) *check.Report {
	c := &checker{report: &check.Report{Results: []check.Result{}}, refused: map[string]int{}, text: map[int]*text{}}
	m, err := open(b)
	if err != nil {
		var format *elfpatch.FormatError
		if !errors.As(err, &format) {
			err = fmt.Errorf("unpack: %w", err)
		}
		c.refuse(refusal.ModuleFormat, whatFormat, "", "%v", err)
		return c.report
	}
	c.module, c.title = m, m.moduleName()
	c.target = newTarget(set, m.f.Machine)
	if !c.checkFormat() {
		return c.report
	}
	// From here on the file is a module that calls the livepatch core, or one of
	// the two that do without.
	c.patch = m.findPatch(c.target.layout)
	c.checkKernel()
	if !c.isBase() {
		c.checkPatch()
	}
	c.checkSymbols()
	c.checkImports()
	c.checkText()
	// From here on it is known where the instructions of the module begin.
	c.checkRelocations()
	c.checkTables()
	c.checkDirect()
	c.checkEntries()
	c.checkHashes()
	c.checkUnwind()
	c.summarize()
	return c.report
}

// A checker checks one module.
type checker struct {
	*module
	title  string
	report *check.Report
	target *target
	patch  *patch
	text   map[int]*text    // by section
	taken  map[place]string // functions whose address is taken, and where
	mapped map[int]spans    // data in text, by section

	outside map[foreign]use        // symbols of the kernel and of modules that are referred to, but for branches
	before  map[string]*references // what replaced functions refer to; nil: not read

	refused map[string]int // by what and code, to bound the report
}

// maxRefusals bounds how often one thing is refused for one reason. A broken
// table would fill pages otherwise.
const maxRefusals = 20

func (c *checker) add(r check.Result) {
	r.Target = c.title
	c.report.Results = append(c.report.Results, r)
}

func (c *checker) ok(what, where, format string, args ...any) {
	c.add(check.Result{What: what, Where: where, Status: check.OK, Text: fmt.Sprintf(format, args...)})
}

func (c *checker) later(what, where, format string, args ...any) {
	c.add(check.Result{What: what, Where: where, Status: check.Later, Text: fmt.Sprintf(format, args...)})
}

func (c *checker) refuse(code refusal.Code, what, where, format string, args ...any) {
	key := what + " " + string(code)
	c.refused[key]++
	if c.refused[key] <= maxRefusals {
		c.add(check.Result{What: what, Where: where, Status: check.Refused, Code: code, Text: fmt.Sprintf(format, args...)})
	}
}

// refusals is how many refusals of one kind there are so far; a check that
// adds none says so in one result.
func (c *checker) refusals(what string) int {
	n := 0
	for key, k := range c.refused {
		if len(key) > len(what) && key[:len(what)] == what && key[len(what)] == ' ' {
			n += k
		}
	}
	return n
}

// count is a number of things, in words.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// summarize says how many refusals were left out.
func (c *checker) summarize() {
	for i := 0; i < len(c.report.Results); i++ {
		r := &c.report.Results[i]
		key := r.What + " " + string(r.Code)
		if n := c.refused[key]; r.Status == check.Refused && n > maxRefusals {
			r.Text += fmt.Sprintf(" (and %d more of this kind)", n-maxRefusals)
			c.refused[key] = maxRefusals
		}
	}
}
