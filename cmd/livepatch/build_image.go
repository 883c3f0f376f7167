package main

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"livepatch/fentry"
	"livepatch/internal/image"
)

// An imageAhead is the image of a kernel that is read while compilers run, and
// after it the patch sites in it. Both functions wait.
type imageAhead struct {
	path  string
	open  func() (*image.Kernel, error)
	sites func() (*fentry.Finder, error)
}

// readAhead begins to read an image, which stays open until the images are
// closed.
func (o *images) readAhead(path string) *imageAhead {
	a := &imageAhead{path: path, open: sync.OnceValues(func() (*image.Kernel, error) { return image.OpenKernel(path) })}
	a.sites = sync.OnceValues(func() (f *fentry.Finder, err error) {
		img, err := a.open()
		if err != nil {
			return nil, err
		}
		err = image.Guard(func() (err error) {
			f, err = fentry.NewFinder(img.File, fentry.Options{})
			return err
		})
		return f, err
	})
	go a.sites()
	*o = append(*o, closing(func() error {
		a.sites()
		img, err := a.open()
		if err != nil {
			return nil // said where it was wanted
		}
		return img.Close()
	}))
	return a
}

// A kernelIdentity is what compiling takes of an image.
type kernelIdentity struct {
	SHA256  []byte      `json:"sha256"` // of the file
	Release string      `json:"release"`
	Machine elf.Machine `json:"machine"`
	Banner  string      `json:"banner"`
}

func identityOf(img *image.Kernel) kernelIdentity {
	sum := img.Digest()
	return kernelIdentity{sum[:], img.Release, img.Machine, img.Banner}
}

// identityFile is what the identity of an image is kept as, in the directory
// of a prepared kernel.
const identityFile = "image.json"

// identity tells the identity of the image: what was kept of a file with the same bytes,
// without waiting for the image, else what the image says.
func (a *imageAhead) identity(work string) (kernelIdentity, error) {
	var kept kernelIdentity
	if b, err := os.ReadFile(filepath.Join(work, identityFile)); err == nil && json.Unmarshal(b, &kept) == nil {
		sum, err := fileDigest(a.path)
		if err != nil {
			return kept, err
		}
		if bytes.Equal(kept.SHA256, sum) {
			return kept, nil
		}
	}
	img, err := a.open()
	if err != nil {
		return kept, err
	}
	return identityOf(img), nil
}

func fileDigest(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, bare(err))
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, bare(err))
	}
	return h.Sum(nil), nil
}

// keep waits for the image, makes sure that it is the one for which was compiled, and
// keeps its identity for the next time.
func (a *imageAhead) keep(used kernelIdentity, work string) (*image.Kernel, error) {
	img, err := a.open()
	if err != nil {
		return nil, err
	}
	said, err := json.Marshal(identityOf(img))
	if err != nil {
		return nil, err
	}
	want, err := json.Marshal(used)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(work, identityFile)
	kept, err := os.ReadFile(file)
	if err != nil || string(kept) != string(said) {
		if err := writeFile(file, said); err != nil {
			return nil, err
		}
	}
	if string(said) != string(want) {
		return nil, fmt.Errorf("read %s: it is not what was compiled for: the file was changed meanwhile, or %s was", a.path, file)
	}
	return img, nil
}
