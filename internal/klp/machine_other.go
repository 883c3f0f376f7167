//go:build !linux

package klp

import "errors"

func thisMachine() (system, error) {
	return nil, errors.New("kernels are patched on Linux only")
}
