//go:build !linux || (!amd64 && !arm64)

package process

import (
	"fmt"
	"os/exec"
	"runtime"

	"livepatch/internal/pack"
)

// On other systems nothing can be done; the tree builds.
func unsupported() error {
	return fmt.Errorf("processes cannot be patched on %s/%s yet: the loader runs on linux/amd64 and linux/arm64", runtime.GOOS, runtime.GOARCH)
}

type thread struct{}

func Apply([]int, *pack.Package, Options) (*Result, error) { return nil, unsupported() }

func Verify(int, *pack.Package, Options) error { return unsupported() }

func Revert(int, string, Options) (*Result, error) { return nil, unsupported() }

func Remove([]int, Removal, Options) (*Result, error) { return nil, unsupported() }

func Retarget([]int, *pack.Package, Options) (*Result, error) { return nil, unsupported() }

func Reclaim([]int, string, Options) (*Reclaimed, error) { return nil, unsupported() }

func Repair([]int, Remedy, Options) (*Repaired, error) { return nil, unsupported() }

func Status(int) (*Report, error) { return nil, unsupported() }

func Symbols(int) ([]SymbolFile, error) { return nil, unsupported() }

func Conflicts(int, *pack.Package) ([]Conflict, error) { return nil, unsupported() }

func Running(string) func(int) bool { return nil }

func InService(string) func(int) bool { return nil }

func All() ([]int, error) { return nil, unsupported() }

func Those(func(int) bool) ([]int, error) { return nil, unsupported() }

func PatchAtStart(Start, []*pack.Package, func() error, func(error) int) error { return unsupported() }

func become(*Launch, *request, int, func() error) error { return unsupported() }

func detached(*exec.Cmd) {}

func Look(int, func(*Seen)) error { return unsupported() }

func Program(int) (File, error) { return File{}, unsupported() }

func Identify(int) (Life, error) { return Life{}, unsupported() }
