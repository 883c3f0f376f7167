package compile

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A job is a unit while it is compiled.
type job struct {
	number    int
	name      string // Unit.Source
	object    string // base name
	path      string // of the source, absolute, outside of the mirror
	source    string // as the command spells it
	directory string // where the command runs, in the mirror
	compiler  string
	flags     []string // of the build
	recorded  []string // those that the manifest shows
	linkTime  bool
	isNew     bool
	err       error // why the entry of the database is of no use
}

// find returns the units that read a touched file, in the order of the
// database.
func (b *builder) find(ctx context.Context) (jobs []*job, err error) {
	all := b.jobs()
	read := map[string]bool{} // touched files that units read
	names := map[string]bool{}
	for path, c := range b.touched {
		names[filepath.Base(path)] = true
		if sourceSuffixes[filepath.Ext(path)] && !c.Exist {
			b.out.Removed = append(b.out.Removed, c.Path)
			read[path] = true
		}
	}
	slices.Sort(b.out.Removed)
	b.progress("look for what includes the touched files", 0, 0)
	may := includers(b.mirror.files, names)
	var candidates []*job
	for _, j := range all {
		c := b.touched[j.path]
		switch {
		case c != nil && !c.Exist: // removed
		case j.err != nil && (c != nil || may[j.path]):
			return nil, j.err // one that is none of ours may be strange
		case c != nil:
			read[j.path] = true
			jobs = append(jobs, j)
		case may[j.path] || forced(j.flags, names, may):
			candidates = append(candidates, j)
		}
	}
	reads := make([][]string, len(candidates))
	err = inParallel(ctx, len(candidates), func(ctx context.Context, i int) (err error) {
		b.progress("find what includes the touched files", i, len(candidates))
		reads[i], err = b.reads(ctx, candidates[i])
		return err
	})
	if err != nil {
		return nil, err
	}
	for i, j := range candidates {
		for _, path := range reads[i] {
			read[path] = true
		}
		if len(reads[i]) > 0 {
			jobs = append(jobs, j)
		}
	}
	b.out.Unread = b.unread(read)
	for i := range b.changes {
		if isBuildFile(b.changes[i].Path) {
			b.out.BuildFiles = append(b.out.BuildFiles, b.changes[i].Path)
		}
	}
	slices.SortFunc(jobs, func(x, y *job) int { return cmp.Compare(x.number, y.number) })
	return jobs, nil
}

// jobs makes one job of each entry that compiles a source, the last of those
// that make one object, and of each source that the patches add.
func (b *builder) jobs() (all []*job) {
	last := map[string]*job{}
	for i := range b.Entries {
		e := &b.Entries[i]
		path := e.Source()
		if c := b.touched[path]; c == nil || c.Existed {
			if fi, err := os.Stat(path); err != nil || !fi.Mode().IsRegular() {
				continue // a test of configure, or a generated file that is gone
			}
		}
		j, err := b.job(e, i)
		if err != nil {
			j = &job{number: i, path: path, name: e.File, err: fmt.Errorf("compile database: %s: %w", e.File, err)}
		}
		if j == nil {
			continue
		}
		key := j.path + "\x00" + e.path(cmp.Or(e.Output, j.object))
		if old := last[key]; old != nil {
			all[slices.Index(all, old)] = j
		} else {
			all = append(all, j)
		}
		last[key] = j
	}
	for path, c := range b.touched {
		if c.Existed || !sourceSuffixes[filepath.Ext(path)] || slices.ContainsFunc(all, func(j *job) bool { return j.path == path }) {
			continue
		}
		if j := b.newJob(path, all); j != nil {
			all = append(all, j)
		}
	}
	return all
}

// job makes a job of an entry; nil if it compiles nothing.
func (b *builder) job(e *Entry, number int) (*job, error) {
	args, err := ExpandResponse(e.Directory, e.Arguments)
	if err != nil {
		return nil, err
	}
	c, err := ParseCommand(args)
	if err != nil {
		return nil, err
	}
	if c.Kind != KindObject && c.Kind != KindProgram {
		return nil, nil
	}
	path := e.Source()
	at := slices.IndexFunc(c.Sources, func(s string) bool { return e.path(s) == path })
	if at < 0 {
		return nil, fmt.Errorf("its command does not compile it")
	}
	j := &job{
		number: number, path: path, source: c.Sources[at], compiler: c.Compiler, flags: c.Flags, linkTime: linkTime(c.Flags),
		directory: b.mirror.in(filepath.Clean(e.Directory)), object: filepath.Base(c.Object(c.Sources[at])),
	}
	if e.Output != "" {
		j.object = filepath.Base(e.Output)
	}
	j.complete(b, filepath.Clean(e.Directory))
	return j, nil
}

// complete fills in what follows from the rest.
func (j *job) complete(b *builder, dir string) {
	j.name = filepath.Base(j.path)
	if below(b.root, j.path) {
		j.name = strings.TrimPrefix(j.path, b.root+"/")
	}
	j.recorded = usable(j.flags)
	if c := b.touched[j.path]; c != nil {
		j.isNew = !c.Existed
	}
	// Where the command runs outside of the mirror, relative paths lead out of it.
	if !b.mirror.covers(dir) {
		j.directory = dir
	}
	if !filepath.IsAbs(j.source) && (!b.mirror.covers(j.path) || !b.mirror.covers(dir)) {
		j.source = j.path
	}
}

// newJob makes the job of a source that the patches add: as its neighbours are
// compiled, if all of them are compiled alike.
func (b *builder) newJob(path string, all []*job) *job {
	var like *job
	for dir := filepath.Dir(path); like == nil && below(b.root, dir); dir = filepath.Dir(dir) {
		for _, j := range all {
			if filepath.Dir(j.path) != dir || filepath.Ext(j.path) != filepath.Ext(path) {
				continue
			}
			if like != nil && (!slices.Equal(j.flags, like.flags) || j.compiler != like.compiler || j.directory != like.directory) {
				return nil
			}
			like = j
		}
	}
	if like == nil {
		return nil
	}
	j := *like
	base := filepath.Base(path)
	j.number, j.path = len(b.Entries)+len(all), path
	j.object = strings.TrimSuffix(base, filepath.Ext(base)) + ".o"
	if filepath.IsAbs(like.source) {
		j.source = path
	} else if rel, err := filepath.Rel(b.mirror.out(like.directory), path); err == nil {
		j.source = rel
	}
	j.complete(b, b.mirror.out(like.directory))
	return &j
}

// forced reports whether flags include a touched file, or one that does.
func forced(flags []string, names, may map[string]bool) bool {
	for i, f := range flags {
		if (f == "-include" || f == "-imacros" || f == "-include-pch") && i+1 < len(flags) {
			base := filepath.Base(flags[i+1])
			if names[base] {
				return true
			}
			for path := range may {
				if filepath.Base(path) == base {
					return true
				}
			}
		}
	}
	return false
}

// reads asks the compiler which touched files a unit reads, before the
// patches, and after them if they add files: a new one may be found before
// another.
func (b *builder) reads(ctx context.Context, j *job) (paths []string, err error) {
	args := append(b.command(j), "-M", "-MT", "x", b.mirror.translate(j.source))
	rule, err := toolRun{j.directory, args}.run(ctx)
	if err != nil {
		return nil, fmt.Errorf("find what %s includes: %w", j.name, err)
	}
	added := map[string]bool{}
	for _, c := range b.changes {
		if !c.Existed {
			added[filepath.Base(c.Path)] = true
		}
	}
	for _, d := range dependencies(rule) {
		path := b.original(j, d)
		// A file that comes before another of its name is not in this rule: that
		// a name agrees is enough then.
		if b.touched[path] != nil || added[filepath.Base(path)] {
			paths = append(paths, path)
		}
	}
	return paths, nil
}

// original is the file outside of the mirror that a path of the compiler means.
func (b *builder) original(j *job, path string) string {
	if !filepath.IsAbs(path) {
		path = filepath.Join(j.directory, path)
	}
	return b.mirror.out(filepath.Clean(path))
}

// command is the command of a unit up to where its source and output follow.
// The directories of the mirror are called as those that they stand for.
func (b *builder) command(j *job) []string {
	flags := b.mirror.anchored(b.mirror.out(j.directory), usable(j.flags))
	for i := range flags {
		flags[i] = b.mirror.translate(flags[i])
	}
	args := []string{b.mirror.translate(j.compiler)}
	for i, r := range b.mirror.roots {
		in := b.mirror.in(r)
		mapped := func(option string) bool {
			return slices.ContainsFunc(flags, func(f string) bool {
				return strings.HasPrefix(f, option+in+"=") || strings.HasPrefix(f, "-ffile-prefix-map="+in+"=")
			})
		}
		if !mapped("-fmacro-prefix-map=") {
			args = append(args, "-fmacro-prefix-map="+in+"="+r)
		}
		if !mapped("-fdebug-prefix-map=") {
			name := "."
			if r != b.root {
				name = fmt.Sprintf("/build%d", i)
			}
			args = append(args, "-fdebug-prefix-map="+in+"="+name)
		}
	}
	return append(args, flags...)
}

func (b *builder) objectPath(j *job, kind string) string {
	return filepath.Join(b.objects, fmt.Sprint(j.number), kind, j.object)
}

// compile makes one object of a unit. What it reads is looked at: a touched
// file must not be read past the mirror.
func (b *builder) compile(ctx context.Context, j *job, kind string) error {
	object := b.objectPath(j, kind)
	if err := os.MkdirAll(filepath.Dir(object), 0o700); err != nil {
		return err
	}
	args := b.command(j)
	if kind != "plain" {
		args = append(args, "-ffunction-sections")
		if !b.OneDataSection {
			args = append(args, "-fdata-sections")
		}
		if !hasDebug(j.flags) {
			args = append(args, "-g") // the types; the code is the same
		}
	}
	rule := object + ".d"
	args = append(args, "-MD", "-MF", rule, "-MT", "x", "-c", "-o", object, b.mirror.translate(j.source))
	if _, err := (toolRun{j.directory, args}).run(ctx); err != nil {
		return err
	}
	text, err := os.ReadFile(rule)
	if err != nil {
		return err
	}
	for _, d := range dependencies(string(text)) {
		if !filepath.IsAbs(d) {
			d = filepath.Join(j.directory, d)
		}
		if path := filepath.Clean(d); b.touched[path] != nil {
			return fmt.Errorf("it reads %s by that name, past the copy that the patch is applied to", path)
		}
	}
	return nil
}

// unread lists the touched files that are read by no unit, as far as they are
// parts of a program.
func (b *builder) unread(read map[string]bool) (out []string) {
	for path, c := range b.touched {
		if !read[path] && isCode(path) {
			out = append(out, c.Path)
		}
	}
	slices.Sort(out)
	return out
}

// isCode tells by its name whether a file is compiled, included, or made into
// one that is.
func isCode(path string) bool {
	switch ext := filepath.Ext(path); ext {
	case ".h", ".hh", ".hpp", ".hxx", ".h++", ".H", ".inc", ".inl", ".ipp", ".def", ".y", ".yy", ".l", ".ll", ".proto", ".gperf", ".asm":
		return true
	default:
		return sourceSuffixes[ext]
	}
}

// isBuildFile tells by its name whether a file decides how a program is built.
func isBuildFile(path string) bool {
	base := strings.ToLower(filepath.Base(path))
	switch base {
	case "cmakelists.txt", "meson.build", "meson_options.txt", "configure", "build.info", "sconstruct", "sconscript", "build", "build.bazel", "build.gn", "rules":
		return true
	}
	for _, suffix := range []string{".mk", ".mak", ".cmake", ".am", ".ac", ".m4", ".gn", ".gni", ".bzl", ".ld", ".lds", ".map", ".sym"} {
		if strings.HasSuffix(base, suffix) {
			return true
		}
	}
	return strings.HasPrefix(base, "makefile") || strings.HasPrefix(base, "gnumakefile") || strings.HasPrefix(base, "configure.")
}
