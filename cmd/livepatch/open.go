package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"livepatch/elfpatch"
	"livepatch/internal/image"
	"livepatch/internal/kimage"
)

// images are the files that a command has open. What was read from them is
// valid until close.
type images []io.Closer

func (o *images) close() {
	for _, img := range *o {
		img.Close()
	}
}

// open opens a program, a library or an object.
func (o *images) open(path string) (*elfpatch.File, error) {
	img, err := image.Open(path)
	if err != nil {
		return nil, err
	}
	*o = append(*o, img)
	return img.File, nil
}

// errNotKernel says that a file is neither a kernel nor a module of one.
var errNotKernel = errors.New("neither a kernel nor a module of one")

// kernel opens a kernel image or a module: one of both is returned. Any
// other file is errNotKernel.
func (o *images) kernel(path string) (*kimage.Kernel, *kimage.Module, error) {
	kind, err := image.KindOf(path)
	if err != nil {
		return nil, nil, err
	}
	switch kind {
	case kimage.KernelImage:
		k, err := image.OpenKernel(path)
		if err != nil {
			return nil, nil, err
		}
		*o = append(*o, k)
		return k.Kernel, nil, nil
	case kimage.KernelModule:
		m, err := image.OpenModule(path)
		if err != nil {
			return nil, nil, err
		}
		*o = append(*o, m)
		return nil, m.Module, nil
	}
	return nil, nil, fmt.Errorf("read %s: a %s is %w", path, kind, errNotKernel)
}

// modules opens the modules below a directory whose names are wanted, and
// takes those that it finds from wanted. Files are told by their names, which
// are those of the modules.
func (o *images) modules(dir string, wanted map[string]bool) (list []*kimage.Module, err error) {
	top, err := filepath.EvalSymlinks(dir) // a walk does not enter a link
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", dir, bare(err))
	}
	err = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("read %s: %w", path, bare(err))
		}
		name, isModule := moduleFile(d.Name())
		if !isModule || !d.Type().IsRegular() || !wanted[name] {
			return nil
		}
		_, m, err := o.kernel(path)
		switch {
		case err != nil:
			return err
		case m == nil:
			return fmt.Errorf("read %s: this is no module", path)
		}
		list = append(list, m)
		delete(wanted, name)
		return nil
	})
	return list, err
}

// moduleFile returns the name of the module in a file of that name: kbuild
// gives the file the name of the module, with - or _.
func moduleFile(base string) (name string, ok bool) {
	name, rest, ok := strings.Cut(base, ".ko")
	return strings.ReplaceAll(name, "-", "_"), ok && (rest == "" || rest == ".xz" || rest == ".zst" || rest == ".gz")
}

// readSymvers reads the exported symbols of a kernel from Module.symvers.
func readSymvers(path string) (map[string]kimage.Export, error) {
	b, err := readFile(path)
	if err != nil {
		return nil, err
	}
	exports, err := kimage.ParseSymvers(b)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return exports, nil
}
