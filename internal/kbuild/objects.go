package kbuild

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"livepatch/internal/child"
	"livepatch/internal/refusal"
	"livepatch/internal/srcpatch"
)

// An Object is one that the patch touches, before and after.
type Object struct {
	Name   string   // "fs/proc/base.o"
	Source string   // "fs/proc/base.c"
	Module string   // that it belongs to; "vmlinux" for the kernel itself
	Flags  []string // of the compiler, without paths of this machine
	New    bool     // the patch adds it: Plain and Orig are made of no code

	// The files: as the kernel's own build makes it, and with sections for each
	// function, before and after the patch.
	Plain, Orig, Patched string

	// Checksums are those of exports that the patch changes.
	Checksums []Checksum

	target     string // as kbuild names it: a path that may have ".." in it
	command    command
	uncompared bool // it has exports, and nothing computes their checksums
	raw        bool // kbuild runs objtool on it, and this package does not
}

// Vmlinux is the Module of objects of the kernel itself.
const Vmlinux = "vmlinux"

// Request is what to compile.
type Request struct {
	Changes *srcpatch.Tree
	Dir     string // for the objects; the caller removes it
	Limit   int    // how many objects at most
}

// Compile makes the objects that a patch touches. What cannot be covered is
// said before anything is compiled; notes say what was passed over.
func (t *Tree) Compile(ctx context.Context, r Request) (objects []*Object, notes []string, err error) {
	in, err := classify(r.Changes.Changes(), t.module != nil)
	if err != nil {
		return nil, nil, err
	}
	release, err := child.Lock(ctx, t.Work, t.waits)
	if err != nil {
		return nil, nil, err
	}
	defer release.Close()
	lists, err := t.checkLists(ctx, in, r)
	if err != nil {
		return nil, nil, err
	}
	targets, err := t.units(ctx, in, r.Limit)
	if err != nil {
		return nil, nil, err
	}
	if n := len(targets) + len(in.added); n > r.Limit {
		return nil, nil, tooMany("the patch", n, "objects of this kernel would have to be compiled", r.Limit)
	}
	if objects, err = t.before(ctx, targets, in); err != nil {
		return nil, nil, err
	}
	if err := t.alike(objects); err != nil {
		return nil, nil, err
	}
	more, err := t.newObjects(ctx, in, lists)
	if err != nil {
		return nil, nil, err
	}
	objects = append(objects, more...)
	over := t.overlay(r, "source")
	for _, o := range objects {
		over.addReal(path.Dir(o.Source)) // so that "../x.h" is beside it
		for i := range o.target {        // and "dir/../x.c" in the same tree as dir
			if strings.HasPrefix(o.target[i:], "/../") {
				over.addReal(path.Clean(o.target[:i]))
			}
		}
	}
	if err := over.link(""); err != nil {
		return nil, nil, fmt.Errorf("make a tree with the patch: %w", err)
	}
	for _, o := range objects {
		if err := t.takePlain(o, r.Dir); err != nil {
			return nil, nil, err
		}
	}
	err = t.unlocked(release, func() error { return t.compileAll(ctx, objects, over, r.Dir) })
	for _, o := range objects {
		if o.uncompared {
			in.notes = append(in.notes, o.Name+": whether the checksums of what it exports change is not known: the kernel's build has no genksyms")
		}
	}
	return objects, in.notes, err
}

// alike takes objtool from the commands of some objects where others have none: kernels
// that run it at the last link (IBT, LTO) do so for modules of one object when that
// is compiled. In a patch all objects have to be in the same state.
func (t *Tree) alike(objects []*Object) error {
	config, err := os.ReadFile(t.Config)
	if err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	delayed := configText(config, "X86_KERNEL_IBT") == "y" || configText(config, "LTO") == "y"
	if !delayed || !slices.ContainsFunc(objects, func(o *Object) bool { return len(o.command.programs) == 1 }) {
		return nil
	}
	for _, o := range objects {
		if o.raw = len(o.command.programs) > 1; o.raw {
			o.command.programs = o.command.programs[:1]
		}
	}
	return nil
}

// takePlain copies the object that kbuild made: the next build may replace it.
func (t *Tree) takePlain(o *Object, dir string) error {
	if o.New {
		return nil
	}
	plain := filepath.Join(dir, "plain", o.Name)
	if err := copyFile(o.Plain, plain); err != nil {
		return err
	}
	o.Plain = plain
	return nil
}

// unlocked calls fn, which only reads the tree. In that of a cache other builds may
// make their objects meanwhile; one that prepares it anew is noticed.
func (t *Tree) unlocked(lock io.Closer, fn func() error) error {
	if !t.Immutable {
		return fn()
	}
	before, err := os.Stat(t.stamp())
	if err != nil {
		return err
	}
	if err := lock.Close(); err != nil {
		return err
	}
	err = fn()
	if after, serr := os.Stat(t.stamp()); serr != nil || !os.SameFile(before, after) || !after.ModTime().Equal(before.ModTime()) {
		return errors.Join(fmt.Errorf("%s: another build has prepared the kernel anew meanwhile; try again", t.Release), err)
	}
	return err
}

// overlay is the source with the patch: real where a patched file is.
func (t *Tree) overlay(r Request, name string) *overlay {
	o := t.links(filepath.Join(r.Dir, name))
	for _, c := range r.Changes.Changes() {
		if c.Exist {
			o.files[c.Path] = c.After
		} else {
			o.omit[c.Path] = true
		}
		o.addReal(path.Dir(c.Path))
	}
	return o
}

// Objtool is the program that was made with the tools of the tree; "" if there
// is none.
func (t *Tree) Objtool() string {
	path := filepath.Join(t.obj(), "tools/objtool/objtool")
	if arch, _ := t.arch(); arch != "x86" || !isFile(path) {
		return ""
	}
	return path
}

// beforeDir keeps objects of the unchanged source with their sections.
func (t *Tree) beforeDir() string { return filepath.Join(t.Work, "before") }

// before has kbuild make the objects as they are, which says with which
// commands, and to which module each belongs. Objects that turn out not to
// depend on a changed file are left out.
func (t *Tree) before(ctx context.Context, targets []string, in *touched) (out []*Object, err error) {
	var missing []string
	for _, target := range targets {
		name := path.Clean(target)
		if !t.Immutable || !isFile(filepath.Join(t.out(), name)) || !isFile(savedPath(t.out(), name)) {
			missing = append(missing, target)
		}
	}
	if len(missing) > 0 {
		if err := t.make(ctx, "compile "+count(len(missing)), append([]string{fmt.Sprintf("-j%d", runtime.NumCPU())}, missing...)...); err != nil {
			return nil, fmt.Errorf("compile before the patch: %w", err)
		}
	}
	for _, target := range targets {
		name := path.Clean(target)
		o := &Object{Name: name, Source: strings.TrimSuffix(name, ".o") + ".c", Plain: filepath.Join(t.out(), name), target: target}
		deps, err := o.readCommand(t)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(deps, func(dep string) bool {
			rel, ok := t.find(dep)
			return ok && slices.Contains(in.sources, rel)
		}) {
			out = append(out, o)
		}
	}
	return out, nil
}

func count(n int) string {
	if n == 1 {
		return "1 object"
	}
	return fmt.Sprintf("%d objects", n)
}

func savedPath(obj, name string) string {
	return filepath.Join(obj, path.Dir(name), "."+path.Base(name)+".cmd")
}

// readCommand reads the command of an object and what follows from it.
func (o *Object) readCommand(t *Tree) (deps []string, err error) {
	b, err := os.ReadFile(savedPath(t.out(), o.Name))
	if err != nil {
		return nil, fmt.Errorf("read the command of %s: %w", o.Name, err)
	}
	programs, deps, err := savedCommand(string(b))
	if err != nil {
		return nil, fmt.Errorf("read the command of %s: %w", o.Name, err)
	}
	o.command = command{programs: programs, source: t.src + "/" + strings.TrimSuffix(o.target, ".o") + ".c", object: t.objectWord(o.target)}
	o.Module = o.command.module()
	o.Flags = o.command.flags(t)
	return deps, o.command.check()
}

// compileAll makes Orig and Patched of the objects, some at a time.
func (t *Tree) compileAll(ctx context.Context, objects []*Object, over *overlay, dir string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(objects))
	slots := make(chan struct{}, runtime.NumCPU())
	var wg sync.WaitGroup
	var mu sync.Mutex
	done := 0
	for i, o := range objects {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if errs[i] = t.compileOne(ctx, o, over, dir); errs[i] != nil {
				cancel()
			}
			mu.Lock()
			defer mu.Unlock()
			done++
			t.progress("compile with the patch: "+o.Name, done, len(objects))
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
	}
	return errors.Join(errs...)
}

func (t *Tree) compileOne(ctx context.Context, o *Object, over *overlay, dir string) (err error) {
	cmd := o.command.withFlags(t.sectionFlags())
	if o.New {
		o.Plain, o.Orig = filepath.Join(dir, "plain", o.Name), filepath.Join(dir, "before", o.Name)
		if err := o.command.withSource(os.DevNull).run(ctx, t, o.Plain); err != nil {
			return fmt.Errorf("compile no code as %s: %w", o.Source, err)
		}
		if err := cmd.withSource(os.DevNull).run(ctx, t, o.Orig); err != nil {
			return fmt.Errorf("compile no code as %s: %w", o.Source, err)
		}
	} else {
		o.Orig = filepath.Join(dir, "before", o.Name)
		if err := t.orig(ctx, o, cmd); err != nil {
			return fmt.Errorf("compile %s before the patch: %w", o.Source, err)
		}
	}
	o.Patched = filepath.Join(dir, "after", o.Name)
	if err := cmd.moved(t.src, over.to).run(ctx, t, o.Patched); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("compile %s with the patch: %s", o.Source, strings.ReplaceAll(err.Error(), over.to+"/", ""))
	}
	if err := t.checkDeps(o, over); err != nil || o.New {
		return err
	}
	if err := t.checksums(ctx, o, o.command.moved(t.src, over.to), dir); err != nil {
		return fmt.Errorf("compute the checksums of what %s exports: %w", o.Source, err)
	}
	return nil
}

// orig makes the object of the unchanged source, once if that stays as it is.
func (t *Tree) orig(ctx context.Context, o *Object, cmd command) error {
	kept := filepath.Join(t.beforeDir(), o.Name)
	if o.raw {
		kept += ".raw"
	}
	if t.Immutable && isFile(kept) {
		return copyFile(kept, o.Orig)
	}
	if err := cmd.run(ctx, t, o.Orig); err != nil || !t.Immutable {
		return err
	}
	return copyFile(o.Orig, kept)
}

// sectionFlags give each function, and each variable where that changes no
// code, a section of its own.
func (t *Tree) sectionFlags() []string {
	if arch, _ := t.arch(); arch == "arm64" {
		return []string{"-ffunction-sections"}
	}
	return []string{"-ffunction-sections", "-fdata-sections"}
}

// checkDeps makes sure that the compiler has read no file from the unchanged
// source that the patch changes: a path with ".." may lead there.
func (t *Tree) checkDeps(o *Object, over *overlay) error {
	b, err := os.ReadFile(depFile(o.Patched))
	if err != nil {
		return fmt.Errorf("read what %s depends on: %w", o.Name, err)
	}
	for _, dep := range strings.Fields(string(b)) {
		if dep == `\` || strings.HasSuffix(dep, ":") {
			continue
		}
		real, err := filepath.EvalSymlinks(dep)
		if err != nil {
			continue
		}
		rel, ok := t.find(real)
		if _, patched := over.files[rel]; ok && (patched || over.omit[rel]) {
			return refusal.New(refusal.Unsupported, o.Source, "it includes the patched %s by the path %s, which leads to the unpatched one",
				rel, strings.TrimPrefix(dep, over.to+"/"))
		}
	}
	return nil
}
