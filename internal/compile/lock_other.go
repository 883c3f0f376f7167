//go:build !unix

package compile

import (
	"errors"
	"os"
)

func lockFile(*os.File) error { return errors.ErrUnsupported }

func replaceProcess(string, []string) error { return errors.ErrUnsupported }
