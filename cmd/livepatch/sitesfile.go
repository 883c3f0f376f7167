package main

import (
	"debug/elf"
	"errors"
	"fmt"

	"livepatch/elfpatch"
	"livepatch/fentry"
	"livepatch/internal/image"
	"livepatch/internal/kimage"
)

// sitesFile is an open file whose sites are asked for.
type sitesFile struct {
	path  string
	file  *elfpatch.File
	image *image.Image // nil for what had to be unpacked
	close func() error
}

// openForSites opens an ELF file as it is, and unpacks kernels and modules. A
// kernel without symbols has them in another table, which kimage decodes.
func openForSites(path string) (*sitesFile, error) {
	img, err := image.Open(path)
	if err != nil {
		return unpackForSites(path, err)
	}
	if img.File.Type != elf.ET_REL && len(img.File.Symbols) <= 1 {
		if kind, err := image.KindOf(path); err == nil && kind == kimage.KernelImage {
			img.Close()
			return unpackForSites(path, nil)
		}
	}
	return &sitesFile{path, img.File, img, img.Close}, nil
}

// unpackForSites opens a file that is no ELF file with symbols; notELF is why,
// and what is said if it is no kernel and no module either.
func unpackForSites(path string, notELF error) (*sitesFile, error) {
	k, err := image.OpenKernel(path)
	if err == nil {
		return &sitesFile{path, k.File, nil, k.Close}, nil
	}
	if !errors.Is(err, kimage.ErrNotKernel) {
		return nil, err
	}
	m, err := image.OpenModule(path)
	switch {
	case err == nil:
		return &sitesFile{path, m.File, nil, m.Close}, nil
	case notELF != nil && (errors.Is(err, kimage.ErrNotModule) || errors.Is(err, kimage.ErrNotKernel)):
		return nil, notELF
	}
	return nil, err
}

func sitesOfFile(p *printer, path, debug string, filter fentry.Filter) (*fentry.Report, error) {
	f, err := openForSites(path)
	if err != nil {
		return nil, err
	}
	defer f.close()
	if debug == "" {
		return reportSites(p, f, filter)
	}
	dbg, err := image.Open(debug)
	if err != nil {
		return nil, err
	}
	defer dbg.Close()
	return siteReport(f, dbg, filter)
}

// reportSites reports with the symbols of the separate debug file that is
// installed, if one is. Kernels and modules carry their own.
func reportSites(p *printer, f *sitesFile, filter fentry.Filter) (*fentry.Report, error) {
	if f.image == nil {
		return siteReport(f, nil, filter)
	}
	dbg, err := image.FindDebug(f.image)
	switch {
	case err == nil:
		defer dbg.Close()
	case !errors.Is(err, image.ErrNoDebug):
		p.Warn("%v", err)
	}
	return siteReport(f, dbg, filter)
}

func siteReport(f *sitesFile, dbg *image.Image, filter fentry.Filter) (r *fentry.Report, err error) {
	err = image.Guard(func() (err error) {
		opt := fentry.Options{StructSize: structSizes(f.file)}
		if dbg != nil {
			opt.Debug = dbg.File
		}
		r, err = fentry.NewReport(f.path, f.file, opt, filter)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", f.path, err)
	}
	return r, nil
}

// structSizes returns the sizes of a linked kernel's structures by its type
// information, which is read when the first is asked for. Modules name those
// of the kernel instead of holding them.
func structSizes(f *elfpatch.File) func(name string) (uint64, bool) {
	types := f.Section(".BTF")
	if f.Type == elf.ET_REL || types == nil {
		return nil
	}
	var abi *kimage.ABI
	return func(name string) (uint64, bool) {
		if abi == nil {
			var err error
			if abi, err = kimage.ABIFromBTF(types.Data, f.Machine); err != nil {
				abi = &kimage.ABI{}
			}
		}
		s, ok := abi.Structs[name]
		return uint64(s.Size), ok && s.Size > 0
	}
}
