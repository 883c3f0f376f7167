package kbuild

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
)

// An overlay is a tree of links to another tree, in which some files are
// others. Only the directories that have to differ are real.
type overlay struct {
	from, to string
	real     map[string]bool   // directories, by path
	omit     map[string]bool   // what is left out, by path
	files    map[string][]byte // what is here instead, or more
}

// addReal makes a directory real, with those that it lies in.
func (o *overlay) addReal(dir string) {
	for dir != "." && dir != "/" && !o.real[dir] {
		o.real[dir] = true
		dir = path.Dir(dir)
	}
}

// link makes the links of a directory, "" for the top.
func (o *overlay) link(dir string) error {
	to := filepath.Join(o.to, dir)
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(filepath.Join(o.from, dir))
	if err != nil && !os.IsNotExist(err) { // new ones are only here
		return err
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		_, here := o.files[name]
		switch {
		case here || o.omit[name] || e.Name() == ".git":
		case o.real[name] && e.IsDir():
			if err := o.link(name); err != nil {
				return err
			}
		default:
			if err := os.Symlink(filepath.Join(o.from, name), filepath.Join(o.to, name)); err != nil {
				return err
			}
		}
	}
	for name, data := range o.files {
		if path.Dir(name) != path.Clean(dir) {
			continue
		}
		if err := os.WriteFile(filepath.Join(o.to, name), data, 0o644); err != nil {
			return fmt.Errorf("write the patched source: %w", err)
		}
	}
	// Directories that only the patch has.
	for name := range o.real {
		if _, err := os.Lstat(filepath.Join(o.to, name)); path.Dir(name) == path.Clean(dir) && os.IsNotExist(err) {
			if err := o.link(name); err != nil {
				return err
			}
		}
	}
	return nil
}
