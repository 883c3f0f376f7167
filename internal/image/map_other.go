//go:build !unix

package image

import (
	"errors"
	"os"
)

// Elsewhere files are read whole.
func mapFile(*os.File, int) ([]byte, error) { return nil, errors.ErrUnsupported }

func unmapFile([]byte) error { return nil }
