package kbuild

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Module is a directory with the source of modules that are not in the
// kernel's tree.
type Module struct {
	Source    string   // directory; only read
	BuildPath string   // where the modules were built, which the messages of their code name; "" for Source
	Vars      []string // variables of make, NAME=VALUE
}

// Module returns a tree that compiles what is in the directory of a module, as
// kbuild does with M=. It works on a copy below scratch, which the caller
// removes: Makefiles run what they like where they are.
func (t *Tree) Module(m Module, scratch string) (*Tree, error) {
	given, err := realPath(m.Source)
	if err != nil {
		return nil, fmt.Errorf("read the module's source: %w", err)
	}
	if !isFile(filepath.Join(given, "Kbuild")) && !isFile(filepath.Join(given, "Makefile")) {
		return nil, fmt.Errorf("%s: this is no source of a module: it has no Makefile", m.Source)
	}
	top, err := os.ReadFile(filepath.Join(t.srctree, "Makefile"))
	if err != nil {
		return nil, err
	}
	if strings.Contains(string(top), "srcroot") {
		return nil, fmt.Errorf("%s: kernels from 6.13 on compile modules in the directory of their source, which is not followed; make the objects with the kernel's build, and the package with livepatch create", t.Release)
	}
	if m.BuildPath == "" {
		if m.BuildPath, err = filepath.Abs(m.Source); err != nil {
			return nil, err
		}
	}
	if scratch, err = realPath(scratch); err != nil {
		return nil, err
	}
	m.BuildPath = filepath.Clean(m.BuildPath)
	for _, v := range m.Vars {
		name, _, _ := strings.Cut(v, "=")
		if slices.ContainsFunc(t.makeVars(), func(ours string) bool { return strings.HasPrefix(ours, name+"=") }) || name == "M" {
			return nil, fmt.Errorf("make variable %s: it is set for all that is compiled", name)
		}
	}
	if err := forMake(m.BuildPath, scratch); err != nil {
		return nil, err
	}
	k := *t.Kernel
	k.Immutable = false // the directory is the user's
	src := filepath.Join(scratch, "module")
	out := &Tree{Kernel: &k, Compiler: t.Compiler, srctree: t.srctree, dirs: map[string]*listing{}, enters: map[string]bool{}, place: place{src: src, files: src, given: given, module: &m}}
	if err := copyModule(given, src); err != nil {
		return nil, fmt.Errorf("copy the module's source: %w", err)
	}
	return out, nil
}

func realPath(name string) (string, error) {
	name, err := filepath.EvalSymlinks(name)
	if err != nil {
		return "", err
	}
	return filepath.Abs(name)
}

// forMake makes sure that make takes these paths.
func forMake(paths ...string) error {
	for _, p := range paths {
		if strings.ContainsAny(p, " :'\"$#=\\") {
			return fmt.Errorf("%q: make cannot work with spaces, colons, quotes and the like in paths", p)
		}
	}
	return nil
}

// product is a file that the build of a module leaves.
var product = regexp.MustCompile(`^(.*\.(o|ko|ko\.(xz|zst|gz)|mod|mod\.c)|\..*\.(cmd|d)|Module\.symvers|modules\.order)$`)

// copyModule copies a directory without what builds left in it. Links lead to
// the copy of what they led to, if there is one.
func copyModule(from, to string) error {
	return filepath.WalkDir(from, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, file)
		if err != nil {
			return err
		}
		dest := filepath.Join(to, rel)
		switch {
		case d.IsDir() && (d.Name() == ".git" || d.Name() == ".tmp_versions"):
			return filepath.SkipDir
		case d.IsDir():
			return os.MkdirAll(dest, 0o755)
		case product.MatchString(d.Name()):
			return nil
		case d.Type() == fs.ModeSymlink:
			return copyLink(from, to, file, dest)
		case !d.Type().IsRegular():
			return nil
		}
		return copyMode(file, dest)
	})
}

func copyLink(from, to, file, dest string) error {
	target, err := filepath.EvalSymlinks(file)
	if err != nil {
		return nil // it leads nowhere
	}
	if rel, ok := inSource(from, target); ok {
		target = filepath.Join(to, rel)
	} else if isFile(target) {
		return copyMode(target, dest)
	}
	return os.Symlink(target, dest)
}

// copyMode copies a file; scripts stay executable.
func copyMode(from, to string) error {
	fi, err := os.Stat(from)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, fi.Mode().Perm()|0o200)
}

// env is what programs see more than others. Makefiles of modules use PWD,
// which is the directory that their make was called in.
func (t *Tree) env() []string {
	env := t.Kernel.env()
	if t.module != nil {
		env = append(env, "PWD="+t.src)
	}
	return env
}

// out is where kbuild puts objects: those of modules beside their sources.
func (t *Tree) out() string {
	if t.module != nil {
		return t.src
	}
	return t.obj()
}

// objectWord is an object as kbuild's commands name it.
func (t *Tree) objectWord(name string) string {
	if t.module != nil {
		return t.src + "/" + name
	}
	return name
}

// above are the directories that may enter one, the nearest first. Nothing
// enters those at the top of the kernel's tree.
func (p *place) above(dir string) (out []string) {
	for dir != "." {
		dir = path.Dir(dir)
		if dir != "." || p.module != nil {
			out = append(out, dir)
		}
	}
	return out
}
