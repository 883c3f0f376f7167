package main

import (
	"crypto/sha256"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"livepatch/internal/build"
	"livepatch/internal/compose"
	"livepatch/internal/pack"
)

func mergeCommand() *cli.Command {
	return &cli.Command{
		Name: "merge", Usage: "make one package of several", ArgsUsage: "PKG PKG...", Category: groupBuild,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Required: true, Usage: "package `FILE` to write"},
			&cli.StringFlag{Name: "name", Usage: "`NAME` of the patch (default: that of the package file)"},
			signFlag(),
			jsonFlag(),
		},
		Description: `
Puts patches of programs that were made apart into one package, which is applied
and reverted as one. Payloads stay byte for byte what they are. A function that
several packages replace by the same code is taken once; one that they replace
differently is refused, and so are variables that several of them bring. The
record of how each was made is kept. Signatures are not: sign what is merged.

Modules of kernels are not merged: build one package with all patches.

Examples:
  livepatch merge -o all.lpatch fix-a.lpatch fix-b.lpatch
  livepatch merge -o all.lpatch --key release.key fix-*.lpatch`,
		Action: merge,
	}
}

func merge(c *cli.Context) error {
	args, err := takeArgs(c, 2, -1)
	if err != nil {
		return err
	}
	p := newPrinter(c)
	key, err := signingKey(c)
	if err != nil {
		return err
	}
	var parts []compose.Part
	for _, path := range args {
		pkg, b, err := readPackage(path)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(b)
		parts = append(parts, compose.Part{File: filepath.Base(path), SHA256: sum[:], Package: pkg})
	}
	pkg, err := compose.Merge(packageName(c), version, parts)
	if err != nil {
		return err
	}
	if !key.IsZero() {
		if err := pkg.Sign(key); err != nil {
			return err
		}
	}
	data, err := pack.Write(pkg)
	if err != nil {
		return err
	}
	if err := writeFile(c.String("output"), data); err != nil {
		return err
	}
	return printCreated(p, c.String("output"), &build.Result{Package: pkg}, data)
}
