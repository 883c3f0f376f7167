package main

import (
	"crypto/sha256"
	"path/filepath"
	"slices"

	"livepatch/internal/image"
	"livepatch/manifest"
)

// record adds to the manifest's record of a package that create makes the
// digests of all files that it is made from.
func (o *images) record(targets []targetPaths, r *manifest.Build) error {
	err := image.Guard(func() error {
		for _, t := range targets {
			r.Inputs = append(r.Inputs, o.input("target", t.file))
			if t.debug != "" {
				r.Inputs = append(r.Inputs, o.input("debug", t.debug))
			}
			for _, p := range t.pairs {
				r.Inputs = append(r.Inputs, o.input("before", p[0]), o.input("after", p[1]))
			}
		}
		r.Inputs = append(r.Inputs, o.unnamed(r.Inputs)...)
		return nil
	})
	manifest.SortInputs(r.Inputs)
	return err
}

// opened is a file that is open, and what it holds.
type opened interface{ Digest() [sha256.Size]byte }

func openedPath(f any) string {
	switch f := f.(type) {
	case *image.Image:
		return f.Path
	case *image.Kernel:
		return f.Path
	case *image.Module:
		return f.Path
	}
	return ""
}

// input describes an open file as an input.
func (o *images) input(role, path string) manifest.Input {
	in := manifest.Input{Role: role, Name: filepath.Base(path)}
	for _, f := range *o {
		if d, ok := f.(opened); ok && openedPath(f) == path {
			sum := d.Digest()
			in.SHA256 = sum[:]
			break
		}
	}
	return in
}

// unnamed are the modules that were opened because others need them.
func (o *images) unnamed(named []manifest.Input) (out []manifest.Input) {
	for _, f := range *o {
		m, ok := f.(*image.Module)
		if !ok || slices.ContainsFunc(named, func(in manifest.Input) bool { return in.Name == filepath.Base(m.Path) }) {
			continue
		}
		out = append(out, o.input("target", m.Path))
	}
	return out
}

// inputOf is the record of an input whose bytes are at hand.
func inputOf(role, name string, data []byte) manifest.Input {
	sum := sha256.Sum256(data)
	return manifest.Input{Role: role, Name: name, SHA256: sum[:]}
}
