package fentry

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"sort"

	"livepatch/elfpatch/kernel"
	"livepatch/trampoline"
)

// sites are the ftrace sites of one text: for each function of the text, by
// its index, the offset that the table names, or -1.
type sites []int

// assignSites gives every entry of the table of ftrace to a function.
func (fd *Finder) assignSites() error {
	k := fd.kernel
	k.sites = make([]sites, len(fd.texts))
	for i := range fd.texts {
		k.sites[i] = make(sites, len(fd.texts[i].starts))
		for j := range k.sites[i] {
			k.sites[i][j] = -1
		}
	}
	for i := range k.tables {
		d := &k.tables[i]
		if !fd.isFtraceTable(d.Section) {
			continue
		}
		d.Outside = 0
		for text, list := range d.at {
			for _, off := range list {
				k.traced = true
				if n := fd.ownerOf(text, off); n < 0 {
					d.Outside++
				} else if k.sites[text][n] < 0 {
					k.sites[text][n] = off
				}
			}
		}
	}
	return nil
}

// isFtraceTable says whether ftrace reads a table: on x86-64
// __patchable_function_entries only tells where call padding is.
func (fd *Finder) isFtraceTable(section string) bool {
	return section == mcountTable || section == patchableTable && fd.machine == elf.EM_AARCH64
}

// opsSlot is the size of the NOPs before an entry in which arm64 keeps a
// pointer (CONFIG_DYNAMIC_FTRACE_WITH_CALL_OPS). The table names them then.
const opsSlot = 8

// landingLen is how far behind the entry a site may be: a landing pad, of both
// machines. What is further is code of a weak function that another one took
// the place of, and whose symbol is gone; ftrace does not use it either
// (kernel/trace/ftrace.c test_for_valid_rec, 6.1 and 6.12).
const landingLen = 4

// ownerOf returns the index of the function whose entry an entry of the table
// names, -1 if there is none: the one it lies in, or on arm64 the one behind
// the NOPs that it names.
func (fd *Finder) ownerOf(text, off int) int {
	t := &fd.texts[text]
	i := t.index(off + 1)
	if fd.machine == elf.EM_AARCH64 && i < len(t.starts) && t.starts[i].off == off+opsSlot && fd.isNops(t, off, off+opsSlot) {
		return i
	}
	if i--; i < 0 || uint64(off-t.starts[i].off) >= t.starts[i].Size || off-t.starts[i].off > landingLen {
		return -1
	}
	return i
}

var arm64Nop = []byte{0x1f, 0x20, 0x03, 0xd5} // nop

func (fd *Finder) isNops(t *text, from, to int) bool {
	if from < 0 || to > len(t.bytes) {
		return false
	}
	for ; from < to; from += len(arm64Nop) {
		if !bytes.HasPrefix(t.bytes[from:to], arm64Nop) {
			return false
		}
	}
	return true
}

// ftraceSite is what stands at a site.
type ftraceSite struct {
	kind   Kind
	off    int // first byte that ftrace changes
	size   int // bytes that it changes
	ip     int // the place that ftrace calls the site
	slot   bool
	reason string // why it is none
}

// readSite looks at the place that the table names for a function.
func (fd *Finder) readSite(t *text, s *Start, off int) ftraceSite {
	if fd.machine == elf.EM_AARCH64 {
		return fd.arm64Site(t, s, off)
	}
	return fd.x86Site(t, off)
}

// x86Site: the call of __fentry__, or the NOP of the same length.
func (fd *Finder) x86Site(t *text, off int) ftraceSite {
	site := ftraceSite{off: off, ip: off, size: trampoline.X86NearLen}
	b := t.bytes[off:]
	switch {
	case len(b) < site.size:
		site.reason = "the function ends in it"
	case bytes.HasPrefix(b, x86Nop5):
		site.kind = FentryNop
	case b[0] != x86Calls[0][0]:
		site.reason = "neither a call of __fentry__ nor a NOP of five bytes stands there"
	case fd.file.Type == elf.ET_REL && !fd.refersToFentry(t, off+1):
		site.reason = "the call there does not call __fentry__"
	case fd.file.Type != elf.ET_REL && len(fd.fentry) > 0 && !fd.fentry[t.at(off+5)+uint64(int64(int32(binary.LittleEndian.Uint32(b[1:]))))]:
		site.reason = "the call there does not call __fentry__"
	default:
		site.kind = FentryCall
	}
	return site
}

// arm64Site: two NOPs behind the entry and its landing pad; the second becomes
// the call. What stands before the entry is the slot for the pointer
// (arch/arm64/kernel/ftrace.c ftrace_call_adjust, 6.12).
func (fd *Finder) arm64Site(t *text, s *Start, off int) ftraceSite {
	site := ftraceSite{size: 2 * trampoline.Arm64BranchLen}
	if off < s.off {
		site.slot = true
		off = s.off
		if len(t.bytes)-off >= 4 && binary.LittleEndian.Uint32(t.bytes[off:])&arm64BTIMask == arm64BTI {
			off += trampoline.Arm64BranchLen
		}
	}
	site.off, site.ip = off, off+trampoline.Arm64BranchLen
	switch {
	case !fd.isNops(t, off, off+site.size):
		site.reason = "no two NOPs stand there"
	case site.slot && s.Addr%opsSlot != 0:
		site.reason = "the pointer before the function would not be aligned"
	default:
		site.kind = Patchable
	}
	return site
}

// describeKernel finds the patch site of a function of a kernel.
func (fd *Finder) describeKernel(t *text, s *Start, f *Func) {
	k := fd.kernel
	n := t.index(s.off)
	off := -1
	if n < len(t.starts) && t.starts[n].off == s.off {
		off = k.sites[s.text][n]
	}
	f.Kind, f.Room, f.Expected = None, 0, Bytes{}
	f.Lead = nil
	f.KCFI = fd.typeHash(t, s)
	f.KprobeBlacklisted = fd.isBlacklisted(s)
	if fd.opt.Tables {
		f.Entries = fd.entriesIn(s, off)
	}
	site := fd.callWithoutTable(t, s, f)
	if off >= 0 {
		site = fd.readSite(t, s, off)
	}
	if site.kind != "" {
		fd.useSite(t, s, f, site)
	}
	fd.judgeKernel(t, s, f, site)
	if f.Verdict == Yes && f.KprobeBlacklisted {
		f.Notes = append(f.Notes, "kprobes refuse it ("+fd.whyBlacklisted(s)+"), ftrace does not")
	}
}

// callWithoutTable finds the site of a function in an object whose table does
// not name it yet: it is made from the calls when the kernel or module is
// linked (objtool), or knew only some sections (recordmcount).
func (fd *Finder) callWithoutTable(t *text, s *Start, f *Func) ftraceSite {
	off := s.off + int(f.Site-f.Addr)
	if fd.file.Type != elf.ET_REL || fd.kernel.final || fd.machine != elf.EM_X86_64 || off >= s.off+int(s.Size) {
		return ftraceSite{}
	}
	if kind, ok := fd.x86FentrySite(t, off, s.off+int(s.Size)); ok && t.bytes[off] != 0xff && t.bytes[off] != 0x67 && fd.refersToFentry(t, off+1) {
		return ftraceSite{kind: kind, off: off, ip: off, size: trampoline.X86NearLen}
	}
	return ftraceSite{}
}

// useSite notes a site that ftrace can use.
func (fd *Finder) useSite(t *text, s *Start, f *Func, site ftraceSite) {
	ip := t.at(site.ip)
	f.Kind, f.Site, f.Ftrace = site.kind, t.at(site.off), &ip
	f.Room = site.size
	f.Expected = t.bytes[site.off : site.off+site.size : site.off+site.size]
	if site.kind == Patchable {
		f.Nops = site.size
	}
	if site.slot {
		slot := f.Addr - opsSlot
		f.Slot = &slot
	}
}

// isBlacklisted says whether kprobes refuse a function.
func (fd *Finder) isBlacklisted(s *Start) bool {
	k := fd.kernel
	if a := k.areaAt(s.text, s.off, kernel.AreaKprobes, kernel.AreaNoInstr, kernel.AreaEntry, kernel.AreaHyp); a != nil {
		return true
	}
	for i := range k.tables {
		d := &k.tables[i]
		if d.Section != blacklistTable {
			continue
		}
		list := d.at[s.text]
		n := sort.SearchInts(list, s.off)
		return n < len(list) && list[n] < s.off+int(s.Size)
	}
	return false
}

// blacklistTable is the section of NOKPROBE_SYMBOL.
const blacklistTable = "_kprobe_blacklist"
