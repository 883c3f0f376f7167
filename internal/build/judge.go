package build

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"livepatch/elfpatch"
	"livepatch/elfpatch/diff"
	"livepatch/internal/kmod"
	"livepatch/internal/refusal"
	"livepatch/internal/safety"
	"livepatch/manifest"
)

// A Finding is something about the change that a reviewer has to know.
type Finding struct {
	safety.Finding
	Allowed bool // it is refused by itself, and was allowed
}

// judge asks what the change means for what runs. What is refused and not
// allowed joins the other refusals; the rest is kept for the record.
func (s *steps) judge(allow []refusal.Code) {
	for _, p := range s.pairs {
		if p.proof == nil {
			continue // nothing of it becomes part of the patch
		}
		found := safety.Judge(safety.Pair{
			Name: p.OrigName, Delta: p.delta, Others: s.others(p), Debug: s.described(), Kernel: s.kernel, Untyped: p.Made,
		})
		for _, f := range slices.Concat(p.Findings, found, checksums(p.Pair)) {
			s.weigh(f, allow)
		}
	}
}

// checksums are the findings about exports with another checksum: modules that
// are loaded were built with the types before. Those are apart of which the source
// only knows more.
func checksums(p Pair) (out []safety.Finding) {
	for _, known := range []bool{false, true} {
		var names, types []string
		for _, c := range p.Checksums {
			if c.Known != known {
				continue
			}
			names = append(names, c.Name)
			for _, t := range c.Types {
				if !slices.Contains(types, t) {
					types = append(types, t)
				}
			}
		}
		if len(names) == 0 {
			continue
		}
		f := safety.Finding{Code: refusal.ExportChecksum, Level: safety.Refuse, Where: p.OrigName + ": exports"}
		f.Text = fmt.Sprintf("modules that use %s were built with another %s", shortList(names), cmp.Or(shortList(types), "declaration"))
		if known {
			f.Level = safety.Warn
			f.Text = fmt.Sprintf("the checksum of %s would be another one only since the source now defines what it declared: %s", shortList(names), shortList(types))
		}
		out = append(out, f)
	}
	return out
}

// shortList is a list for a sentence.
func shortList(words []string) string {
	const shown = 4
	if n := len(words) - shown; n > 0 {
		words = append(slices.Clone(words[:shown]), fmt.Sprintf("%d more", n))
	}
	if n := len(words); n > 1 {
		return strings.Join(words[:n-1], ", ") + " and " + words[n-1]
	}
	return strings.Join(words, "")
}

func (s *steps) weigh(f safety.Finding, allow []refusal.Code) {
	allowed := slices.Contains(refusal.Allowable(), f.Code) && slices.Contains(allow, f.Code)
	if f.Level == safety.Refuse && !allowed {
		s.refusals = append(s.refusals, f.Refusal())
		return
	}
	s.findings = append(s.findings, Finding{f, f.Level == safety.Refuse})
}

// described is the file that says where functions of the target are inlined.
func (s *steps) described() *elfpatch.File {
	if s.target.Debug != nil {
		return s.target.Debug
	}
	return s.target.File
}

// others are the functions that the other pairs change.
func (s *steps) others(p *pairSteps) map[string]bool {
	names := map[string]bool{}
	for _, q := range s.pairs {
		for _, f := range q.delta.Funcs {
			if q != p && f.Status == diff.Changed {
				names[f.Name] = true
			}
		}
	}
	return names
}

// judgeModules warns of names that the patch takes from modules which its
// targets do not need: it works only while those are loaded.
func (k *kernelSteps) judgeModules() {
	for _, part := range k.parts {
		for i, e := range part.part.Cut.Externals {
			b, ok := part.part.Bindings[i]
			if !ok || b.Kind != kmod.KLP || e.Orig != 0 || b.Object == manifest.Vmlinux || b.Object == part.target.name {
				continue
			}
			part.target.weigh(safety.Finding{
				Code: refusal.ModuleDependency, Level: safety.Warn, Where: part.pair.OrigName + ": " + e.Name,
				Text: "it is new in " + part.target.name + ", and module " + b.Object + " has it: that has to be loaded when the patch is",
			}, nil)
		}
	}
}

// findings are those of all targets.
func (k *kernelSteps) findings() (all []Finding) {
	for _, t := range k.targets {
		all = append(all, t.findings...)
	}
	return all
}
