package compile

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// maxFiles bounds the files of the trees that are mirrored: a browser has half
// a million.
const maxFiles = 1 << 22

// A mirror is a copy of directories below a scratch directory, at the paths
// that they have: relative paths between them lead to the same places. Its
// directories are real and its files are links to the originals, but for those
// that are replaced. So what is read through an unpatched directory of the
// mirror, "../src/x.h" say, is of the mirror too.
type mirror struct {
	scratch string
	roots   []string // the directories, absolute; none is in another
	files   []string // regular files and links to files, absolute, as they are outside
}

// newMirror mirrors directories below scratch, which exists and is empty.
func newMirror(ctx context.Context, scratch string, roots []string) (*mirror, error) {
	m := &mirror{scratch: scratch}
	for _, r := range roots {
		if !m.covers(r) {
			m.roots = append(m.roots, r)
		}
	}
	for _, r := range m.roots {
		if err := m.add(ctx, r); err != nil {
			return nil, fmt.Errorf("mirror %s: %w", r, err)
		}
	}
	return m, nil
}

// covers reports whether a path is in a mirrored directory.
func (m *mirror) covers(path string) bool {
	for _, r := range m.roots {
		if below(r, path) {
			return true
		}
	}
	return false
}

// below reports whether a path is a directory or in it; both absolute.
func below(dir, path string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

// in is where a path is in the mirror.
func (m *mirror) in(path string) string { return filepath.Join(m.scratch, path) }

// out is the path whose mirror a path is; one that is not of the mirror is
// itself.
func (m *mirror) out(path string) string {
	if rest, ok := strings.CutPrefix(path, m.scratch); ok && strings.HasPrefix(rest, "/") {
		return rest
	}
	return path
}

func (m *mirror) add(ctx context.Context, root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case len(m.files) > maxFiles:
			return fmt.Errorf("it has more than %d files", maxFiles)
		case path == m.scratch:
			return fs.SkipDir // where temporary files are in the source tree
		case d.IsDir() && (d.Name() == ".git" || d.Name() == ".hg" || d.Name() == ".svn") && path != root:
			return fs.SkipDir
		case d.IsDir():
			return os.MkdirAll(m.in(path), 0o700)
		case d.Type()&fs.ModeSymlink != 0:
			return m.addLink(path)
		case d.Type().IsRegular():
			m.files = append(m.files, path)
			return os.Symlink(path, m.in(path))
		}
		return nil // a socket, a pipe
	})
}

// addLink mirrors a symbolic link: what leads into the mirrored directories
// leads into the mirror.
func (m *mirror) addLink(path string) error {
	to, err := os.Readlink(path)
	if err != nil {
		return err
	}
	full := to
	if !filepath.IsAbs(to) {
		full = filepath.Join(filepath.Dir(path), to)
	}
	switch {
	case !m.covers(full):
		to = full
	case filepath.IsAbs(to):
		to = m.in(to)
	}
	if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() {
		m.files = append(m.files, path)
	}
	return os.Symlink(to, m.in(path))
}

// replace makes a file of the mirror one of its own with this content, or
// takes it away.
func (m *mirror) replace(path string, data []byte, exists bool) error {
	in := m.in(path)
	if err := os.MkdirAll(filepath.Dir(in), 0o700); err != nil {
		return err
	}
	if err := os.Remove(in); err != nil && !os.IsNotExist(err) {
		return err
	}
	if !exists {
		return nil
	}
	return os.WriteFile(in, data, 0o600)
}

// translate rewrites the paths of an argument that lead into the mirrored
// directories.
func (m *mirror) translate(arg string) string {
	for _, r := range m.roots {
		arg = replacePaths(arg, r, m.in(r))
	}
	return arg
}

// replacePaths replaces a directory where it stands in an argument as the
// beginning of a path: by itself, behind the letters of an option, behind a
// separator.
func replacePaths(arg, from, to string) string {
	var out strings.Builder
	for rest, behind := arg, ""; ; {
		i := strings.Index(rest, from)
		if i < 0 {
			out.WriteString(rest)
			return out.String()
		}
		before := behind + rest[:i]
		before = before[strings.LastIndexAny(before, "=,:;\"' \t")+1:]
		after := rest[i+len(from):]
		out.WriteString(rest[:i])
		if !strings.ContainsAny(before, "/.") && (after == "" || strings.ContainsRune("/=,:;\"' \t", rune(after[0]))) {
			out.WriteString(to)
		} else {
			out.WriteString(from)
		}
		behind, rest = before+from, after
	}
}
