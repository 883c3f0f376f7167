//go:build linux && (amd64 || arm64)

package process

import (
	"livepatch/internal/live"
	"livepatch/internal/pack"
	"livepatch/manifest"
)

// Conflicts lists the functions of a package that patches of a process have
// replaced on which it does not build. The process is not stopped.
func Conflicts(pid int, pkg *pack.Package) ([]Conflict, error) {
	p, err := open(pid)
	if err != nil {
		return nil, err
	}
	defer p.close()
	digest, err := manifest.Digest(pkg.Manifest)
	if err != nil {
		return nil, err
	}
	var out []Conflict
	for i := range pkg.Manifest.Targets {
		in := &installation{p: p, target: &pkg.Manifest.Targets[i]}
		if in.image, err = p.findImage(in.target); err != nil {
			return nil, err
		}
		if err := in.fillRecord(pkg.Manifest, digest); err != nil {
			return nil, err
		}
		for _, c := range live.Claims(&in.record, p.patches.Applied()) {
			if c.Owner.Digest != digest {
				out = append(out, Conflict{in.target.Name, c.Function, c.Owner.Name})
			}
		}
	}
	return out, nil
}
