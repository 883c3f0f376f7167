package diff

import (
	"debug/elf"
	"strings"

	"livepatch/elfpatch"
	"livepatch/internal/refusal"
)

// shfGNURetain marks sections that stay though nothing refers to them.
const shfGNURetain elf.SectionFlag = 0x200000

// refuseCollected refuses new variables in sections that the linker puts
// together into tables (__start_NAME, __stop_NAME): those of the running
// program have been made. Entries without a name cannot be told apart, and pass.
func (c *comparison) refuseCollected() {
	for _, b := range c.patched.pieces {
		if b.twin == nil && b.kind == variable && b.sec > 0 && b.special == nil && c.patched.secs[b.sec].row == nil && isCollected(c.patched.f.Sections[b.sec]) {
			c.refuse(refusal.Unsupported, b.name, "it is new in section %s, which the linker collects; the table of the running program would not have it",
				c.patched.f.Sections[b.sec].Name)
		}
	}
}

// isCollected reports a section whose name is one of C, or that is retained.
// What has neither is found by its symbols only.
func isCollected(s *elfpatch.Section) bool {
	if s.Flags&shfGNURetain != 0 {
		return true
	}
	return s.Name != "" && strings.Trim(s.Name, "_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") == "" && (s.Name[0] < '0' || s.Name[0] > '9')
}

// refuseAliases refuses global names that moved to something else: those who
// use them in other files go on to where they were.
func (c *comparison) refuseAliases() {
	for i := range c.patched.f.Symbols {
		now := &c.patched.f.Symbols[i]
		b := c.patched.bySym[i]
		if b == nil || now.Bind == elf.STB_LOCAL || now.Name == "" || now.Type == elf.STT_GNU_IFUNC {
			continue
		}
		k := c.originalNamed(now.Name)
		if k == 0 || c.orig.bySym[k] == nil || c.orig.f.Symbols[k].Type == elf.STT_GNU_IFUNC {
			continue
		}
		a, old := c.orig.bySym[k], &c.orig.f.Symbols[k]
		if a.twin == b && b.kind != function && old.Value-a.off != now.Value-b.off {
			c.refuse(refusal.Unsupported, now.Name, "it moved to another place of %s", b.name)
		} else if a.twin != b && a.kind == b.kind && (a.sym != k || b.sym != i) {
			c.refuse(refusal.Unsupported, now.Name, "it was another name of %s and is now one of %s; other files of the target would use the old one", a.name, b.name)
		}
	}
}
