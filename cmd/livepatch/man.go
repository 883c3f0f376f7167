package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
)

func manCommand() *cli.Command {
	return &cli.Command{
		Name: "man", Usage: "print the manual page", Category: groupOther,
		Description: `
The page is in roff: livepatch man | man -l -
It is made from the commands and their options; docs/livepatch.1 is a copy.`,
		Action: func(c *cli.Context) error {
			if _, err := takeArgs(c, 0, 0); err != nil {
				return err
			}
			newPrinter(c).Printf("%s", manPage(c.App))
			return nil
		},
	}
}

// manPage is the manual page of the program, in the man macros of roff.
func manPage(app *cli.App) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line(`.TH LIVEPATCH 1 "" "livepatch %s" "User Commands"`, version)
	line(".SH NAME\nlivepatch \\- %s", roff(app.Usage))
	line(".SH SYNOPSIS\n.B livepatch\n.I COMMAND\n[\\fIOPTIONS\\fR] [\\fIARGUMENTS\\fR]")
	line(".SH DESCRIPTION\n%s", roff(manDescription))
	line(".SH COMMANDS")
	for _, cmd := range app.Commands {
		if cmd.Hidden {
			continue
		}
		line(".SS livepatch %s %s", roff(cmd.Name), roff(cmd.ArgsUsage))
		line("%s", roff(sentence(cmd.Usage)))
		if cmd.Description != "" {
			line(".PP\n.nf\n%s\n.fi", roff(cmd.Description))
		}
		for _, f := range cmd.Flags {
			if names := f.Names(); names[0] != "help" {
				line(".TP\n%s", manFlag(f))
			}
		}
	}
	line(".SH EXIT STATUS")
	for _, row := range exitMeanings {
		line(".TP\n.B %d\n%s", row.code, roff(row.text))
	}
	line(".SH ENVIRONMENT\n.TP\n.B NO_COLOR\nWhen set and not empty, nothing is coloured.")
	return b.String()
}

const manDescription = `Compares object files before and after a change, finds the patch sites of ELF files, builds patch packages, and applies them to running processes and reverts them. Results go to standard output; errors, warnings and hints to standard error. Options may stand before or after arguments; after -- everything is an argument.`

var exitMeanings = []struct {
	code int
	text string
}{
	{exitDone, "Done."},
	{exitError, "An error."},
	{exitUsage, "The command line is wrong."},
	{exitRefused, "Refused: the reasons are listed, each with a code that livepatch explain knows; or the answer to a question is no."},
	{exitNothing, "There is nothing to patch."},
	{exitBusy, "The target is busy; nothing was changed; try again."},
}

func sentence(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:] + "."
}

func manFlag(f cli.Flag) string {
	d, ok := f.(cli.DocGenerationFlag)
	if !ok {
		return ""
	}
	value, usage := "", d.GetUsage()
	if d.TakesValue() {
		value = "VALUE"
		if parts := strings.SplitN(usage, "`", 3); len(parts) == 3 {
			value = parts[1]
		}
		value = " \\fI" + roff(value) + "\\fR"
	}
	var names []string
	for _, n := range f.Names() {
		names = append(names, "\\fB"+roff(dashed(n))+"\\fR"+value)
	}
	return strings.Join(names, ", ") + "\n" + roff(strings.ReplaceAll(usage, "`", ""))
}

// roff escapes text: backslashes, hyphens that are typed, and control
// characters of roff at the start of a line.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
