package compile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"livepatch/internal/srcpatch"
)

// Program is a program whose objects are compiled again, before and after
// patches.
type Program struct {
	Source  string  // its source tree; only read
	Entries []Entry // its compile database
	Patches []*srcpatch.Patch

	// OneDataSection leaves variables in their common sections: on arm64 sections
	// of their own change how code addresses them.
	OneDataSection bool

	// Progress is told what is being done; total is 0 where it is not known.
	Progress func(what string, done, total int)
}

// A Unit is one way in which a source that the patches touch is compiled. The
// same source may be compiled several times for several targets; its units
// then stand side by side.
type Unit struct {
	Source   string   // path below the source tree, or the base name of one outside
	Object   string   // base name of its object
	Flags    []string // without directories of the build
	LinkTime bool     // it is optimized when it is linked; nothing was compiled
	Profiled bool     // it is optimized by a profile
	New      bool     // the patches add its source

	Before, Plain, After []byte // objects; Plain has sections as the build makes them, nil if New
}

// Compiled is what the patches come to.
type Compiled struct {
	Units      []Unit
	Unread     []string // touched sources and headers that no unit reads
	Removed    []string // sources that the patches remove
	BuildFiles []string // touched files that decide how the program is built
	Diff       []byte   // all patches as one, without context
	Compiler   string   // version line
}

// builder is a run of Compile.
type builder struct {
	*Program
	root    string // Source as the database spells it
	objects string // directory for objects
	mirror  *mirror
	changes []srcpatch.Change
	touched map[string]*srcpatch.Change // by path, with root
	out     Compiled
}

// Compile compiles what the patches touch, before and after, in a scratch
// directory that is gone when it returns. The tree of the user is not written.
func (p *Program) Compile(ctx context.Context) (*Compiled, error) {
	b := &builder{Program: p, touched: map[string]*srcpatch.Change{}}
	// From here on it is known what the patches make of each file.
	if err := b.apply(); err != nil || len(b.changes) == 0 {
		return &b.out, err
	}
	scratch, err := os.MkdirTemp("", "livepatch-build-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(scratch)
	if scratch, err = filepath.EvalSymlinks(scratch); err != nil {
		return nil, err
	}
	b.objects = filepath.Join(scratch, "objects")
	tree := filepath.Join(scratch, "tree")
	for _, dir := range []string{b.objects, tree} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, err
		}
	}
	b.progress("mirror the source", 0, 0)
	if b.mirror, err = newMirror(ctx, tree, b.roots()); err != nil {
		return nil, err
	}
	// From here on the units are known whose code may differ.
	if err := b.before(); err != nil {
		return nil, err
	}
	jobs, err := b.find(ctx)
	if err != nil {
		return nil, err
	}
	// The mirror is as before the patches, and then as after them; each object
	// is compiled at the same paths.
	if err := b.compileAll(ctx, jobs, "before", "plain"); err != nil {
		return nil, err
	}
	if err := b.after(); err != nil {
		return nil, err
	}
	if err := b.compileAll(ctx, jobs, "after"); err != nil {
		return nil, err
	}
	return &b.out, b.collect(ctx, jobs)
}

func (p *Program) progress(what string, done, total int) {
	if p.Progress != nil {
		p.Progress(what, done, total)
	}
}

// apply applies the patches in memory.
func (b *builder) apply() error {
	top, err := os.OpenRoot(b.Source)
	if err != nil {
		return fmt.Errorf("read %s: %w", b.Source, unwrapPath(err))
	}
	defer top.Close()
	tree := srcpatch.NewTree(func(name string) ([]byte, bool, error) {
		data, err := top.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, false, nil
		}
		if err != nil {
			err = fmt.Errorf("read %s: %w", name, unwrapPath(err))
		}
		return data, err == nil, err
	})
	for _, p := range b.Patches {
		if err := tree.Apply(p); err != nil {
			return err
		}
	}
	b.changes, b.out.Diff = tree.Changes(), tree.Diff()
	b.root = b.spelled()
	for i := range b.changes {
		b.touched[filepath.Join(b.root, b.changes[i].Path)] = &b.changes[i]
	}
	return nil
}

// spelled is the source tree as the database calls it: what __FILE__ says
// depends on the name, not on the place.
func (b *builder) spelled() string {
	source, err := filepath.Abs(b.Source)
	if err != nil {
		return b.Source
	}
	want, err := os.Stat(source)
	if err != nil {
		return source
	}
	known := map[string]bool{}
	for i := range b.Entries {
		e := &b.Entries[i]
		for _, dir := range []string{filepath.Clean(e.Directory), filepath.Dir(e.Source())} {
			for ; !known[dir]; dir = filepath.Dir(dir) {
				known[dir] = true
				if fi, err := os.Stat(dir); err == nil && os.SameFile(fi, want) {
					return dir
				}
			}
		}
	}
	if real, err := filepath.EvalSymlinks(source); err == nil {
		return real
	}
	return source
}

// roots are the directories that compiling reads relative to each other: the
// source tree, and where commands ran outside of it.
func (b *builder) roots() []string {
	roots := []string{b.root}
	for i := range b.Entries {
		dir := filepath.Clean(b.Entries[i].Directory)
		if strings.Count(dir, "/") < 2 || below(b.root, dir) || !below(b.root, b.Entries[i].Source()) && !b.isSource(&b.Entries[i]) {
			continue
		}
		at := slices.IndexFunc(roots[1:], func(r string) bool { return near(r, dir) != "" })
		if at < 0 {
			roots = append(roots, dir)
		} else {
			roots[at+1] = near(roots[at+1], dir)
		}
	}
	// A directory that another is in comes first.
	slices.SortStableFunc(roots, func(x, y string) int { return len(x) - len(y) })
	return roots
}

// isSource reports whether an entry's source is generated in its directory.
func (b *builder) isSource(e *Entry) bool { return below(filepath.Clean(e.Directory), e.Source()) }

// near is the directory that two of one build are in, "" if they have only the
// first elements of their paths in common.
func near(a, b string) string {
	x, y := strings.Split(a, "/"), strings.Split(b, "/")
	n := 0
	for n < len(x) && n < len(y) && x[n] == y[n] {
		n++
	}
	// "/home/user" is no build; "/home/user/build" may be.
	if n < 4 && n < len(x) && n < len(y) {
		return ""
	}
	return strings.Join(x[:n], "/")
}

// before makes the mirror as the tree is, with an empty file for each that the
// patches add: its object has nothing yet.
func (b *builder) before() error {
	for path, c := range b.touched {
		if err := b.mirror.replace(path, c.Before, c.Existed || sourceSuffixes[filepath.Ext(path)]); err != nil {
			return fmt.Errorf("mirror %s: %w", path, unwrapPath(err))
		}
	}
	return nil
}

// after makes the mirror as the patches make the tree.
func (b *builder) after() error {
	for path, c := range b.touched {
		if err := b.mirror.replace(path, c.After, c.Exist); err != nil {
			return fmt.Errorf("mirror %s: %w", path, unwrapPath(err))
		}
	}
	return nil
}

// compileAll makes one or more kinds of objects of each unit.
func (b *builder) compileAll(ctx context.Context, jobs []*job, kinds ...string) error {
	var begun atomic.Int64
	return inParallel(ctx, len(jobs), func(ctx context.Context, i int) error {
		j := jobs[i]
		if j.linkTime {
			return nil
		}
		b.progress("compile "+strings.Join(kinds, ", ")+": "+j.name, int(begun.Add(1)), len(jobs))
		for _, kind := range kinds {
			if kind == "plain" && j.isNew {
				continue
			}
			if err := b.compile(ctx, j, kind); err != nil {
				return fmt.Errorf("compile %s (%s): %w", j.name, kind, err)
			}
		}
		return nil
	})
}

// collect reads the objects.
func (b *builder) collect(ctx context.Context, jobs []*job) error {
	versions := map[string]bool{}
	for _, j := range jobs {
		u := Unit{Source: j.name, Object: j.object, Flags: recorded(b.root, j.recorded), LinkTime: j.linkTime, Profiled: profiled(j.flags), New: j.isNew}
		for kind, to := range map[string]*[]byte{"before": &u.Before, "plain": &u.Plain, "after": &u.After} {
			if j.linkTime || kind == "plain" && j.isNew {
				continue
			}
			data, err := os.ReadFile(b.objectPath(j, kind))
			if err != nil {
				return fmt.Errorf("read what was compiled of %s: %w", j.name, unwrapPath(err))
			}
			*to = data
		}
		b.out.Units = append(b.out.Units, u)
		if versions[j.compiler] {
			continue
		}
		versions[j.compiler] = true
		text, err := toolRun{j.directory, []string{j.compiler, "--version"}}.run(ctx)
		if err != nil {
			return err
		}
		line, _, _ := strings.Cut(text, "\n")
		if line = strings.TrimSpace(line); b.out.Compiler != "" && b.out.Compiler != line {
			line = b.out.Compiler + "; " + line
		}
		b.out.Compiler = line
	}
	return nil
}
