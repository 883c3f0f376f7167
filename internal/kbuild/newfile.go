package kbuild

import (
	"context"
	"fmt"
	"path"
	"path/filepath"
	"strings"

	"livepatch/internal/refusal"
)

// newObjects are the objects of source files that the patch adds. kbuild has no
// commands for them: each is compiled as another part of the same module is.
func (t *Tree) newObjects(ctx context.Context, in *touched, lists map[string]*listing) (out []*Object, err error) {
	var list refusal.List
	for _, source := range in.added {
		object := strings.TrimSuffix(source, ".c") + ".o"
		dir := path.Dir(source)
		l := lists[dir]
		if l == nil || !l.all[path.Base(object)] {
			in.notes = append(in.notes, source+" is new and no Makefile of the patch builds it with this configuration")
			continue
		}
		ok, err := t.entered(ctx, dir)
		if err != nil {
			return nil, err
		}
		if !ok {
			in.notes = append(in.notes, source+" is not part of this kernel: its configuration leaves it out")
			continue
		}
		o, err := t.newObject(ctx, l, dir, path.Base(object))
		if err != nil {
			return nil, err
		}
		if o == nil {
			list = append(list, refusal.New(refusal.Unsupported, source, "nothing else of its module is there to tell how to compile it"))
			continue
		}
		out = append(out, o)
	}
	return out, list.Err()
}

// newObject makes the command of an object from that of another one with the
// same owner. Nil if there is none.
func (t *Tree) newObject(ctx context.Context, l *listing, dir, base string) (*Object, error) {
	owner := l.owner[base]
	was := t.dirs[dir]
	for _, name := range sortedKeys(was.all) {
		source := filepath.Join(t.src, dir, strings.TrimSuffix(name, ".o")+".c")
		if !strings.HasSuffix(name, ".o") || was.owner[name] != owner || owner == "" && was.lib[name] != l.lib[base] || !isFile(source) {
			continue
		}
		if owner == "" && strings.HasPrefix(name, "..") {
			continue
		}
		sibling, err := t.before(ctx, []string{inDir(dir, name)}, &touched{sources: []string{path.Join(dir, strings.TrimSuffix(name, ".o")+".c")}})
		if err != nil {
			return nil, err
		}
		if len(sibling) == 0 || owner == "" && sibling[0].Module != Vmlinux {
			continue // it is a module of its own
		}
		return t.like(sibling[0], path.Join(dir, base), owner != "")
	}
	return nil, nil
}

// like makes an object that is compiled as another one is.
func (t *Tree) like(sibling *Object, object string, part bool) (*Object, error) {
	o := &Object{Name: object, Source: strings.TrimSuffix(object, ".o") + ".c", Module: sibling.Module, New: true, target: object}
	c := sibling.command
	source, word := filepath.Join(t.src, o.Source), t.objectWord(object)
	was, name := kbuildName(sibling.Name), kbuildName(object)
	o.command = c.edit(func(w string) string {
		switch {
		case w == c.source:
			return source
		case w == c.object:
			return word
		case w == fmt.Sprintf(`-DKBUILD_BASENAME="%s"`, was):
			return fmt.Sprintf(`-DKBUILD_BASENAME="%s"`, name)
		case part:
		case w == fmt.Sprintf(`-DKBUILD_MODNAME="%s"`, was):
			return fmt.Sprintf(`-DKBUILD_MODNAME="%s"`, name)
		case w == "-D__KBUILD_MODNAME=kmod_"+was:
			return "-D__KBUILD_MODNAME=kmod_" + name
		case strings.HasPrefix(w, "-DKBUILD_MODFILE="):
			return fmt.Sprintf(`-DKBUILD_MODFILE="%s"`, strings.TrimSuffix(word, ".o"))
		}
		return w
	})
	o.command.source, o.command.object = source, word
	o.Flags = o.command.flags(t)
	return o, o.command.check()
}

// kbuildName is the name of an object as kbuild writes it in macros.
func kbuildName(object string) string {
	return strings.NewReplacer("-", "_", ",", "_").Replace(strings.TrimSuffix(path.Base(object), ".o"))
}
