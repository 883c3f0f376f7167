package image

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"
)

// debugDirs are the directories below which distributions install separate
// debug files.
var debugDirs = []string{"/usr/lib/debug"}

// ErrNoDebug is what FindDebug returns when there is no debug file.
var ErrNoDebug = errors.New("no separate debug file found")

// FindDebug opens the separate debug file of img: by build-id below each of dirs
// (/usr/lib/debug when there are none), then by the name in .gnu_debuglink beside the
// image, in .debug beside it and below each of dirs. A file whose build-id or
// checksum does not fit is passed over; if nothing fits, the error wraps
// ErrNoDebug and names what was passed over.
func FindDebug(img *Image, dirs ...string) (*Image, error) {
	if len(dirs) == 0 {
		dirs = debugDirs
	}
	id, err := img.File.BuildID()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", img.Path, err)
	}
	var misfits []error
	for _, c := range candidates(img, id, dirs) {
		dbg, err := c.open(img, id)
		switch {
		case err == nil:
			return dbg, nil
		case !errors.Is(err, fs.ErrNotExist):
			misfits = append(misfits, err)
		}
	}
	return nil, errors.Join(append([]error{fmt.Errorf("%s: %w", img.Path, ErrNoDebug)}, misfits...)...)
}

// candidate is a file that may be the debug file. With checkCRC its contents
// must have the checksum crc.
type candidate struct {
	path     string
	checkCRC bool
	crc      uint32
}

func candidates(img *Image, id []byte, dirs []string) []candidate {
	var c []candidate
	if len(id) >= 2 {
		h := hex.EncodeToString(id)
		for _, d := range dirs {
			c = append(c, candidate{path: filepath.Join(d, ".build-id", h[:2], h[2:]+".debug")})
		}
	}
	name, crc, ok := img.File.Debuglink()
	if !ok || name != filepath.Base(name) || name == "." || name == ".." {
		return c // a link with a path in it is not what objcopy writes
	}
	dir := filepath.Dir(img.Path)
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	places := []string{dir, filepath.Join(dir, ".debug")}
	for _, d := range dirs {
		places = append(places, filepath.Join(d, dir))
	}
	for _, p := range places {
		c = append(c, candidate{filepath.Join(p, name), true, crc})
	}
	return c
}

func (c candidate) open(img *Image, id []byte) (*Image, error) {
	dbg, err := Open(c.path)
	if err != nil {
		return nil, err
	}
	if err := c.check(dbg, img, id); err != nil {
		dbg.Close()
		return nil, err
	}
	return dbg, nil
}

func (c candidate) check(dbg, img *Image, id []byte) error {
	if dbg.File.Machine != img.File.Machine {
		return fmt.Errorf("%s: is for %v, not %v", c.path, dbg.File.Machine, img.File.Machine)
	}
	return Guard(func() error {
		got, err := dbg.File.BuildID()
		if err != nil {
			return fmt.Errorf("read %s: %w", c.path, err)
		}
		if (got != nil || !c.checkCRC) && !bytes.Equal(got, id) {
			return fmt.Errorf("%s: build-id %x is not %x", c.path, got, id)
		}
		if sum := crc32.ChecksumIEEE(dbg.Bytes); c.checkCRC && sum != c.crc {
			return fmt.Errorf("%s: checksum %08x is not %08x", c.path, sum, c.crc)
		}
		return nil
	})
}
