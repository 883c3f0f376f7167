package main

import (
	"runtime"
	"runtime/debug"

	"github.com/urfave/cli/v2"
)

// version is the version of the program; the manifest of a package names it.
const version = "0.1.0"

func versionCommand() *cli.Command {
	return &cli.Command{
		Name: "version", Usage: "print the version", Category: groupOther,
		Flags: []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			if _, err := takeArgs(c, 0, 0); err != nil {
				return err
			}
			return printVersion(newPrinter(c))
		},
	}
}

func printVersion(p *printer) error {
	commit := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				commit = s.Value
			}
		}
	}
	if p.json {
		return p.JSON(map[string]string{
			"version": version, "commit": commit,
			"go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH,
		})
	}
	if commit != "" {
		commit = " (" + commit[:min(12, len(commit))] + ")"
	}
	p.Printf("livepatch %s%s %s %s/%s\n", version, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return nil
}
