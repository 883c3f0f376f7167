package fentry

import (
	"debug/elf"
	"fmt"
	"strings"

	"livepatch/disasm"
	"livepatch/trampoline"
)

// entry is what the first instructions of a function say: where a redirect may
// begin, and what it must not lose.
type entry struct {
	landing string // landing pad: "endbr64", "bti c", "paciasp", …
	gap     int    // bytes of it that stay
	lead    []byte // landing pad to write where the one there is overwritten
}

// describe finds the patch site of one function.
func (fd *Finder) describe(t *text, s *Start) Func {
	next := t.next(s.off)
	end := s.off + int(s.Size)
	f := Func{
		Name: fd.nameOf(s), Section: s.Section, SectionIndex: s.SectionIndex, Addr: s.Addr, Size: s.Size,
		Kind: Prologue,
	}
	if len(s.Names) > 1 {
		f.Aliases = s.Names[1:]
	}
	if end <= next && t.ended(s.off) <= end {
		f.Padding = fd.fillerAfter(t.bytes[end:next])
	}
	fd.measureFront(t, s, &f)
	e := fd.readEntry(t.bytes[s.off:])
	f.Landing, f.Lead, f.Site = e.landing, e.lead, s.Addr+uint64(e.gap)
	site := s.off + e.gap
	limit := max(site, min(next, end+f.Padding))
	if fd.kernel != nil {
		fd.describeKernel(t, s, &f)
		return f
	}

	fd.classify(t, &f, s, limit)
	room := min(limit, site+MaxRoom)
	cut, isCut := fd.into(s.text, site+1, room)
	if isCut {
		room = cut.off
	}
	f.Room = room - site
	f.Expected = t.bytes[site:room:room]
	fd.judge(t, &f, site, max(limit, end))
	if f.Verdict == "" {
		fd.choose(&f)
	}
	fd.explain(&f, s, cut, isCut)
	return f
}

// nameOf returns the name that reports use.
func (fd *Finder) nameOf(s *Start) string {
	if len(s.Names) > 0 {
		return s.Names[0]
	}
	return fmt.Sprintf("sub_%x", s.Addr)
}

// frontKept is how much filler is kept: an aligned word and what may follow it,
// or a jump.
const frontKept = 16

// measureFront measures the filler before a function. All bytes since the last
// function are decoded: the end of an instruction may look like NOPs.
func (fd *Finder) measureFront(t *text, s *Start, f *Func) {
	from := t.ended(s.off)
	if from >= s.off {
		return
	}
	f.Front = fd.fillerBefore(t.bytes[from:s.off])
	f.FrontBytes = t.bytes[s.off-min(f.Front, frontKept) : s.off : s.off]
}

// classify says what stands at the site.
func (fd *Finder) classify(t *text, f *Func, s *Start, limit int) {
	site := s.off + int(f.Site-f.Addr)
	switch kind, ok := fd.fentrySite(t, site, limit); {
	case ok:
		f.Kind = kind
	case fd.patchable(t, f, s, limit):
		f.Kind = Patchable
	}
}

// patchable looks for NOPs that the table of patchable entries names: after
// the landing pad, and before the entry.
func (fd *Finder) patchable(t *text, f *Func, s *Start, limit int) bool {
	if len(fd.marked) == 0 {
		return false
	}
	site := s.off + int(f.Site-f.Addr)
	named := fd.marked[place{s.text, s.off}] || fd.marked[place{s.text, site}]
	before := 0
	for n := fd.step(); n <= f.Front && !named; n += fd.step() {
		if fd.marked[place{s.text, s.off - n}] {
			named, before = true, n
		}
	}
	if !named {
		return false
	}
	for off := site; off < limit; {
		in, err := disasm.Decode(fd.machine, t.bytes[off:limit])
		if err != nil || !in.Nop {
			break
		}
		off += in.Len
		f.Nops = off - site
	}
	if slot := (f.Addr - 8) &^ 7; f.Addr >= 8 && f.Addr-slot <= uint64(before) {
		f.Slot = &slot
	}
	return f.Nops >= fd.shortest()
}

// shortest is the length of the shortest write that redirects, given filler.
func (fd *Finder) shortest() int {
	if fd.machine == elf.EM_X86_64 {
		return trampoline.X86ShortLen
	}
	return trampoline.Arm64BranchLen
}

// judge gives the verdicts that do not depend on room. No instruction may go
// past end.
func (fd *Finder) judge(t *text, f *Func, site, end int) {
	need := min(site+fd.nearLen()+len(f.Lead), end)
	switch {
	case strings.HasPrefix(t.name, ".init.text"):
		f.Verdict, f.Reason = InitText, "initialisation code: its memory is given back once it has run"
	case t.isData(site, need):
		f.Kind, f.Verdict, f.Reason = None, DataInText, "mapping symbols call these bytes data"
	default:
		if off, ok := fd.decodes(t, site, need, end); !ok {
			f.Kind, f.Verdict = None, DataInText
			f.Reason = fmt.Sprintf("bytes at +%#x are no instruction", t.at(off)-f.Addr)
		}
	}
}

// decodes says whether the bytes from site on are instructions up to need, or
// to one that does not continue.
func (fd *Finder) decodes(t *text, site, need, end int) (int, bool) {
	for off := site; off < need; {
		in, err := disasm.Decode(fd.machine, t.bytes[off:end])
		if err != nil {
			return off, false
		}
		off += in.Len
		switch in.Flow {
		case disasm.Jump, disasm.IndirectJump, disasm.Return, disasm.Trap:
			return off, true
		}
	}
	return need, true
}

// choose takes the first strategy that fits. NOPs that the compiler left there
// come first, even if a jump over them and the code behind would be longer:
// nothing but filler is overwritten then.
func (fd *Finder) choose(f *Func) {
	site := f.TrampolineSite()
	if f.Nops > 0 && f.Nops < fd.nearLen() {
		if _, err := trampoline.Make(fd.machine, site, trampoline.Filler); err == nil {
			f.Strategy, f.Verdict = string(trampoline.Filler), Yes
			return
		}
	}
	if st, err := trampoline.Choose(fd.machine, site); err == nil {
		f.Strategy, f.Verdict = string(st), Yes
	}
}

// explain completes verdict and reason where the near jump does not fit.
func (fd *Finder) explain(f *Func, s *Start, cut reference, isCut bool) {
	need := fd.nearLen() + len(f.Lead)
	if f.Verdict != "" && (f.Verdict != Yes || f.Room >= need) {
		return
	}
	if isCut {
		f.Reason = fmt.Sprintf("%s leads to +%#x", fd.describeReference(cut), fd.texts[s.text].at(cut.off)-f.Addr)
	} else {
		f.Reason = fmt.Sprintf("%d bytes up to %s, a jump needs %d", f.Room, fd.whatFollows(s), need)
	}
	switch {
	case f.Verdict == Yes:
		f.Reason += "; a short jump leads into the filler before the function"
		return
	case isCut:
		f.Verdict = BranchInto
	default:
		f.Verdict = TooShort
	}
	if fd.machine == elf.EM_X86_64 {
		f.Reason += fmt.Sprintf("; %d bytes of filler before the function, a jump in it needs %d", f.Front, trampoline.X86FillerLen)
	}
}

// whatFollows names what ends the room of a function.
func (fd *Finder) whatFollows(s *Start) string {
	t := &fd.texts[s.text]
	if i := t.index(s.off + 1); i < len(t.starts) {
		return fd.nameOf(&t.starts[i])
	}
	return "the end of the text"
}

func (fd *Finder) describeReference(r reference) string {
	if r.kind == pointer {
		if fd.file.Type == elf.ET_REL {
			return fmt.Sprintf("a pointer at %s+%#x", fd.file.Sections[r.from.off].Name, r.addr)
		}
		return fmt.Sprintf("a pointer at %#x", r.addr)
	}
	what := "a branch"
	if r.kind == address {
		what = "an address formed"
	}
	t := &fd.texts[r.from.text]
	at := fmt.Sprintf("%#x", t.at(r.from.off))
	if s, ok := t.containing(r.from.off); ok {
		at = fmt.Sprintf("%s+%#x", fd.nameOf(s), t.at(r.from.off)-s.Addr)
	} else if fd.file.Type == elf.ET_REL {
		at = fmt.Sprintf("%s+%#x", t.name, r.from.off)
	}
	return what + " at " + at
}
