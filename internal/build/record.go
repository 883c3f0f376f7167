package build

import (
	"debug/elf"
	"slices"

	"livepatch/elfpatch/match"
	"livepatch/manifest"
)

// record is what the manifest says of how the package was made: what the caller
// knows, and a proof of each replaced function. Nil if nothing is wanted.
func (in Inputs) record(parts []Part, findings []Finding) *manifest.Build {
	if in.Record == nil {
		return nil
	}
	b := *in.Record
	b.Proofs = slices.Clone(b.Proofs)
	for _, part := range parts {
		if part.Proof == nil {
			continue
		}
		for _, f := range part.Proof.Funcs {
			b.Proofs = append(b.Proofs, in.proof(part, f))
		}
	}
	b.Findings = slices.Clone(b.Findings)
	for _, f := range findings {
		b.Findings = append(b.Findings, manifest.Finding{Code: string(f.Code), Where: f.Where, Text: f.Text, Allowed: f.Allowed})
	}
	return &b
}

func (in Inputs) proof(part Part, f match.Func) manifest.Proof {
	p := manifest.Proof{Object: part.Pair.OrigName, Function: f.Name, Target: part.Target.Name, Address: f.Addr, Size: f.Size}
	m := part.Target.Module
	if in.Kernel != nil && m == nil {
		p.Target = manifest.Vmlinux // however its file is called
	}
	if m != nil {
		p.Target = m.Name
		for _, s := range part.Target.File.Sections {
			if s.Flags&elf.SHF_ALLOC != 0 && f.Addr >= s.Addr && f.Addr-s.Addr < s.Size {
				p.Section, p.Address = s.Name, f.Addr-s.Addr
				break
			}
		}
	}
	for _, k := range match.Kinds() {
		if n := f.Masked[k]; n > 0 {
			p.Masked = append(p.Masked, manifest.Masked{Kind: k.String(), Count: n})
		}
	}
	return p
}
