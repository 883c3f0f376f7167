package kbuild

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// includes knows which files of a tree include which, as their text says:
// more than the compiler finds, never less, but for names that are made by
// macros.
type includes struct {
	files map[string]includeFile
	asked int                 // how often who includes what was asked for
	users map[string][]string // by the last part of the name: files that include such a one; nil: not made yet
}

type includeFile struct {
	size, mtime int64
	names       []string // as they are written, a quote or < before
}

// noSources are directories at the top without sources of the kernel.
var noSources = map[string]bool{
	"Documentation": true, "LICENSES": true, "samples": true, "scripts": true, "tools": true, "rust": true, "usr": true, ".git": true, "debian": true,
}

// scan reads the tree, or what it was found to be the last time, with what
// has changed since.
func (t *Tree) scan(ctx context.Context) (*includes, error) {
	x, err := t.scanned(ctx)
	if err != nil {
		return nil, err
	}
	return x, nil
}

// including returns the files that include one of which the last part of the
// name is base. Most patches ask for a few names, which a look through all of
// them answers sooner than a table is made.
func (x *includes) including(base string) []string {
	x.asked++
	switch {
	case x.users != nil:
	case x.asked <= fewNames:
		return x.lookFor(base)
	default:
		x.users = make(map[string][]string, len(x.files))
		for name, f := range x.files {
			for _, n := range f.names {
				b := path.Base(n[1:])
				x.users[b] = append(x.users[b], name)
			}
		}
	}
	return x.users[base]
}

const fewNames = 4

func (x *includes) lookFor(base string) (users []string) {
	for name, f := range x.files {
		for _, n := range f.names {
			if strings.HasSuffix(n, base) && path.Base(n[1:]) == base {
				users = append(users, name)
			}
		}
	}
	return users
}

// scanned is what scan makes, without users. Modules are small: nothing of
// them is kept.
func (t *Tree) scanned(ctx context.Context) (*includes, error) {
	if t.module != nil {
		return t.scanAll(ctx, nil)
	}
	cache := filepath.Join(t.Work, "includes")
	was := readIncludes(cache)
	if was != nil && t.Immutable {
		return was, nil
	}
	x, err := t.scanAll(ctx, was)
	if err != nil {
		return nil, err
	}
	if err := x.write(cache); err != nil {
		return nil, fmt.Errorf("keep which file includes which: %w", err)
	}
	return x, nil
}

func (t *Tree) scanAll(ctx context.Context, was *includes) (*includes, error) {
	x := &includes{files: map[string]includeFile{}}
	n := 0
	roots := []string{t.files, t.obj()} // a walk does not enter links
	if t.module != nil {
		roots = roots[:1]
	}
	for _, root := range roots {
		err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(root, file)
			if err != nil {
				return err
			}
			rel = filepath.ToSlash(rel)
			switch {
			case ctx.Err() != nil:
				return context.Cause(ctx)
			case root == t.files && slices.Contains(t.products, rel):
				return skip(d)
			case d.IsDir() && t.noSources(rel):
				return filepath.SkipDir
			case d.IsDir() || !sourceName(rel):
				return nil
			case root == t.obj() && !strings.Contains(rel, "generated/"):
				return nil
			}
			if n++; n%1000 == 0 {
				t.progress("look for what includes what", n, 0)
			}
			return x.add(file, rel, was)
		})
		if err != nil {
			return nil, err
		}
	}
	return x, nil
}

// noSources reports whether nothing of this kernel is in a directory.
func (t *Tree) noSources(dir string) bool {
	if t.module != nil {
		return false
	}
	arch, _ := t.arch()
	parts := strings.Split(dir, "/")
	return noSources[parts[0]] || parts[0] == "arch" && len(parts) == 2 && parts[1] != arch
}

// skip leaves out a file, or a directory with all that is in it.
func skip(d fs.DirEntry) error {
	if d.IsDir() {
		return filepath.SkipDir
	}
	return nil
}

func sourceName(name string) bool {
	switch path.Ext(name) {
	case ".c", ".h", ".S", ".inc":
		return true
	}
	return false
}

func (x *includes) add(file, rel string, was *includes) error {
	fi, err := os.Stat(file)
	if err != nil || !fi.Mode().IsRegular() {
		return nil // a link that leads nowhere
	}
	f := includeFile{size: fi.Size(), mtime: fi.ModTime().UnixNano()}
	if was != nil {
		if old, ok := was.files[rel]; ok && old.size == f.size && old.mtime == f.mtime {
			x.files[rel] = old
			return nil
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	f.names = includesOf(b)
	x.files[rel] = f
	return nil
}

// includesOf finds the names in the #include lines of a text.
func includesOf(text []byte) (names []string) {
	for len(text) > 0 {
		i := bytes.Index(text, []byte("include"))
		if i < 0 {
			return names
		}
		line := text[bytes.LastIndexByte(text[:i], '\n')+1 : i]
		text = text[i+len("include"):]
		if t := bytes.TrimSpace(line); len(t) == 0 || t[0] != '#' || len(bytes.TrimSpace(t[1:])) > 0 {
			continue
		}
		rest := bytes.TrimLeft(text, " \t")
		if len(rest) == 0 || rest[0] != '"' && rest[0] != '<' {
			continue
		}
		end := bytes.IndexAny(rest[1:], "\">\n")
		if end > 0 && rest[1+end] != '\n' {
			names = append(names, string(rest[:1+end]))
		}
	}
	return names
}

// usersOf returns the .c files that include a file, directly or through
// others; the file itself is among them if it is one.
func (x *includes) usersOf(file string) (units []string) {
	seen := map[string]bool{file: true}
	for todo := []string{file}; len(todo) > 0; {
		f := todo[0]
		todo = todo[1:]
		if path.Ext(f) == ".c" {
			units = append(units, f)
		}
		for _, user := range x.including(path.Base(f)) {
			if !seen[user] && x.mayInclude(user, f) {
				seen[user] = true
				todo = append(todo, user)
			}
		}
	}
	return units
}

// mayInclude reports whether one of the names in a file may mean the other:
// the file beside it, or one somewhere that ends so.
func (x *includes) mayInclude(user, file string) bool {
	for _, n := range x.files[user].names {
		if path.Base(n[1:]) != path.Base(file) {
			continue
		}
		if n[0] == '"' {
			near := path.Join(path.Dir(user), n[1:])
			if near == file {
				return true
			}
			if _, ok := x.files[near]; ok {
				continue // the compiler takes that one
			}
		}
		for strings.HasPrefix(n[1:], "../") || strings.HasPrefix(n[1:], "./") { // from a directory that we do not know
			_, rest, _ := strings.Cut(n[1:], "/")
			n = n[:1] + rest
		}
		if file == n[1:] || strings.HasSuffix(file, "/"+n[1:]) {
			return true
		}
	}
	return false
}

func (x *includes) write(file string) error {
	var b bytes.Buffer
	for _, name := range sortedKeys(x.files) {
		f := x.files[name]
		fmt.Fprintf(&b, "%s\t%d\t%d", name, f.size, f.mtime)
		for _, n := range f.names {
			b.WriteByte('\t')
			b.WriteString(n)
		}
		b.WriteByte('\n')
	}
	return replaceFile(file, b.Bytes())
}

// readIncludes reads what write wrote; nil if it is not there or not whole.
func readIncludes(file string) *includes {
	b, err := os.ReadFile(file)
	if err != nil || len(b) > 0 && b[len(b)-1] != '\n' {
		return nil
	}
	text := string(b)
	x := &includes{files: make(map[string]includeFile, strings.Count(text, "\n"))}
	all := make([]string, 0, strings.Count(text, "\t")+strings.Count(text, "\n")) // the parts of all lines
	for line := range strings.Lines(text) {
		first := len(all)
		for part := range strings.SplitSeq(line[:len(line)-1], "\t") {
			all = append(all, part)
		}
		parts := all[first:len(all):len(all)]
		if len(parts) < 3 || slices.Contains(parts[3:], "") {
			return nil
		}
		f := includeFile{names: parts[3:]}
		var err1, err2 error
		f.size, err1 = strconv.ParseInt(parts[1], 10, 64)
		f.mtime, err2 = strconv.ParseInt(parts[2], 10, 64)
		if err1 != nil || err2 != nil {
			return nil
		}
		x.files[parts[0]] = f
	}
	return x
}
