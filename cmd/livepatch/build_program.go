package main

import (
	"errors"

	"github.com/urfave/cli/v2"

	"livepatch/internal/build"
	"livepatch/manifest"
)

// buildProgramFlags are the flags of build that only programs take.
func buildProgramFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "src", Usage: "program: source `DIR`"},
	}
}

// buildProgram compiles the objects that the patches touch and opens the
// target.
func (o *images) buildProgram(c *cli.Context, p *printer, record *manifest.Build) (in build.Inputs, err error) {
	return in, errors.New("build: programs are not there yet")
}
