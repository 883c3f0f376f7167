package kbuild

import (
	"context"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

// upwards is found in Makefiles that may build what is in other directories:
// arch/x86/kvm/Makefile includes the list of virt/kvm, with paths such as
// ../../../virt/kvm/kvm_main.o; that of amdgpu has five of them (6.12).
var upwards = regexp.MustCompile(`(?m)\.\.|^\s*-?include\s`)

// elsewhere returns the objects that the Makefile of another directory builds,
// by a path with "..", and how kbuild names them: by that directory and path.
func (t *Tree) elsewhere(ctx context.Context) (map[string]string, error) {
	if t.far != nil {
		return t.far, nil
	}
	dirs, err := t.upwards(ctx)
	if err != nil {
		return nil, err
	}
	far := map[string]string{}
	for i, dir := range dirs {
		t.progress("look which directories build files of others", i, len(dirs))
		if ok, err := t.entered(ctx, dir); err != nil {
			return nil, err
		} else if !ok {
			continue
		}
		l, err := t.listed(ctx, dir)
		if err != nil {
			return nil, err
		}
		for _, name := range sortedKeys(l.all) {
			object := path.Join(dir, name)
			if strings.HasPrefix(name, "../") && far[object] == "" {
				far[object] = inDir(dir, name)
			}
		}
	}
	t.far = far
	return far, nil
}

// inDir is a path below a directory as kbuild writes it: ".." stays.
func inDir(dir, name string) string {
	if dir == "." {
		return name
	}
	return dir + "/" + name
}

// upwards finds the directories whose Makefiles may build files of others.
func (t *Tree) upwards(ctx context.Context) (dirs []string, err error) {
	err = filepath.WalkDir(t.files, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(t.files, file)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case d.IsDir() && t.noSources(rel):
			return filepath.SkipDir
		case d.IsDir() || !makefile(rel, t.module != nil):
			return nil
		}
		b, err := os.ReadFile(file)
		if err == nil && upwards.Match(b) {
			dirs = append(dirs, path.Dir(rel))
		}
		return err
	})
	return dirs, err
}
