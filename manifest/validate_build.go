package manifest

import (
	"fmt"
	"slices"
)

// MaxUnits bounds the lists of a Build.
const MaxUnits = MaxList

func (c *checker) build(at string, b *Build) {
	c.optional(at+".description", b.Description)
	c.optional(at+".version", b.Version)
	c.optional(at+".compiler", b.Compiler)
	c.count(at+".cve", len(b.CVE), 0, MaxUnits)
	c.count(at+".inputs", len(b.Inputs), 0, MaxUnits)
	c.count(at+".units", len(b.Units), 0, MaxUnits)
	c.count(at+".proofs", len(b.Proofs), 0, MaxUnits)
	c.count(at+".findings", len(b.Findings), 0, MaxUnits)
	for i, id := range b.CVE {
		if !ValidCVE(id) {
			c.add(fmt.Sprintf("%s.cve[%d]", at, i), "%.40q is not of the form CVE-2024-1234", id)
		}
	}
	for i, in := range b.Inputs {
		at := fmt.Sprintf("%s.inputs[%d]", at, i)
		c.word(at+".role", in.Role, InputRoles())
		c.text(at+".name", in.Name)
		c.bytes(at+".sha256", in.SHA256, 32)
	}
	if !slices.IsSortedFunc(b.Inputs, byRole) {
		c.add(at+".inputs", "are not in the order of their roles")
	}
	for i, u := range b.Units {
		at := fmt.Sprintf("%s.units[%d]", at, i)
		c.text(at+".source", u.Source)
		c.base(at+".object", u.Object)
		c.count(at+".flags", len(u.Flags), 0, MaxUnits)
		for j, f := range u.Flags {
			c.text(fmt.Sprintf("%s.flags[%d]", at, j), f)
		}
	}
	for i, p := range b.Proofs {
		at := fmt.Sprintf("%s.proofs[%d]", at, i)
		c.base(at+".object", p.Object)
		c.text(at+".function", p.Function)
		c.base(at+".target", p.Target)
		c.optional(at+".section", p.Section)
		c.extent(at, p.Address, p.Size)
		for j, m := range p.Masked {
			at := fmt.Sprintf("%s.masked[%d]", at, j)
			c.text(at+".kind", m.Kind)
			if m.Count < 1 {
				c.add(at+".count", "is %d, not at least 1", m.Count)
			}
		}
	}
	for i, f := range b.Findings {
		at := fmt.Sprintf("%s.findings[%d]", at, i)
		c.text(at+".code", f.Code)
		c.text(at+".where", f.Where)
		c.text(at+".text", f.Text)
	}
}

func byRole(a, b Input) int {
	return slices.Index(InputRoles(), a.Role) - slices.Index(InputRoles(), b.Role)
}

// SortInputs puts inputs in the order of their roles, those of one role as
// they are.
func SortInputs(list []Input) { slices.SortStableFunc(list, byRole) }

// ValidCVE reports whether a string has the form of a CVE identifier,
// "CVE-" year "-" four digits or more (https://www.cve.org/About/Process).
func ValidCVE(s string) bool {
	const year = len("CVE-2024-")
	if len(s) < year+4 || len(s) > year+19 || s[:4] != "CVE-" || s[8] != '-' {
		return false
	}
	for i := 4; i < len(s); i++ {
		if i != 8 && (s[i] < '0' || s[i] > '9') {
			return false
		}
	}
	return true
}
