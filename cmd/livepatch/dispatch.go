package main

import (
	"slices"

	"github.com/urfave/cli/v2"

	"livepatch/trampoline"
)

func dispatchFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "dispatch", Value: string(trampoline.Direct),
		Usage: "the `WAY` of a call to the replacement, in processes: direct (a jump of each function's own), gated (all functions switch by one byte), shared (one handler and a table) or slot (a record that the NOPs before the function name)",
	}
}

var errKernelDispatch = usageErrorf("--dispatch is for programs; a kernel redirects by itself")

// dispatch is what --dispatch says.
func dispatch(c *cli.Context) (trampoline.Dispatch, error) {
	d := trampoline.Dispatch(c.String("dispatch"))
	if !slices.Contains(trampoline.Dispatches, d) {
		return "", usageErrorf("--dispatch %q is not known", d)
	}
	return d, nil
}
