package kbuild

import (
	"context"
	"fmt"
	"path"
	"path/filepath"
	"strings"

	"livepatch/internal/child"
)

// A listing is what the Makefile of a directory builds with this
// configuration.
type listing struct {
	known bool              // the directory has a Makefile
	all   map[string]bool   // objects, and directories with "/" at their end
	owner map[string]string // of an object that is a part of another: that one
	lib   map[string]bool   // objects of an archive: linked if something needs them
}

// listScript has make say what a directory builds, instead of building it:
// parts of objects, and parts of those, may be objects themselves.
const listScript = `
include %[1]s/include/config/auto.conf
srctree := %[2]s
objtree := %[1]s
src := %[4]s/%[3]s
obj := %[5]s
%[10]s
srcroot := %[4]s
SRCARCH := %[6]s
ARCH := %[6]s
CC := %[7]s
KERNELRELEASE := %[8]s
include %[9]s
parts = $(foreach o,$(1),$(foreach p,$($(o:.o=-y)) $($(o:.o=-objs)) $($(o:.o=-m)),$(info part $(o) $(p))$(p)))
top := $(obj-y) $(obj-m)
$(foreach o,$(top),$(info is $(o)))
$(foreach o,$(lib-y) $(lib-m),$(info lib $(o)))
two := $(call parts,$(top))
three := $(call parts,$(two))
.DEFAULT_GOAL := done
.PHONY: done
done: ;
`

// list asks make for the listing of a directory below root, which is the source or
// a tree that stands for it.
func (t *Tree) list(ctx context.Context, root, dir string) (*listing, error) {
	l := &listing{all: map[string]bool{}, owner: map[string]string{}, lib: map[string]bool{}}
	file := filepath.Join(root, dir, "Kbuild")
	if !isFile(file) {
		file = filepath.Join(root, dir, "Makefile")
	}
	if !isFile(file) {
		return l, nil
	}
	l.known = true
	arch, _ := t.arch()
	obj, module, args := dir, "", []string{"make", "-s", "-r", "-R", "-f", "-"}
	if t.module != nil {
		obj, module = filepath.Join(root, dir), fmt.Sprintf("M := %[1]s\nKBUILD_EXTMOD := %[1]s", root)
		args = append(args, t.module.Vars...)
	}
	p := child.Program{
		Dir: root, Argv: args, Env: t.env(),
		Stdin:  fmt.Sprintf(listScript, t.obj(), t.srctree, dir, root, obj, arch, t.Compiler.Program, t.Release, file, module),
		Output: l.line,
	}
	if _, err := p.Run(ctx); err != nil {
		return nil, fmt.Errorf("read %s: %w", path.Join(dir, filepath.Base(file)), err)
	}
	return l, nil
}

func (l *listing) line(text string) {
	f := strings.Fields(text)
	switch {
	case len(f) == 2 && f[0] == "is":
		l.all[f[1]] = true
	case len(f) == 2 && f[0] == "lib":
		l.all[f[1]], l.lib[f[1]] = true, true
	case len(f) == 3 && f[0] == "part":
		l.all[f[2]] = true
		if _, ok := l.owner[f[2]]; !ok {
			l.owner[f[2]] = f[1]
		}
	}
}

// listed is list for the source, once a directory.
func (t *Tree) listed(ctx context.Context, dir string) (*listing, error) {
	if l, ok := t.dirs[dir]; ok {
		return l, nil
	}
	l, err := t.list(ctx, t.src, dir)
	if err == nil {
		t.dirs[dir] = l
	}
	return l, err
}

// target returns an object of the kernel or of one of its modules as kbuild
// names it; "" if it is none: a directory builds it, and the directories above
// enter that one.
func (t *Tree) target(ctx context.Context, object string) (string, error) {
	for _, dir := range t.above(object) {
		if ok, err := t.entered(ctx, dir); err != nil {
			return "", err
		} else if !ok {
			continue
		}
		l, err := t.listed(ctx, dir)
		if err != nil {
			return "", err
		}
		if l.all[below(dir, object)] {
			return object, nil
		}
		if l.known {
			break
		}
	}
	far, err := t.elsewhere(ctx)
	return far[object], err
}

// below is a path seen from a directory that it lies in.
func below(dir, name string) string { return strings.TrimPrefix(name, dir+"/") }

// entered reports whether the build goes into a directory: the one above, or
// one further up, enters it. Makefiles of others are not read, for they may be
// parts of such that are.
func (t *Tree) entered(ctx context.Context, dir string) (bool, error) {
	if t.always(dir) {
		return true, nil
	}
	if is, known := t.enters[dir]; known {
		return is, nil
	}
	is := false
	for _, from := range t.above(dir) {
		if ok, err := t.entered(ctx, from); err != nil {
			return false, err
		} else if !ok {
			continue
		}
		l, err := t.listed(ctx, from)
		if err != nil {
			return false, err
		}
		is = is || l.all[below(from, dir)+"/"]
	}
	t.enters[dir] = is
	return is, nil
}

// always reports whether a directory is built whatever Makefiles say: the
// topmost ones of a kernel, and what is right below arch/ARCH; that of a module.
func (p *place) always(dir string) bool {
	if p.module != nil {
		return dir == "."
	}
	above := path.Dir(dir)
	return above == "." || above == "arch" || path.Dir(above) == "arch"
}
