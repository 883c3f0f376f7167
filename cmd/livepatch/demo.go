package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"livepatch/internal/demo"
)

func demoCommand() *cli.Command {
	return &cli.Command{
		Name:     "demo",
		Usage:    "patch a server that comes along, while it works",
		Category: groupOther,
		Description: `Starts a small server with several threads, lets clients ask it all the time,
patches it, and takes the patch back. Every reply is checked. Needs Linux on
x86-64 and neither root nor a compiler; takes a few seconds.

Example:
  livepatch demo`,
		Action: func(c *cli.Context) error {
			if _, err := takeArgs(c, 0, 0); err != nil {
				return err
			}
			p := newPrinter(c)
			if err := demo.Run(c.Context, version, storyteller{p}); err != nil {
				return fmt.Errorf("demo: %w", err)
			}
			return nil
		},
	}
}

// storyteller prints the lines of the demo.
type storyteller struct{ p *printer }

func (s storyteller) Step(verb, format string, args ...any) { s.line(cyan, verb, format, args) }
func (s storyteller) Good(verb, format string, args ...any) { s.line(green, verb, format, args) }
func (s storyteller) Bad(verb, format string, args ...any)  { s.line(red, verb, format, args) }

func (s storyteller) line(st style, verb, format string, args []any) {
	s.p.Printf("%s %s\n", s.p.Paint(st, fmt.Sprintf("%-7s", verb)), fmt.Sprintf(format, args...))
}
