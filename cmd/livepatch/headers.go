package main

import (
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"livepatch/internal/header"
)

func headersCommand() *cli.Command {
	return &cli.Command{
		Name: "headers", Usage: "write the C headers for authors of kernel patches", Category: groupBuild,
		Flags: []cli.Flag{&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Required: true, Usage: "`DIRECTORY` to write them to"}},
		Description: `
Writes livepatch.h (callbacks, functions and sections to ignore, static calls,
system calls), and kpatch-macros.h and kpatch-syscall.h, which have the same
under the names that existing patches use. Compile the patched sources with
-I DIRECTORY.

Example:
  livepatch headers -o include`,
		Action: func(c *cli.Context) error {
			if _, err := takeArgs(c, 0, 0); err != nil {
				return err
			}
			p, dir := newPrinter(c), c.String("output")
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return bare(err)
			}
			return header.Write(func(name string, data []byte) error {
				path := filepath.Join(dir, name)
				if err := writeFile(path, data); err != nil {
					return err
				}
				p.Printf("wrote %s\n", path)
				return nil
			})
		},
	}
}
