package main

import (
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"livepatch/internal/compile"
)

func ccCommand() *cli.Command {
	return &cli.Command{
		Name: "cc", Usage: "run a compiler and record how it was called", Category: groupBuild,
		ArgsUsage: "-- COMPILER ARGUMENTS...",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "db", Required: true, Usage: "compile database `FILE` to add to (compile_commands.json)"},
		},
		Description: `
Stands for the compiler in any build. What the command compiles is added to the
database, one entry a source, before the compiler takes the place of this
process: its input, output, signals and exit code are its own. Commands that
compile nothing are run and not recorded. The last entry of an object counts.

Examples:
  make CC="livepatch cc --db $PWD/compile_commands.json -- gcc"
  ./configure CC="livepatch cc --db $PWD/compile_commands.json -- ccache gcc"`,
		Action: func(c *cli.Context) error {
			args, err := takeArgs(c, 1, -1)
			if err != nil {
				return err
			}
			database, err := filepath.Abs(c.String("db"))
			if err != nil {
				return err
			}
			program, err := os.Executable()
			if err != nil {
				return err
			}
			return compile.RunRecorded(database, args, []string{program, "cc", "--db", database, "--"})
		},
	}
}
