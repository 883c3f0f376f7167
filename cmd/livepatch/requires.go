package main

import (
	"github.com/urfave/cli/v2"

	"livepatch/manifest"
)

func requiresFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "requires", Usage: "program: the new package builds on the package `PKG`, and may replace what that has replaced; repeatable"}
}

// requirements reads the packages that the new one builds on.
func requirements(c *cli.Context, kernel bool) (list []manifest.Requirement, err error) {
	for _, path := range c.StringSlice("requires") {
		pkg, _, err := readPackage(path)
		if err != nil {
			return nil, err
		}
		if kernel || pkg.Manifest.Kernel != nil {
			return nil, hintHelp(usageErrorf("--requires is for packages of programs: the kernel keeps the order of its livepatches itself"), c.Command)
		}
		sum, err := manifest.Digest(pkg.Manifest)
		if err != nil {
			return nil, err
		}
		list = append(list, manifest.Requirement{Name: pkg.Manifest.Name, SHA256: sum[:]})
	}
	return list, nil
}
