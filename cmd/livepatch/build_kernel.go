package main

import (
	"errors"

	"github.com/urfave/cli/v2"

	"livepatch/internal/build"
	"livepatch/manifest"
)

// buildKernelFlags are the flags of build that only kernels take.
func buildKernelFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "kernel", Usage: "kernel: `RELEASE`, as uname -r prints it"},
		&cli.StringFlag{Name: "kernel-src", Usage: "kernel: source `DIR`"},
	}
}

// buildKernel compiles the objects that the patches touch and opens the image
// and modules that they belong to.
func (o *images) buildKernel(c *cli.Context, record *manifest.Build) (in build.Inputs, err error) {
	return in, errors.New("build: kernels are not there yet")
}
