package distro

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"livepatch/internal/child"
)

// A Kernel is a directory with the parts of one kernel:
//
//	vmlinuz, config, modules      the image, its configuration, its modules
//	headers                       with .config and Module.symvers
//	kbuild, objtool               the tools of the build
//	source                        the source, as the distribution patched it
//	compiler/here/bin             the compiler, if that part was asked for
//	dbg/vmlinux                   with debug information, if that part was
type Kernel struct {
	Dir     string
	Release string // uname -r
	Version string // of its packages
}

// Path is the place of a part.
func (k *Kernel) Path(part string) string { return filepath.Join(k.Dir, filepath.FromSlash(part)) }

// Options say more than the release.
type Options struct {
	Suite    string // of Debian; "" for the one that the release is of
	Arch     string // "amd64" or "arm64"; "" for that of the release, for a series this machine's
	Compiler bool   // the compiler that the configuration names, too
	Debug    bool   // the image with debug information, too
	Progress func(what string)
}

// ErrNotDebian says that this system cannot fetch packages of Debian.
var ErrNotDebian = errors.New("packages of Debian are fetched with its apt-get and dpkg, which are not here")

// cacheDir is where kernels are kept.
func cacheDir() (string, error) {
	base := os.Getenv("XDG_CACHE_HOME")
	if base == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("find the cache: %w", err)
		}
		base = filepath.Join(home, ".cache")
	}
	return filepath.Join(base, "livepatch", "kernel"), nil
}

// Debian finds Debian's packages of a kernel release, or of the newest one of a
// series, and fetches what is not in the cache yet.
func Debian(ctx context.Context, release string, opt Options) (*Kernel, error) {
	n, err := parseName(release, opt.Suite, opt.Arch)
	if err != nil {
		return nil, err
	}
	cache, err := cacheDir()
	if err != nil {
		return nil, err
	}
	f := &fetcher{name: n, cache: cache, progress: opt.Progress, parts: []string{"image", "headers", "source"}}
	if f.progress == nil {
		f.progress = func(string) {}
	}
	if opt.Compiler {
		f.parts = append(f.parts, "compiler")
	}
	if opt.Debug {
		f.parts = append(f.parts, "dbg")
	}
	if k := f.known(); k != nil {
		return k, nil
	}
	unlock, err := child.Lock(ctx, cache, func() { f.progress("waiting for another process that fetches a kernel") })
	if err != nil {
		return nil, err
	}
	defer unlock.Close()
	if k := f.known(); k != nil { // somebody else was faster
		return k, nil
	}
	if err := f.fetch(ctx); err != nil {
		return nil, fmt.Errorf("fetch Linux %s from Debian's %s: %w", release, n.suite, err)
	}
	if k := f.known(); k != nil {
		return k, nil
	}
	return nil, fmt.Errorf("fetch Linux %s: parts of it are missing in %s", release, cache)
}

// goArch is this machine as Debian calls it.
func goArch() string {
	if runtime.GOARCH == "arm64" {
		return "arm64"
	}
	return "amd64"
}

// link is the name below which the release of a series is remembered.
func (f *fetcher) link() string {
	return filepath.Join(f.cache, f.name.series+"-"+f.name.kind()+"-"+f.name.suite)
}

// known returns the kernel if all parts are in the cache.
func (f *fetcher) known() *Kernel {
	release := f.name.release
	if release == "" {
		to, err := os.Readlink(f.link())
		if err != nil {
			return nil
		}
		release = filepath.Base(to)
	}
	k := &Kernel{Dir: filepath.Join(f.cache, release), Release: release}
	for _, p := range f.parts {
		if _, err := os.Stat(k.Path(".done/" + p)); err != nil {
			return nil
		}
	}
	b, err := os.ReadFile(k.Path("version"))
	if err != nil {
		return nil
	}
	k.Version = strings.TrimSpace(string(b))
	return k
}
