package compose

import (
	"fmt"

	"livepatch/internal/live"
	"livepatch/internal/pack"
	"livepatch/manifest"
)

// A Conflict is a function that two packages replace of which neither builds on
// the other: a process takes only one of them.
type Conflict struct {
	Package, Other string // names of the patches; Other is earlier in the list
	Target         string // base name of the file
	Function       string
}

// Conflicts lists the conflicts of packages of programs that are applied in the
// order of the list. Packages of kernels have none here.
func Conflicts(pkgs []*pack.Package) ([]Conflict, error) {
	var out []Conflict
	var earlier []*claimant
	for _, pkg := range pkgs {
		sum, err := manifest.Digest(pkg.Manifest)
		if err != nil {
			return nil, fmt.Errorf("read package %s: %w", pkg.Manifest.Name, err)
		}
		var own []*claimant
		for i := range pkg.Manifest.Targets {
			c := claims(pkg.Manifest, i, sum)
			own = append(own, c)
			for _, o := range live.Claims(c.record, ofFile(earlier, c.target)) {
				out = append(out, Conflict{pkg.Manifest.Name, o.Owner.Name, c.target.Name, o.Function})
			}
		}
		earlier = append(earlier, own...)
	}
	return out, nil
}

// A claimant is what a package does with one file, as its record in a process
// would say with the file at its link-time addresses.
type claimant struct {
	target *manifest.Target
	record *live.Record
}

func claims(m *manifest.Manifest, target int, sum [32]byte) *claimant {
	t := &m.Targets[target]
	r := &live.Record{Name: m.Name, Digest: sum}
	for _, q := range m.Requires {
		r.Requires = append(r.Requires, [32]byte(q.SHA256))
	}
	for i := range t.Functions {
		r.Functions = append(r.Functions, live.Function{Name: t.Functions[i].Name, Old: t.Functions[i].Address, OldSize: t.Functions[i].Size})
	}
	for i := range t.Writes {
		if w := &t.Writes[i]; w.Function >= 0 {
			r.Writes = append(r.Writes, live.Write{Function: w.Function, Addr: w.Address, Old: w.Expected})
		}
	}
	return &claimant{t, r}
}

func ofFile(list []*claimant, t *manifest.Target) (out []*live.Record) {
	for _, c := range list {
		if sameFile(c.target, t) {
			out = append(out, c.record)
		}
	}
	return out
}
