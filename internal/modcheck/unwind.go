package modcheck

import (
	"bytes"
	"cmp"
	"debug/elf"
	"slices"

	"livepatch/elfpatch"
	"livepatch/internal/refusal"
)

const (
	orcSize     = 6 // struct orc_entry, arch/x86/include/asm/orc_types.h
	orcSPReg    = 4
	orcRegMask  = 15
	orcTypeMask = 7 // of type, above the two registers
)

// checkUnwind asks whether the unwinder knows its way out of every function.
// livepatch trusts no stack that it cannot unwind, and then a task in such a
// function holds every later transition.
func (c *checker) checkUnwind() {
	t := c.target.traits
	switch {
	case c.f.Machine == elf.EM_AARCH64:
		c.ok(whatUnwind, "", "arm64 unwinds by frame records, which need no tables")
		return
	case !t.known:
		c.later(whatUnwind, "", "no image given says how the kernel unwinds")
		return
	case !t.orc:
		c.ok(whatUnwind, "", "the kernel has no ORC tables")
		return
	}
	if !slices.ContainsFunc(c.f.Sections, func(s *elfpatch.Section) bool { return executable(s) && s.Size > 0 }) {
		return
	}
	before := c.refusals(whatUnwind)
	ip, orc := c.f.Section(".orc_unwind_ip"), c.f.Section(".orc_unwind")
	if ip == nil || orc == nil {
		c.refuse(refusal.UnwindMissing, whatUnwind, "", "the module has no ORC tables")
		return
	}
	if ip.Size%4 != 0 || orc.Size%orcSize != 0 || ip.Size/4 != orc.Size/orcSize {
		c.refuse(refusal.UnwindMissing, whatUnwind, ip.Name, "%d bytes of addresses (4 each) and %d bytes of entries (%d each)", ip.Size, orc.Size, orcSize)
		return
	}
	if (ip.Flags&orc.Flags)&elf.SHF_ALLOC == 0 {
		c.refuse(refusal.UnwindMissing, whatUnwind, "", "the ORC tables are not loaded")
		return
	}
	if t.orcHeader != nil {
		c.checkOrcHeader(t.orcHeader)
	}
	n := c.checkOrc(ip, orc)
	if c.refusals(whatUnwind) == before {
		c.ok(whatUnwind, "", "ORC entries cover %s", count(n, "function"))
	}
}

// checkOrcHeader: the hash of the format, arch/x86/include/asm/orc_header.h,
// since 6.4. The kernel itself does not look at that of modules.
func (c *checker) checkOrcHeader(want []byte) {
	if s := c.f.Section(".orc_header"); s == nil {
		c.refuse(refusal.UnwindMissing, whatUnwind, ".orc_header", "the module does not say which format its tables have; the kernel's has hash %x", want)
	} else if !bytes.Equal(s.Data, want) {
		c.refuse(refusal.UnwindMissing, whatUnwind, ".orc_header", "the format has hash %x, the kernel's %x", s.Data, want)
	}
}

// An orcRow is an entry that holds from a place on.
type orcRow struct {
	at    place
	known bool
}

func (c *checker) checkOrc(ip, orc *elfpatch.Section) int {
	var rows []orcRow
	for _, r := range c.refs[ip.Index] {
		to, ok := c.to(r)
		if i := r.Offset / 4; ok && r.Type != 0 && r.Offset%4 == 0 && (i+1)*orcSize <= uint64(len(orc.Data)) {
			rows = append(rows, orcRow{to, c.orcKnown(orc.Data[i*orcSize:])})
		}
	}
	slices.SortStableFunc(rows, func(a, b orcRow) int {
		return cmp.Or(cmp.Compare(a.at.sec, b.at.sec), cmp.Compare(a.at.off, b.at.off))
	})
	rows = lastOfEach(rows)
	n := 0
	for _, s := range c.f.Sections {
		if !executable(s) {
			continue
		}
		for _, f := range c.funcs[s.Index] {
			if f.end == f.start || c.isPadding(f) {
				continue
			}
			n++
			i, found := slices.BinarySearchFunc(rows, place{f.sec, f.start}, func(r orcRow, p place) int {
				return cmp.Or(cmp.Compare(r.at.sec, p.sec), cmp.Compare(r.at.off, p.off))
			})
			if !found {
				i--
			}
			if i < 0 || rows[i].at.sec != f.sec || !rows[i].known {
				c.refuse(refusal.UnwindMissing, whatUnwind, f.name, "no ORC entry says how to unwind the function at its start")
			}
		}
	}
	return n
}

// lastOfEach keeps one row of each place.
func lastOfEach(rows []orcRow) []orcRow {
	var out []orcRow
	for i, r := range rows {
		if i+1 == len(rows) || rows[i+1].at != r.at {
			out = append(out, r)
		}
	}
	return out
}

// orcKnown reports an entry that says how to unwind: with a type (6.4 and
// newer), or with a register that the frame is addressed by.
func (c *checker) orcKnown(b []byte) bool {
	flags := le.Uint16(b[orcSPReg:])
	if c.target.traits.orcHeader != nil {
		return flags>>8&orcTypeMask != 0
	}
	return flags&orcRegMask != 0
}

// isPadding reports what is nothing but NOPs or the hash of kCFI: nothing is
// ever called from there.
func (c *checker) isPadding(f function) bool {
	for _, p := range []string{"__pfx_", "__cfi_"} {
		if len(f.name) > len(p) && f.name[:len(p)] == p {
			return true
		}
	}
	return false
}
