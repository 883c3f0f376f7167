// Package check answers, without touching a process, what a package contains
// and whether it fits the files that it was made for. It does what a loader
// does as far as files tell: identity, bytes, addresses, relocations and
// redirects are computed and compared, and nothing is written.
package check

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"fmt"

	"livepatch/elfpatch"
	"livepatch/internal/pack"
	"livepatch/internal/refusal"
	"livepatch/manifest"
)

// Status is the answer to one question.
type Status string

const (
	OK      Status = "ok"
	Refused Status = "refused"
	Later   Status = "later" // only the running process can tell
)

// Result is one question about a package and its answer.
type Result struct {
	Target string       `json:"target"`          // name of the target file
	What   string       `json:"what"`            // "signature", "identity", "function", "site", "import", "payload", "redirect"
	Where  string       `json:"where,omitempty"` // name of a function, symbol or section
	Status Status       `json:"status"`
	Code   refusal.Code `json:"code,omitempty"` // when refused
	Text   string       `json:"text"`
}

// Report is every question that was asked, in the order of the manifest.
type Report struct {
	Results    []Result `json:"results"`
	Signatures []Signer `json:"signatures"` // of a package
}

// Count returns how many results have a status.
func (r *Report) Count(s Status) int {
	n := 0
	for _, x := range r.Results {
		if x.Status == s {
			n++
		}
	}
	return n
}

// Refusals returns the refused results.
func (r *Report) Refusals() refusal.List {
	var list refusal.List
	for _, x := range r.Results {
		if x.Status != Refused {
			continue
		}
		where := x.Target
		if x.Where != "" {
			where += ": " + x.Where
		}
		list = append(list, refusal.New(x.Code, where, "%s", x.Text))
	}
	return list
}

// File is a file that a package may have been made for.
type File struct {
	Path string
	ELF  *elfpatch.File
}

// Package checks a package against files. Each target of the package must be
// among them; dynamic imports are looked up in all of them.
func Package(p *pack.Package, files []File) *Report {
	r := new(Report)
	for i := range p.Manifest.Targets {
		t := &p.Manifest.Targets[i]
		c := &checker{report: r, target: t, files: files, payload: p.Members[t.Payload.Member]}
		c.run()
	}
	return r
}

// A checker checks one target of a package.
type checker struct {
	report  *Report
	target  *manifest.Target
	files   []File
	payload []byte

	elf *elfpatch.File // the target's file
}

func (c *checker) add(what, where string, s Status, code refusal.Code, format string, args ...any) {
	c.report.Results = append(c.report.Results, Result{
		Target: c.target.Name, What: what, Where: where, Status: s, Code: code, Text: fmt.Sprintf(format, args...),
	})
}

func (c *checker) ok(what, where, format string, args ...any) {
	c.add(what, where, OK, "", format, args...)
}

func (c *checker) refuse(code refusal.Code, what, where, format string, args ...any) {
	c.add(what, where, Refused, code, format, args...)
}

func (c *checker) run() {
	if !c.identify() {
		return // nothing else can be said about another file
	}
	// From here on the file is the one that the package was made for.
	for i := range c.target.Functions {
		c.function(&c.target.Functions[i])
	}
	for i := range c.target.Writes {
		c.site(&c.target.Writes[i])
	}
	for i := range c.target.Imports {
		c.imported(&c.target.Imports[i])
	}
	c.checkPayload()
}

// Machine returns the machine that a manifest names.
func Machine(name string) elf.Machine {
	switch name {
	case manifest.MachineX86:
		return elf.EM_X86_64
	case manifest.MachineARM64:
		return elf.EM_AARCH64
	}
	return elf.EM_NONE
}

// identify finds the target's file by its build-id, or by the digest of its
// read-only bytes.
func (c *checker) identify() bool {
	t := c.target
	for _, f := range c.files {
		how, same := identity(t, f.ELF)
		if !same {
			continue
		}
		c.elf = f.ELF
		if f.ELF.Machine != Machine(t.Machine) {
			c.refuse(refusal.WrongTarget, "identity", "", "%s is for %v, not %s", f.Path, f.ELF.Machine, t.Machine)
			return false
		}
		if kind := Kind(f.ELF); kind != t.Kind && !(kind == manifest.KindPIE && t.Kind == manifest.KindLibrary) {
			c.refuse(refusal.WrongTarget, "identity", "", "%s is of kind %s, not %s", f.Path, kind, t.Kind)
			return false
		}
		c.ok("identity", "", "%s has %s", f.Path, how)
		return true
	}
	id := "build-id " + t.BuildID.String()
	if len(t.BuildID) == 0 {
		id = "SHA-256 " + t.SHA256.String()
	}
	c.refuse(refusal.WrongTarget, "identity", "", "no file given has %s%s", id, c.haveInstead())
	return false
}

func (c *checker) haveInstead() string {
	if len(c.files) != 1 {
		return ""
	}
	id, err := c.files[0].ELF.BuildID()
	if err != nil || id == nil {
		return "; " + c.files[0].Path + " has no build-id"
	}
	return fmt.Sprintf("; %s has %x", c.files[0].Path, id)
}

func identity(t *manifest.Target, f *elfpatch.File) (how string, same bool) {
	if len(t.BuildID) > 0 {
		id, err := f.BuildID()
		return "build-id " + t.BuildID.String(), err == nil && bytes.Equal(id, t.BuildID)
	}
	sum := ReadOnlyDigest(f)
	return "SHA-256 " + t.SHA256.String(), bytes.Equal(sum, t.SHA256)
}

// ReadOnlyDigest is the SHA-256 of the bytes of the segments that are loaded
// and not writable, in the order of the program headers. It identifies a file
// without build-id, in the process as well as on disk.
func ReadOnlyDigest(f *elfpatch.File) []byte {
	h := sha256.New()
	for _, s := range f.Segments {
		if s.Type != elf.PT_LOAD || s.Flags&elf.PF_W != 0 || s.FileSize > 1<<40 {
			continue
		}
		if b, ok := f.ReadAddr(s.VAddr, int(s.FileSize)); ok {
			h.Write(b)
		}
	}
	return h.Sum(nil)
}

// Kind returns the kind of target that a file is.
func Kind(f *elfpatch.File) string {
	if f.Type == elf.ET_EXEC {
		return manifest.KindExecutable
	}
	for _, s := range f.Segments {
		if s.Type == elf.PT_INTERP {
			return manifest.KindPIE
		}
	}
	if d, err := f.Dynamic(); err == nil && d != nil && d.Flags1&elf.DF_1_PIE != 0 {
		return manifest.KindPIE
	}
	return manifest.KindLibrary
}

func (c *checker) function(f *manifest.Function) {
	var body []byte
	ok := c.executable(f.Address, f.Size) && f.Size < maxMemory
	if ok {
		body, ok = c.elf.ReadAddr(f.Address, int(f.Size))
	}
	if !ok {
		c.refuse(refusal.WrongTarget, "function", f.Name, "no code at %#x, %#x bytes", f.Address, f.Size)
		return
	}
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], f.SHA256) {
		c.refuse(refusal.NotTheRunningCode, "function", f.Name, "the body at %#x is not the one that the patch was made for", f.Address)
		return
	}
	for _, r := range f.Extra {
		if !c.executable(r.Address, r.Size) {
			c.refuse(refusal.WrongTarget, "function", f.Name, "no code at %#x, %#x bytes, of the part moved out of it", r.Address, r.Size)
			return
		}
	}
	c.ok("function", f.Name, "%d bytes at %#x are the old body", f.Size, f.Address)
}

func (c *checker) site(w *manifest.Write) {
	name := c.target.Functions[w.Function].Name
	have, ok := c.elf.ReadAddr(w.Address, w.Length)
	switch {
	case !ok || !c.executable(w.Address, uint64(w.Length)):
		c.refuse(refusal.WrongTarget, "site", name, "no code at %#x, %d bytes", w.Address, w.Length)
	case !bytes.Equal(have, w.Expected):
		c.refuse(refusal.SiteChanged, "site", name, "%x at %#x, expected %s", have, w.Address, w.Expected)
	default:
		c.ok("site", name, "%s at %#x", w.Expected, w.Address)
	}
}

// executable reports whether an extent lies in one executable segment.
func (c *checker) executable(addr, size uint64) bool {
	s, ok := c.segment(addr, size)
	return ok && s.Flags&elf.PF_X != 0
}

func (c *checker) segment(addr, size uint64) (elfpatch.Segment, bool) {
	for _, s := range c.elf.Segments {
		if s.Type == elf.PT_LOAD && addr >= s.VAddr && addr-s.VAddr <= s.MemSize && size <= s.MemSize-(addr-s.VAddr) {
			return s, true
		}
	}
	return elfpatch.Segment{}, false
}
