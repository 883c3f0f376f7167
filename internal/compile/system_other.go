//go:build !unix

package compile

import (
	"errors"
	"os"
	"os/exec"
)

func lockFile(*os.File) error { return errors.ErrUnsupported }

func replaceProcess(string, []string) error { return errors.ErrUnsupported }

func ownGroup(*exec.Cmd) {}
