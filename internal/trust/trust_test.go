//go:build unix

package trust

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"livepatch/internal/refusal"
	"livepatch/internal/sign"
)

func newKey(t *testing.T, path string) sign.PrivateKey {
	t.Helper()
	key, err := sign.Generate(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if err := WriteNew(path, key); err != nil {
		t.Fatal(err)
	}
	return key
}

func TestWriteNewAndRead(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	key := newKey(t, path)
	for name, want := range map[string]fs.FileMode{"key": 0o600, "key.pub": 0o644} {
		fi, err := os.Stat(filepath.Join(dir, name))
		if err != nil || fi.Mode() != want {
			t.Errorf("%s: mode %v, error %v, want %v", name, fi.Mode(), err, want)
		}
	}
	private, err := ReadPrivate(path)
	if err != nil || private.Public() != key.Public() {
		t.Errorf("the private key reads as another (error %v)", err)
	}
	public, err := ReadPublic(path + ".pub")
	if err != nil || public.Key != key.Public() || public.Name != path+".pub" {
		t.Errorf("the public key reads as another (error %v)", err)
	}
	if list, _ := filepath.Glob(filepath.Join(dir, ".*")); len(list) > 0 {
		t.Errorf("left behind: %v", list)
	}
}

func TestWriteNewOverwritesNothing(t *testing.T) {
	for _, taken := range []string{"key", "key.pub"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, taken), []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
		key, err := sign.Generate(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if err := WriteNew(filepath.Join(dir, "key"), key); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s is taken: error %v", taken, err)
		}
		entries, err := os.ReadDir(dir)
		b, _ := os.ReadFile(filepath.Join(dir, taken))
		if err != nil || len(entries) != 1 || string(b) != "mine" {
			t.Errorf("%s is taken: %d files, content %q", taken, len(entries), b)
		}
	}
}

func TestReadRefusesUnsafe(t *testing.T) {
	for _, tc := range []struct {
		name string
		want string
		edit func(dir string) error
	}{
		{"file of everybody", "key.pub: everybody can change it", func(d string) error { return os.Chmod(d+"/key.pub", 0o646) }},
		{"file of the group", "key.pub: its group can change it", func(d string) error { return os.Chmod(d+"/key.pub", 0o664) }},
		{"directory of everybody", "below it", func(d string) error { return os.Chmod(d, 0o777) }},
		{"directory of the group", "below it", func(d string) error { return os.Chmod(d, 0o775) }},
		{"directory above", "below it", func(d string) error { return os.Chmod(filepath.Dir(d), 0o777) }},
		{"way by a link", "below it", func(d string) error {
			if err := os.Rename(d, d+".real"); err != nil {
				return err
			}
			if err := os.Mkdir(d+".open", 0o700); err != nil {
				return err
			}
			if err := os.Symlink("../dir.real", d+".open/link"); err != nil {
				return err
			}
			if err := os.Chmod(d+".open", 0o777); err != nil {
				return err
			}
			return os.Symlink("dir.open/link", d)
		}},
		{"link to a file", "below it", func(d string) error {
			if err := os.Mkdir(d+".open", 0o700); err != nil {
				return err
			}
			if err := os.Rename(d+"/key.pub", d+".open/key.pub"); err != nil {
				return err
			}
			if err := os.Chmod(d+".open", 0o777); err != nil {
				return err
			}
			return os.Symlink("../dir.open/key.pub", d+"/key.pub")
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "dir")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			newKey(t, dir+"/key")
			if _, err := ReadDir(dir); err != nil {
				t.Fatal(err)
			}
			if err := tc.edit(dir); err != nil {
				t.Fatal(err)
			}
			_, err := ReadPublic(dir + "/key.pub")
			expectUnsafe(t, err, tc.want)
			_, err = ReadDir(dir)
			expectUnsafe(t, err, tc.want)
		})
	}
}

func TestReadRefusesForeignOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	dir := t.TempDir()
	newKey(t, dir+"/key")
	if err := os.Chown(dir+"/key.pub", 12345, -1); err != nil {
		t.Fatal(err)
	}
	_, err := ReadPublic(dir + "/key.pub")
	expectUnsafe(t, err, "user 12345 can change it")
}

func TestReadPrivateRefusesReadable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	newKey(t, path)
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	_, err := ReadPrivate(path)
	expectUnsafe(t, err, "others can read it: mode 0640, not 0600")
}

func expectUnsafe(t *testing.T, err error, want string) {
	t.Helper()
	var r refusal.Refusal
	if !errors.As(err, &r) || r.Code != refusal.KeyUnsafe || !strings.Contains(r.Error(), want) {
		t.Errorf("error %v, want %s with %q", err, refusal.KeyUnsafe, want)
	}
}

func TestReadDir(t *testing.T) {
	dir := t.TempDir()
	if d, err := ReadDir(filepath.Join(dir, "none")); d != nil || err != nil {
		t.Errorf("no directory: %v, error %v", d, err)
	}
	if d, err := ReadDir(dir); err != nil || d == nil || len(d.Keys) != 0 {
		t.Errorf("an empty directory: %v, error %v", d, err)
	}
	a, b := newKey(t, dir+"/a"), newKey(t, dir+"/b")
	d, err := ReadDir(dir) // the private keys beside them are none of its keys
	if err != nil || len(d.Keys) != 2 || d.Keys[0].Key != a.Public() || d.Keys[1].Key != b.Public() {
		t.Fatalf("%v, error %v", d, err)
	}
	// One key that cannot be read makes the whole directory one that cannot.
	if err := os.WriteFile(dir+"/c.pub", bytes.Repeat([]byte("x"), 5000), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadDir(dir); err == nil || !strings.Contains(err.Error(), "c.pub: 4097 bytes are too many") {
		t.Errorf("error %v", err)
	}
	if _, err := ReadDir(dir + "/a"); err == nil {
		t.Error("a file is read as a directory")
	}
	if err := os.Remove(dir + "/c.pub"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir+"/c.pub", 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadDir(dir); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("error %v", err)
	}
}
