package image

import (
	"crypto/sha256"
	"fmt"

	"livepatch/internal/kimage"
)

// Kernel is an open kernel image. It and all that is taken from it are valid
// until Close.
type Kernel struct {
	*kimage.Kernel
	Path string
	file fileBytes
}

// Module is an open kernel module, valid until Close.
type Module struct {
	*kimage.Module
	Path string
	file fileBytes
}

// OpenKernel opens vmlinux, vmlinuz or an arm64 Image, compressed or not. Large
// files are mapped: as with Open, use them inside Guard where others may
// shorten them.
func OpenKernel(path string) (*Kernel, error) {
	k := &Kernel{Path: path}
	err := k.file.open(path, func(b []byte) (err error) {
		k.Kernel, err = kimage.Parse(b)
		return err
	})
	if err != nil {
		return nil, err
	}
	return k, nil
}

// OpenModule opens a kernel module, compressed or not.
func OpenModule(path string) (*Module, error) {
	m := &Module{Path: path}
	err := m.file.open(path, func(b []byte) (err error) {
		m.Module, err = kimage.ParseModule(b)
		return err
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// Digest is the SHA-256 of the file's bytes, packed as they are.
func (k *Kernel) Digest() [sha256.Size]byte { return sha256.Sum256(k.file.b) }

// Digest is the SHA-256 of the file's bytes, packed as they are.
func (m *Module) Digest() [sha256.Size]byte { return sha256.Sum256(m.file.b) }

// Close gives the file back.
func (k *Kernel) Close() error {
	k.Kernel = nil
	return k.file.close()
}

// Close gives the file back.
func (m *Module) Close() error {
	m.Module = nil
	return m.file.close()
}

// KindOf says whether a file is a program, a kernel, a module or another
// object.
func KindOf(path string) (kimage.Kind, error) {
	var kind kimage.Kind
	var f fileBytes
	err := f.open(path, func(b []byte) (err error) {
		kind, err = kimage.KindOf(b)
		return err
	})
	if err != nil {
		return 0, err
	}
	return kind, f.close()
}

// fileBytes is a file that was read or mapped.
type fileBytes struct {
	b      []byte
	mapped bool
}

// open reads or maps a file and gives its bytes to parse, and closes it again when that
// fails.
func (f *fileBytes) open(path string, parse func([]byte) error) error {
	var err error
	if f.b, f.mapped, err = load(path, mapFrom); err != nil {
		return err
	}
	if err := Guard(func() error { return parse(f.b) }); err != nil {
		f.close()
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

func (f *fileBytes) close() error {
	b, mapped := f.b, f.mapped
	f.b, f.mapped = nil, false
	if !mapped || b == nil {
		return nil
	}
	return unmapFile(b)
}
