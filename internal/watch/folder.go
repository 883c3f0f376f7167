package watch

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"livepatch/internal/fit"
	"livepatch/internal/pack"
)

// Suffix is that of package files; others in the directory are left alone.
const Suffix = ".lpatch"

// Limits of a directory, so that memory is bounded whatever is put there.
const (
	maxPackages = 4096
	maxSize     = 256 << 20 // bytes of a package
)

// Parse reads the bytes of a package file and judges its signatures.
type Parse func(path string, b []byte) (*pack.Package, error)

// folder is the directory of the packages. It keeps of each package only what
// tells where it belongs.
type folder struct {
	dir   string
	parse Parse
	files map[string]*file // by name
	names []string         // of the good ones, in order
}

// file is one file of the directory.
type file struct {
	stamp stamp
	read  bool         // with this stamp
	pkg   *fit.Package // nil if it is bad
}

// stamp changes when a file does.
type stamp struct {
	size    int64
	changed time.Time
}

// A finding is what is new about a file: a package, an error, or neither if it
// is not there any more.
type finding struct {
	name string
	pkg  *fit.Package
	err  error
}

// look reads the directory and what has changed in it. A file that is new since
// the last look may still be written to, so it is read when it is the same in the
// next one, unless hasty.
func (f *folder) look(hasty bool) ([]finding, error) {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", f.dir, plain(err))
	}
	var news []finding
	present := map[string]bool{}
	for _, e := range entries {
		name := e.Name()
		if !strings.HasSuffix(name, Suffix) || len(present) == maxPackages {
			continue
		}
		st, err := os.Stat(filepath.Join(f.dir, name))
		if err != nil {
			continue // it is going
		}
		present[name] = true
		if n, ok := f.update(name, stamp{st.Size(), st.ModTime()}, hasty); ok {
			news = append(news, n)
		}
	}
	for name, file := range f.files {
		if !present[name] {
			delete(f.files, name)
			if file.pkg != nil {
				news = append(news, finding{name: name})
			}
		}
	}
	if len(news) > 0 {
		f.order()
	}
	return news, nil
}

func (f *folder) update(name string, s stamp, hasty bool) (n finding, ok bool) {
	known := f.files[name]
	switch {
	case known != nil && known.stamp == s && known.read:
		return n, false
	case known == nil || known.stamp != s:
		if known == nil {
			known = &file{}
			f.files[name] = known
		}
		known.stamp, known.read = s, false
		if !hasty {
			return n, false
		}
	}
	known.read = true
	_, pkg, err := f.open(name)
	known.pkg = pkg
	if err != nil {
		return finding{name: name, err: err}, true
	}
	return finding{name: name, pkg: pkg}, true
}

var errKernel = errors.New("patches the kernel, not processes")

// open reads a package, whoever put it there: a pipe is not waited for, and a
// file without end is not read to its end.
func (f *folder) open(name string) (*pack.Package, *fit.Package, error) {
	path := filepath.Join(f.dir, name)
	st, err := os.Stat(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", path, plain(err))
	}
	if !st.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("read %s: it is no regular file", path)
	}
	file, err := os.OpenFile(path, os.O_RDONLY|nonblock, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", path, plain(err))
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxSize+1))
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("read %s: %w", path, plain(err))
	case len(b) > maxSize:
		return nil, nil, fmt.Errorf("read %s: more than %d bytes", path, maxSize)
	}
	pkg, err := f.parse(path, b)
	if err != nil {
		return nil, nil, err
	}
	if pkg.Manifest.Kernel != nil {
		return nil, nil, fmt.Errorf("read %s: it %w", path, errKernel)
	}
	what, err := fit.Of(pkg.Manifest)
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", path, err)
	}
	return pkg, what, nil
}

// order sorts the names of the good packages.
func (f *folder) order() {
	f.names = f.names[:0]
	for name, file := range f.files {
		if file.pkg != nil {
			f.names = append(f.names, name)
		}
	}
	slices.Sort(f.names)
}

// has reports whether a package of that digest is in the directory.
func (f *folder) has(digest string) bool {
	return slices.ContainsFunc(f.names, func(n string) bool { return f.files[n].pkg.Digest == digest })
}

// plain drops the operation and the path that the os package puts before an
// error.
func plain(err error) error {
	var e *fs.PathError
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

// ReadDir reads the packages of a directory once, in the order of their names.
// Bad ones are told to bad.
func ReadDir(dir string, parse Parse, bad func(error)) (names []string, pkgs []*fit.Package, err error) {
	f := &folder{dir: dir, parse: parse, files: map[string]*file{}}
	news, err := f.look(true)
	if err != nil {
		return nil, nil, err
	}
	for _, n := range news {
		if n.err != nil {
			bad(n.err)
		}
	}
	for _, name := range f.names {
		names, pkgs = append(names, name), append(pkgs, f.files[name].pkg)
	}
	return names, pkgs, nil
}
