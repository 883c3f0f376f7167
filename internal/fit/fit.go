// Package fit says which packages are for what a process runs. It works on
// values; the looking is internal/process.
package fit

import (
	"bytes"
	"encoding/hex"

	"livepatch/internal/live"
	"livepatch/manifest"
)

// A Package is what of a package decides where it belongs.
type Package struct {
	Name    string
	Digest  string // hexadecimal, of the manifest
	targets []manifest.Target
}

// Of takes from a manifest what decides where its package belongs. A package
// for kernels has no targets and fits no process. The error is that of a
// manifest which is not valid.
func Of(m *manifest.Manifest) (*Package, error) {
	digest, err := manifest.Digest(m)
	if err != nil {
		return nil, err
	}
	p := &Package{Name: m.Name, Digest: hex.EncodeToString(digest[:])}
	for i := range m.Targets {
		t := &m.Targets[i]
		p.targets = append(p.targets, manifest.Target{Kind: t.Kind, Name: t.Name, BuildID: t.BuildID, SHA256: t.SHA256})
	}
	return p, nil
}

// An Image is an ELF file that a process executes.
type Image struct {
	Name    string
	BuildID []byte
	Digest  func() []byte // of its read-only segments; asked only for files without build-id
}

// Fits reports whether every target of the package is among the images of a
// process. What has no build-id is compared by digest, and by name first, because
// digests take time.
func (p *Package) Fits(images []Image) bool {
	for i := range p.targets {
		if !isMapped(&p.targets[i], images) {
			return false
		}
	}
	return len(p.targets) > 0
}

// MayFit reports whether the package fits some process that runs the program,
// whatever libraries it has.
func (p *Package) MayFit(program Image) bool {
	images := []Image{program}
	for i := range p.targets {
		if p.targets[i].Kind != manifest.KindLibrary && !isMapped(&p.targets[i], images) {
			return false
		}
	}
	return len(p.targets) > 0
}

// Targets returns the names of the files that the package patches.
func (p *Package) Targets() []string {
	var names []string
	for i := range p.targets {
		names = append(names, p.targets[i].Name)
	}
	return names
}

func isMapped(t *manifest.Target, images []Image) bool {
	for i := range images {
		im := &images[i]
		switch {
		case len(t.BuildID) > 0:
			if bytes.Equal(im.BuildID, t.BuildID) {
				return true
			}
		case len(im.BuildID) == 0 && im.Name == t.Name && len(t.SHA256) > 0:
			if bytes.Equal(im.Digest(), t.SHA256) {
				return true
			}
		}
	}
	return false
}

// A State is what has become of a package in a process that it fits.
type State string

// The states. A package that is neither applied nor reverted may be in the middle
// of a change: by a loader that is at work, or that was killed.
const (
	Missing     State = "missing"     // it fits and is not applied
	Applied     State = "applied"     // it, or another package of its name
	Reverted    State = "reverted"    // this very package was applied and taken back
	Changing    State = "changing"    // a loader is at work
	Interrupted State = "interrupted" // a loader was killed
)

// StateIn returns the state of the package in a process that has these patches.
// One that is applied again after it was taken back is applied.
func (p *Package) StateIn(patches []live.Report) State {
	state := Missing
	for i := range patches {
		r := &patches[i]
		switch s := State(r.State); {
		case r.Name == p.Name && (s == Applied || s == Changing || s == Interrupted):
			return s
		case r.Digest == p.Digest && s == Reverted:
			state = Reverted
		}
	}
	return state
}
