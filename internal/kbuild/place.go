package kbuild

import (
	"path"
	"path/filepath"
	"strings"
)

// A place is where the source lies that patches change: that of the kernel, or
// of modules apart from it.
type place struct {
	src      string   // as kbuild sees it
	files    string   // where its files really are
	given    string   // where the user has it
	products []string // what is in files and not in src, by path
	module   *Module  // nil for the kernel
}

// find returns the path below the place of a file that a compiler read; false
// for others.
func (p *place) find(file string) (string, bool) {
	for _, root := range []string{p.src, p.files, p.given} {
		if rel, ok := inSource(root, file); ok {
			return rel, true
		}
	}
	return "", false
}

// inSource makes a path of a compiler's list of dependencies one below the
// source; false for others.
func inSource(root, dep string) (string, bool) {
	rel, ok := strings.CutPrefix(filepath.Clean(dep), root+"/")
	return filepath.ToSlash(rel), ok
}

// links is a tree of links to the source, without products of other builds.
func (p *place) links(to string) *overlay {
	o := &overlay{from: p.files, to: to, real: map[string]bool{}, files: map[string][]byte{}, omit: map[string]bool{}}
	for _, name := range p.products {
		o.omit[name] = true
		o.addReal(path.Dir(name))
	}
	return o
}
