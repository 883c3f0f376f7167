package klp

import (
	"fmt"
	"io/fs"
	"path"
	"strings"

	"livepatch/internal/kimage"
	"livepatch/internal/kstate"
	"livepatch/manifest"
)

// modulesLater compares the modules that a package patches when they are loaded
// with the files that would be loaded. The kernel goes by their names alone.
func (l *loader) modulesLater(v *kstate.Verdict, k *manifest.Kernel) {
	for _, name := range v.Later {
		for i := range k.Objects {
			if o := &k.Objects[i]; o.Name == name {
				l.opt.progress("reading module %s", name)
				file, m, err := moduleFile(l.Files(), k.Release, name)
				if err != nil {
					v.Warnings = append(v.Warnings, fmt.Sprintf("module %s is not loaded and was not checked: %v", name, err))
					continue
				}
				v.File(o, "/"+file, m.BuildID, m.Srcversion)
			}
		}
	}
}

// moduleFile finds and reads the file of a module as modprobe would.
func moduleFile(fsys fs.FS, release, name string) (string, *kimage.Module, error) {
	if strings.Contains(release, "/") {
		return "", nil, fmt.Errorf("%q is no release", release)
	}
	dir := path.Join("lib/modules", release)
	deps, err := fs.ReadFile(fsys, path.Join(dir, "modules.dep"))
	if err != nil {
		return "", nil, fmt.Errorf("read /%s/modules.dep: %w", dir, bare(err))
	}
	for line := range strings.Lines(string(deps)) {
		file, _, ok := strings.Cut(line, ":")
		base, _, _ := strings.Cut(path.Base(file), ".")
		if !ok || strings.ReplaceAll(base, "-", "_") != name {
			continue
		}
		if !path.IsAbs(file) {
			file = path.Join("/"+dir, file)
		}
		file = strings.TrimPrefix(path.Clean(file), "/")
		b, err := fs.ReadFile(fsys, file)
		if err != nil {
			return "", nil, fmt.Errorf("read /%s: %w", file, bare(err))
		}
		m, err := kimage.ParseModule(b)
		if err != nil {
			return "", nil, fmt.Errorf("read /%s: %w", file, err)
		}
		return file, m, nil
	}
	return "", nil, fmt.Errorf("/%s/modules.dep does not list it", dir)
}
