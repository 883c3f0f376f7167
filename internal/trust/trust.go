// Package trust reads and writes the key files of a machine, and finds out
// whether somebody other than the user and root could have changed them.
package trust

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"livepatch/internal/refusal"
	"livepatch/internal/sign"
)

// DefaultDir is the trust directory of the system. If it is there, packages are
// applied only if one of its keys has signed them.
const DefaultDir = "/etc/livepatch/trusted.d"

// publicSuffix ends the names of public keys.
const publicSuffix = ".pub"

// ReadPublic reads a public key that nobody else can change.
func ReadPublic(path string) (sign.NamedKey, error) {
	b, _, err := readKey(path)
	if err != nil {
		return sign.NamedKey{}, err
	}
	key, err := sign.ParsePublic(b)
	if err != nil {
		return sign.NamedKey{}, fmt.Errorf("read %s: %w", path, err)
	}
	return sign.NamedKey{Name: path, Key: key}, nil
}

// ReadPrivate reads a private key that nobody else can read.
func ReadPrivate(path string) (sign.PrivateKey, error) {
	b, mode, err := readKey(path)
	if err != nil {
		return sign.PrivateKey{}, err
	}
	key, err := sign.ParsePrivate(b)
	if err != nil {
		return sign.PrivateKey{}, fmt.Errorf("read %s: %w", path, err)
	}
	if permissions && mode&0o077 != 0 {
		return sign.PrivateKey{}, refusal.New(refusal.KeyUnsafe, path, "others can read it: mode %04o, not 0600", mode)
	}
	return key, nil
}

// ReadDir reads the trust directory at a path. There is none, and no error, if
// nothing is there.
func ReadDir(path string) (*sign.Directory, error) {
	entries, err := os.ReadDir(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", path, bare(err))
	}
	if err := guarded(path); err != nil {
		return nil, err
	}
	d := &sign.Directory{Path: path}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), publicSuffix) {
			continue
		}
		key, err := ReadPublic(filepath.Join(path, e.Name()))
		if err != nil {
			return nil, err // what a directory says is known only if all of it is
		}
		d.Keys = append(d.Keys, key)
	}
	return d, nil
}

// readKey reads a key file and its permissions. What was opened is what is
// looked at and read.
func readKey(path string) (b []byte, mode fs.FileMode, err error) {
	fi, err := os.Stat(path) // opening a pipe would wait for its other end
	if err == nil && !fi.Mode().IsRegular() {
		err = errors.New("it is no regular file")
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read %s: %w", path, bare(err))
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, fmt.Errorf("read %s: %w", path, bare(err))
	}
	defer f.Close()
	if fi, err = f.Stat(); err != nil {
		return nil, 0, fmt.Errorf("read %s: %w", path, bare(err))
	}
	if err := guarded(path); err != nil {
		return nil, 0, err
	}
	if why := changeable(fi); why != "" {
		return nil, 0, refusal.New(refusal.KeyUnsafe, path, "%s can change it", why)
	}
	b, err = io.ReadAll(io.LimitReader(f, sign.MaxKeyFile+1))
	if err != nil {
		return nil, 0, fmt.Errorf("read %s: %w", path, bare(err))
	}
	return b, fi.Mode().Perm(), nil
}

// guarded refuses a path on the way to which somebody else can put something
// else in the place of what is there.
func guarded(path string) error {
	abs, err := filepath.Abs(path)
	if err == nil {
		err = walk(abs)
	}
	var unsafe refusal.Refusal
	if err == nil || errors.As(err, &unsafe) {
		return err
	}
	return fmt.Errorf("look at %s: %w", path, bare(err))
}

// WriteNew writes a private key and, beside it with the suffix .pub, its public
// half. Neither file may be there before; both are written whole or not at all.
func WriteNew(path string, key sign.PrivateKey) error {
	pub := path + publicSuffix
	if _, err := os.Lstat(pub); err == nil {
		return fmt.Errorf("write %s: %w", pub, fs.ErrExist)
	}
	if err := writeNew(path, key.PEM(), 0o600); err != nil {
		return err
	}
	if err := writeNew(pub, key.Public().PEM(), 0o644); err != nil {
		return errors.Join(err, bare(os.Remove(path)))
	}
	return nil
}

// writeNew writes a file beside its place and gives it its name, which fails if
// something has it already.
func writeNew(path string, data []byte, mode fs.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".livepatch-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, bare(err))
	}
	defer func() {
		f.Close()
		os.Remove(f.Name())
		if err != nil {
			err = fmt.Errorf("write %s: %w", path, bare(err))
		}
	}()
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = f.Chmod(mode); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	return os.Link(f.Name(), path)
}

// bare drops the operation and the path that the os package puts before an
// error; the caller names both.
func bare(err error) error {
	switch e := err.(type) {
	case *fs.PathError:
		return e.Err
	case *os.LinkError:
		return e.Err
	}
	return err
}
