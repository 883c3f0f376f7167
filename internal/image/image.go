// Package image opens the ELF files that users have: small ones are read,
// large ones are mapped, and separate debug files are found by build-id or by
// debug link.
package image

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"

	"livepatch/elfpatch"
)

// mapFrom is the size from which a file is mapped instead of read. A map costs
// page faults and lives as long as the file is used; below this size a copy is
// cheaper and safe from writers.
const mapFrom = 64 << 20

// maxSize is the largest file that is opened. No ELF file that a compiler or
// linker wrote comes near it.
const maxSize = 1 << 36

// Image is an open ELF file. File and everything taken from it refer to Bytes;
// they are valid until Close.
type Image struct {
	Path   string
	File   *elfpatch.File
	Bytes  []byte
	mapped bool
}

// Open reads or maps the file and parses it. A mapped file that somebody
// shortens while it is open faults at the missing pages: use it inside Guard.
func Open(path string) (*Image, error) {
	return open(path, mapFrom)
}

func open(path string, mapFrom int64) (*Image, error) {
	b, mapped, err := load(path, mapFrom)
	if err != nil {
		return nil, err
	}
	img := &Image{Path: path, Bytes: b, mapped: mapped}
	err = Guard(func() (err error) {
		img.File, err = elfpatch.Parse(b)
		return err
	})
	if err != nil {
		img.Close()
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return img, nil
}

// load returns the bytes of a regular file and whether they are a map of it.
func load(path string, mapFrom int64) ([]byte, bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, false, err
	}
	switch {
	case !fi.Mode().IsRegular():
		return nil, false, fmt.Errorf("read %s: not a regular file", path)
	case fi.Size() > maxSize || int64(int(fi.Size())) != fi.Size():
		return nil, false, fmt.Errorf("read %s: %d bytes are too many", path, fi.Size())
	case fi.Size() >= mapFrom && fi.Size() > 0:
		b, err := mapFile(f, int(fi.Size()))
		if err == nil {
			return b, true, nil
		}
		if !errors.Is(err, errors.ErrUnsupported) {
			return nil, false, fmt.Errorf("map %s: %w", path, err)
		}
	}
	b := make([]byte, fi.Size())
	if _, err := io.ReadFull(f, b); err != nil {
		return nil, false, fmt.Errorf("read %s: %w", path, err)
	}
	return b, false, nil
}

// Digest is the SHA-256 of the file's bytes.
func (img *Image) Digest() [sha256.Size]byte { return sha256.Sum256(img.Bytes) }

// Close gives the map back. The image must not be used after it.
func (img *Image) Close() error {
	b := img.Bytes
	img.Bytes, img.File = nil, nil
	if !img.mapped || b == nil {
		return nil
	}
	return unmapFile(b)
}

// A FaultError says that a mapped file lost pages while it was read.
type FaultError struct{ Addr uintptr }

func (e *FaultError) Error() string {
	return "the file was shortened or became unreadable while it was being read"
}

// Guard calls f and turns a memory fault in it (not in goroutines that it
// starts) into a *FaultError, so that a file that is shortened under a map does not
// end the program. Other panics pass through.
func Guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch r := recover().(type) {
		case nil:
		case interface {
			runtime.Error
			Addr() uintptr
		}:
			err = &FaultError{Addr: r.Addr()}
		default:
			panic(r)
		}
	}()
	return f()
}
