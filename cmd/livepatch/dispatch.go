package main

import (
	"slices"

	"github.com/urfave/cli/v2"

	"livepatch/manifest"
	"livepatch/trampoline"
)

func dispatchFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "dispatch", Value: string(trampoline.Direct),
		Usage: "the `WAY` of a call to the replacement, in processes: direct (a jump of each function's own), gated (all functions switch by one byte), shared (one handler and a table) or slot (a record that the NOPs before the function name); in kernels of flavour direct: direct or shared",
	}
}

// kernelDispatch refuses ways that kernels do not have.
func kernelDispatch(c *cli.Context, way trampoline.Dispatch) error {
	switch {
	case way == trampoline.Direct, way == trampoline.Shared && c.String("flavour") != manifest.FlavourKLP:
		return nil
	case way == trampoline.Shared:
		return hinted(usageErrorf("--dispatch shared goes with --flavour direct"), "the livepatch core has a way of its own, which needs no --dispatch")
	}
	return hinted(usageErrorf("--dispatch %s is for programs", way), "kernels have direct and, with --flavour direct, shared")
}

// dispatch is what --dispatch says.
func dispatch(c *cli.Context) (trampoline.Dispatch, error) {
	d := trampoline.Dispatch(c.String("dispatch"))
	if !slices.Contains(trampoline.Dispatches, d) {
		return "", usageErrorf("--dispatch %q is not known", d)
	}
	return d, nil
}
